//! Simulated OpenAI and GitHub, as strict as the real ones, with a git remote.
//!
//! A [`World`] answers over real HTTP ([`World::serve`]) and in the process
//! ([`World::transport`]), with the same state and the same logic. Everything in it that waits does so
//! on tokio's clock, so a test that pauses the clock runs hours in milliseconds; everything that is
//! left to chance comes from its seed. Whoever is tested with it must never know that it exists.
//!
//! | address | what |
//! |---|---|
//! | `/v1/chat/completions`, `/v1/models` | the model server |
//! | `/repos/...`, `/app/...`, ..., also under `/api/v3` | GitHub's REST API |
//! | `/{owner}/{name}.git` | the git remote, smart HTTP |
//! | `/_sim/records`, `/_sim/issues`, `/_sim/faults`, `/_sim/weather`, `/_sim/scripts` | the simulation's own: what happened, what shall go wrong |

mod admin;
mod config;
mod faults;
pub mod fixture;
mod git;
mod github;
mod limits;
mod model;
mod openai;
mod records;
mod reply;
mod route;
mod serve;
mod transport;
mod world;

pub use config::{
    GitForm, GithubConfig, Latency, Level, LimitKind, LlmConfig, Permissions, Repository, RetryAfter,
    SIMULATION_ONLY_PRIVATE_KEY, SIMULATION_ONLY_PUBLIC_KEY, Weather, WorldConfig,
};
pub use faults::{Fault, FaultRule, Operation, Server, Target};
pub use git::{GitFailure, Push, Snapshot};
pub use model::{ScriptFor, ScriptedAnswer};
pub use records::{
    BranchRecord, ChatRecord, CommentRecord, Injected, PullRecord, Records, Rejection, TokenRecord,
};
pub use serve::ServeHandle;
pub use world::{World, WorldClock};

/// Why a world could not be made, or asked.
#[derive(Debug, thiserror::Error)]
pub enum SimError {
    /// A git command failed, or git is not installed.
    #[error("git failed: {0}; the simulation needs the git program in PATH")]
    Git(String),
    /// The App's public key cannot be used.
    #[error("the app's public key is not RSA in PEM: {0}")]
    AppKey(String),
}
