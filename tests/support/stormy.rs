//! The store and the wire of one runner, as its line lets them through, under the eyes of the witness.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use steadfast_store::{
    Admission, Cancellation, Claim, Inspection, Lease, Renewal, Replay, Requeue, Result, Retried, RetryFrom,
    Settlement, State, Store, Whom,
};

use super::storm::{Call, Deathbed, Line};
use super::stormy_ledger::StormyLedger;
use super::witness::Leaving;

/// A runner's store.
pub struct StormyStore {
    pub inner: Arc<dyn Store>,
    pub line: Arc<Line>,
}

fn call(name: &'static str) -> Call<'static> {
    Call { name, job: None, kind: None, told: true, panics: true, detail: String::new() }
}

/// One that comes again and again, and is told only where it goes wrong.
fn routine(name: &'static str) -> Call<'static> {
    Call { told: false, ..call(name) }
}

fn of<'a>(name: &'static str, lease: &'a Lease, kind: Deathbed, detail: String) -> Call<'a> {
    let detail = format!(" token={}{detail}", lease.token.0);
    Call { name, job: Some(&lease.job), kind: Some(kind), told: true, panics: true, detail }
}

impl StormyStore {
    /// A claim, noting whose answer was not heard: their leases end as if their runner had crashed.
    async fn claiming(
        &self,
        name: &'static str,
        claim: impl Future<Output = Result<Vec<Claim>>> + Send,
    ) -> Result<Vec<Claim>> {
        let note = |claims: &[Claim], change: i64| {
            let mut ledger = self.line.ledger();
            for claim in claims {
                *ledger.unheard.entry(claim.lease.job.clone()).or_default() += change;
            }
        };
        let claiming = async {
            let claims = claim.await?;
            self.line.witness.claimed(&self.line.name, &claims).await;
            for Claim { lease, from, .. } in &claims {
                self.line.note(Some(&lease.job), format!("{name} -> token={} {from:?}", lease.token.0));
            }
            note(&claims, 1);
            Ok(claims)
        };
        let kind = Some(Deathbed::Claim);
        let claims = self.line.store(Call { kind, ..routine(name) }, claiming).await?;
        note(&claims, -1);
        Ok(claims)
    }

    async fn leave(
        &self,
        lease: &Lease,
        leaving: Leaving,
        detail: String,
        done: impl Future<Output = Result<()>> + Send,
    ) -> Result<()> {
        let leave = async {
            let done = done.await;
            self.line.witness.left(lease, leaving, &done).await;
            done
        };
        self.line.store(of(leaving.word(), lease, Deathbed::Settle, detail), leave).await
    }
}

#[async_trait]
impl Store for StormyStore {
    fn ledger(&self) -> Arc<dyn steadfast_store::Ledger> {
        Arc::new(StormyLedger { inner: self.inner.ledger(), line: Arc::clone(&self.line) })
    }
    async fn submit(&self, job: &Job) -> Result<Admission> {
        self.line.store(call("submit"), self.inner.submit(job)).await
    }
    async fn wait(&self, longest: Duration) -> Result<()> {
        self.line.store(routine("wait"), self.inner.wait(longest)).await
    }
    async fn claim(&self, most: usize) -> Result<Vec<Claim>> {
        self.claiming("claim", self.inner.claim(most)).await
    }
    async fn claim_called_off(&self, most: usize) -> Result<Vec<Claim>> {
        self.claiming("claim called off", self.inner.claim_called_off(most)).await
    }
    async fn called_off(&self, leases: &[Lease]) -> Result<Vec<Lease>> {
        self.line.store(routine("called off"), self.inner.called_off(leases)).await
    }
    async fn retry(&self, job: &JobId, from: RetryFrom) -> Result<Retried> {
        self.line.store(call("retry"), self.inner.retry(job, from)).await
    }
    async fn pause(&self, whom: &Whom) -> Result<()> {
        self.line.store(call("pause"), self.inner.pause(whom)).await
    }
    async fn resume(&self, whom: &Whom) -> Result<()> {
        self.line.store(call("resume"), self.inner.resume(whom)).await
    }
    async fn paused(&self) -> Result<Vec<Whom>> {
        self.line.store(routine("paused"), self.inner.paused()).await
    }
    async fn renew(&self, leases: &[Lease]) -> Result<Vec<Renewal>> {
        let held: Vec<_> = leases.iter().map(|one| format!("{}/{}", one.job.as_str(), one.token.0)).collect();
        let detail = format!(" {}", held.join(" "));
        let renewing = async {
            let renewals = self.inner.renew(leases).await?;
            self.line.witness.renewed(leases, &renewals).await;
            Ok(renewals)
        };
        let kind = Some(Deathbed::Renew);
        self.line.store(Call { kind, detail, ..call("renew") }, renewing).await
    }
    async fn append(&self, lease: &Lease, at: u32, steps: &[Vec<u8>], patch: Option<&[u8]>) -> Result<()> {
        let detail = format!(" at={at} steps={}{}", steps.len(), if patch.is_some() { " patch" } else { "" });
        let appending = async {
            let appended = self.inner.append(lease, at, steps, patch).await;
            self.line.witness.appended(lease, at, steps, &appended).await;
            appended
        };
        self.line.store(of("append", lease, Deathbed::Append, detail), appending).await
    }
    async fn replay(&self, job: &JobId) -> Result<Replay> {
        let kind = Some(Deathbed::Replay);
        let replaying = Call { job: Some(job), kind, ..call("replay") };
        self.line.store(replaying, self.inner.replay(job)).await
    }
    async fn park(&self, lease: &Lease, until: Timestamp, why: &str) -> Result<()> {
        let detail = format!(" until={} {why}", until.millis());
        self.leave(lease, Leaving::Park(until), detail, self.inner.park(lease, until, why)).await
    }
    async fn requeue(&self, lease: &Lease, after: Duration, why: &Requeue) -> Result<()> {
        let detail = format!(" after={after:?} {why:?}");
        let leaving = Leaving::Requeue { crashed: matches!(why, Requeue::Crashed { .. }) };
        self.leave(lease, leaving, detail, self.inner.requeue(lease, after, why)).await
    }
    async fn release(&self, lease: &Lease) -> Result<()> {
        self.leave(lease, Leaving::Release, String::new(), self.inner.release(lease)).await
    }
    async fn settle(&self, lease: &Lease, settlement: &Settlement) -> Result<()> {
        let detail = format!(" as {}", settlement.status.as_str());
        self.leave(lease, Leaving::Settle, detail, self.inner.settle(lease, settlement)).await
    }
    async fn cancel(&self, job: &JobId) -> Result<Cancellation> {
        self.line.store(call("cancel"), self.inner.cancel(job)).await
    }
    async fn inspect(&self, job: &JobId) -> Result<Option<Inspection>> {
        self.line.store(routine("inspect"), self.inner.inspect(job)).await
    }
    async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        self.line.store(routine("list"), self.inner.list(state, most)).await
    }
    async fn count(&self) -> Result<[u64; 4]> {
        self.line.store(routine("count"), self.inner.count()).await
    }
    async fn purge(&self) -> Result<u64> {
        self.line.store(routine("purge"), self.inner.purge()).await
    }
    async fn now(&self) -> Result<Timestamp> {
        self.line.store(routine("now"), self.inner.now()).await
    }
    fn name(&self) -> String {
        self.inner.name()
    }
}

/// A runner's way to the providers. What goes wrong beyond it is the world's own affair.
pub struct StormyWire {
    pub inner: Arc<dyn Transport>,
    pub line: Arc<Line>,
}

#[async_trait]
impl Transport for StormyWire {
    async fn send(
        &self,
        request: http::Request<Bytes>,
        timeouts: Timeouts,
    ) -> std::result::Result<http::Response<Body>, TransportError> {
        let line = &self.line;
        let asked = line.witness.reads(&request);
        let what = format!("{} {}", request.method(), request.uri().path());
        let job = asked.job.as_ref();
        if line.is_frozen() {
            // Whatever it was about to send when it froze, the connection is gone when it wakes up.
            line.alive().await;
            line.note(job, format!("{what} -> the runner stood still"));
            return Err(TransportError::Connect("the runner stood still".to_owned()));
        }
        line.alive().await;
        let dies = line.dies(Deathbed::Request);
        if dies == Some(false) {
            return line.die(job, &what).await;
        }
        if let Some(job) = job {
            line.witness.sends(&line.name, job, &what).await;
        }
        let in_flight = asked.is_chat.then(|| line.witness.begins_chat(&line.name));
        let answer = self.inner.send(request, timeouts).await;
        line.witness.looks_at_the_world(&asked);
        if dies == Some(true) {
            return line.die(job, &what).await;
        }
        line.alive().await;
        match answer {
            Ok(response) => {
                line.note(job, format!("{what} -> {}", response.status().as_u16()));
                Ok(response.map(|body| told(body, Arc::clone(line), asked.job, what, in_flight)))
            }
            Err(error) => {
                line.note(job, format!("{what} -> {error}"));
                Err(error)
            }
        }
    }
}

/// The body, with a line where it breaks off. `until_read` is kept as long as it.
fn told<T: Send + 'static>(
    body: Body,
    line: Arc<Line>,
    job: Option<JobId>,
    what: String,
    until_read: T,
) -> Body {
    Box::pin(body.inspect(move |piece| {
        let _kept = &until_read;
        if let Err(error) = piece {
            line.note(job.as_ref(), format!("{what}: {error}"));
        }
    }))
}
