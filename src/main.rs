//! The steadfast binary: everything is in the library, so that tests and the demo can use it.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Before there is a thread.
    if let Some(code) = steadfast_agent::jail::confined::entered() {
        return ExitCode::from(code);
    }
    steadfast::cli::main().into()
}
