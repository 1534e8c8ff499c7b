//! GitHub App authentication and the REST calls that an agent's effects need.
//!
//! [`GithubClient`] sends each call once and says by its [`Failure`](steadfast_core::failure::Failure)
//! what an unhappy answer means; whoever calls it repeats, waits or looks. It follows redirects on
//! its own host, spaces writes, and shares one installation token among all who need it.

mod app;
mod calls;
mod client;
mod comments;
mod effects;
mod pulls;
mod secondary;
mod send;
mod settings;
mod token;
mod wire;
mod writes;

#[cfg(test)]
mod tests;

pub use calls::{Identity, Repository};
pub use client::{Exchange, GithubClient, Repo};
pub use comments::Comment;
pub use effects::{MAX_TEXT, MAX_TITLE, with_marker};
pub use pulls::{NewPull, Pull, PullState};
pub use settings::{Credentials, Settings, UnusableSettings};
pub use token::AccessToken;
