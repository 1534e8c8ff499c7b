//! Running git so that a hostile repository runs nothing and a token reaches git alone.
//!
//! The git directory lies outside the workspace; every call names both, reads no configuration but
//! its own, and runs no hook, filter or file system monitor. What is in the workspace is data.

mod checks;
mod repository;
mod run;
mod settings;

pub(crate) use repository::Repository;
pub(crate) use run::{io, unusable};
pub use settings::{GitSettings, Identity};

/// What came of publishing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Published {
    /// The branch stands on the remote with this commit.
    Pushed {
        /// Its name: the one asked for, or with a suffix where that is somebody else's.
        branch: String,
        /// The commit at its head.
        sha: String,
    },
    /// The workspace is as its base commit.
    Nothing,
    /// The change must not be pushed: why, for the model and for a person.
    Refused(String),
}
