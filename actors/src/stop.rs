//! How a run is told to stop: softly, after the step in flight, or at once; and why.

use std::sync::{Arc, OnceLock};

use tokio_util::sync::CancellationToken;

use crate::calls::Patience;

/// Why a run stops. The first reason given at its strength is the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The process drains: the job goes back with its place kept.
    Drain,
    /// Somebody called the job off.
    Cancelled,
    /// The lease is no longer ours: nothing more may be done.
    LeaseLost,
    /// The store has been silent for so long that the lease may be somebody else's.
    StoreAway,
}

/// The means to stop one run; clones stop the same.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    soft: CancellationToken,
    hard: CancellationToken,
    reason: Arc<OnceLock<Reason>>,
}

impl Stop {
    pub(crate) fn new() -> Self {
        let hard = CancellationToken::new();
        // What stops at once stops softly too.
        let soft = hard.child_token();
        Stop { soft, hard, reason: Arc::new(OnceLock::new()) }
    }

    /// Drain: begin nothing new.
    pub(crate) fn softly(&self) {
        self.soft.cancel();
    }

    /// Stop at once. The first reason stands.
    pub(crate) fn now(&self, reason: Reason) {
        let _first_stands = self.reason.set(reason);
        self.hard.cancel();
    }

    /// Why to stop, if to stop.
    pub(crate) fn reason(&self) -> Option<Reason> {
        let hard = self.hard.is_cancelled().then(|| self.reason.get().copied().unwrap_or(Reason::Drain));
        hard.or_else(|| self.soft.is_cancelled().then_some(Reason::Drain))
    }

    /// Whether even what is in flight is to be dropped.
    pub(crate) fn at_once(&self) -> bool {
        self.hard.is_cancelled()
    }

    /// For calls and tools.
    pub(crate) fn patience(&self) -> Patience {
        Patience { soft: self.soft.clone(), hard: self.hard.clone() }
    }
}
