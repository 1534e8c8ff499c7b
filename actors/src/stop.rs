//! How a run is told to stop: softly, after the step in flight, or at once; and why. And until when
//! it may take its lease for its own.

use std::sync::{Arc, OnceLock};

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::calls::Patience;
use crate::watch;

/// Why a run stops. The first reason given at its strength is the one that counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reason {
    /// The process drains: the job goes back with its place kept.
    Drain,
    /// Somebody called the job off.
    Cancelled,
    /// The lease is no longer ours: nothing more may be done.
    LeaseLost,
}

/// The means to stop one run; clones stop the same.
#[derive(Clone, Debug)]
pub(crate) struct Stop {
    soft: CancellationToken,
    hard: CancellationToken,
    reason: Arc<OnceLock<Reason>>,
    /// What is left to do after a stop has a stop of its own, which hears what this one hears.
    rest: Arc<OnceLock<Stop>>,
    leased: Leased,
}

/// Until when this process's leases are surely its own, by its monotonic clock: the time at which
/// the last good renewal was asked for, and the lease's length less a margin. A store that is away,
/// or a process that was stopped, lets it pass; then nothing is sent until a renewal succeeds.
pub(crate) type Leased = watch::Receiver<Instant>;

/// Waits until the leases are surely ours.
pub(crate) async fn leased(until: &Leased) {
    let mut until = until.clone();
    // The other end outlives every run; without it nobody renews, and nothing more may be sent.
    if until.wait_for(|until| Instant::now() < *until).await.is_err() {
        std::future::pending().await
    }
}

/// Whether the leases are surely ours.
pub(crate) fn is_leased(until: &Leased) -> bool {
    Instant::now() < until.get()
}

/// Waits until the leases may be over.
pub(crate) async fn lapsed(until: &Leased) {
    let mut until = until.clone();
    loop {
        let end = until.get_and_see();
        if end <= Instant::now() {
            return;
        }
        tokio::select! {
            biased;
            () = tokio::time::sleep_until(end) => {}
            // Without the other end nobody renews: the end stands.
            Ok(()) = until.changed() => {}
        }
    }
}

impl Stop {
    pub(crate) fn new(leased: Leased) -> Self {
        let hard = CancellationToken::new();
        // What stops at once stops softly too.
        let soft = hard.child_token();
        Stop { soft, hard, reason: Arc::default(), rest: Arc::default(), leased }
    }

    /// One that nobody has told to stop yet, for what is left to do after a stop: it hears of a
    /// drain and of a lost lease as this one does.
    pub(crate) fn renewed(&self) -> Self {
        self.rest.get_or_init(|| Stop::new(self.leased.clone())).clone()
    }

    /// Drain: begin nothing new.
    pub(crate) fn softly(&self) {
        self.soft.cancel();
        if let Some(rest) = self.rest.get() {
            rest.softly();
        }
    }

    /// Stop at once. The first reason stands.
    pub(crate) fn now(&self, reason: Reason) {
        let _first_stands = self.reason.set(reason);
        self.hard.cancel();
        if let Some(rest) = self.rest.get().filter(|_| reason != Reason::Cancelled) {
            rest.now(reason);
        }
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
        Patience {
            soft: self.soft.clone(),
            hard: self.hard.clone(),
            leased: self.leased.clone(),
            span: tracing::Span::current(),
        }
    }
}
