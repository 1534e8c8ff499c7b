//! The steadfast binary: everything is in the library, so that tests and the demo can use it.

use std::process::ExitCode;

fn main() -> ExitCode {
    steadfast::cli::main().into()
}
