//! The actor system: one file an actor.
//!
//! | actor | owns |
//! |---|---|
//! | [`supervisor::Supervisor`] | the life of the others; restarts them, has their jobs put back |
//! | [`poller::QueuePoller`] | claims jobs, only as many as there is room and budget for |
//! | [`job_supervisor::JobSupervisor`] | the table of runs: starts, leases, stops, settles |
//! | [`job::Job`] | one run: drives the agent, journals each step before acting on it |
//! | [`llm::Llm`] | model calls under layer 1 |
//! | [`github::Github`] | tokens, reads, effects under layers 1b and 2 |
//! | [`accountant::RateAccountant`] | budgets, gates, breakers, permits |
//! | [`alerts::Alerts`] | tells a webhook of what a person must know |
//! | [`reporter::Reporter`] | every mailbox's meters in the log |
//!
//! Every actor is reached through an [`address::Address`], which survives its restarts and meters
//! every message; every mailbox is bounded; no handler blocks. An actor holds no state that cannot
//! be rebuilt from the store and the configuration: that is what makes restarting it safe.

pub mod accountant;
pub mod address;
pub mod alerts;
pub mod alone;
pub mod callers;
pub mod calls;
mod dice;
mod env;
pub mod github;
pub mod github_callers;
mod held;
pub mod job;
pub mod job_supervisor;
pub mod llm;
pub mod meter;
mod persist;
pub mod poller;
pub mod reporter;
mod run;
pub mod settings;
mod stop;
pub mod supervisor;
mod system;
#[cfg(test)]
mod tests;
mod watch;

pub use dice::Dice;
pub use settings::Settings;
pub use system::{Deps, Running, start};
