//! Running git so that a hostile repository runs nothing and a token reaches git alone.

mod settings;

pub use settings::{GitSettings, Identity};
