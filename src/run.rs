//! `steadfast run`: the worker. Wires configuration, store and clients to the actors.

use crate::config::Loaded;
use crate::exit::Exit;
use crate::logs::Redactor;

/// Runs until asked to stop (SIGTERM, SIGINT), drains, and says how it went. Blocks: starts the
/// actor system of its own and opens the store in it. Tokens that come up while running are told to
/// `redactor`.
pub fn run(loaded: Loaded, redactor: Redactor) -> anyhow::Result<Exit> {
    let _ = (loaded, redactor);
    anyhow::bail!("the worker is not wired yet")
}
