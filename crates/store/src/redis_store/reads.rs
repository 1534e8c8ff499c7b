//! What is read without changing anything: list, inspect, count, replay.

use std::collections::BTreeMap;

use redis::{Value, cmd, pipe};
use steadfast_core::job::JobId;
use steadfast_core::time::Timestamp;

use super::Core;
use super::claims::read_job;
use super::keys::OWN_FIELDS;
use crate::packing::missing_step;
use crate::record::{INTERNAL, VISIBLE, state_of, state_word};
use crate::{Counts, Inspection, Replay, Result, State, StoreError};

/// Jobs that are inspected in one round trip.
const PAGE: usize = 32;

/// Bytes of steps that are read in one round trip, roughly: a larger reply keeps everybody waiting.
const REPLY_BYTES: usize = 1 << 20;

/// Most jobs of one list.
const LISTED: usize = 10_000;

impl Core {
    /// The server's time.
    pub async fn now(&self) -> Result<Timestamp> {
        let (seconds, micros): (i64, i64) = self.link.command(&cmd("TIME")).await?;
        Ok(Timestamp::from_millis(seconds * 1000 + micros / 1000))
    }

    pub async fn inspect(&self, id: &str) -> Result<Option<Inspection>> {
        match self.inspect_page(&[id.to_owned()]).await?.pop() {
            Some(inspected) => inspected,
            None => Ok(None),
        }
    }

    /// Several jobs; one that cannot be read is an error of its own.
    async fn inspect_page(&self, ids: &[String]) -> Result<Vec<Result<Option<Inspection>>>> {
        let mut reads = pipe();
        reads.ignore_errors();
        for id in ids {
            reads.cmd("HGETALL").arg(self.keys.status(id));
            reads.cmd("GET").arg(self.keys.data(id));
            reads.cmd("ZSCORE").arg(self.keys.leases()).arg(id);
        }
        let answers: Vec<Value> = self.link.pipeline(&reads).await?;
        let pages = ids.iter().zip(answers.chunks_exact(3));
        Ok(pages.map(|(id, answers)| inspection(id, answers)).collect())
    }

    pub async fn list(&self, state: Option<State>, most: usize) -> Result<Vec<Inspection>> {
        let every = [State::Queued, State::Parked, State::Ended];
        let most = most.min(LISTED);
        let Some(last) = most.checked_sub(1) else { return Ok(Vec::new()) };
        let mut reads = pipe();
        for state in every.into_iter().filter(|each| state.is_none_or(|state| state == *each)) {
            let set = self.keys.state(state_word(state));
            reads.cmd("ZREVRANGE").arg(set).arg(0).arg(last).arg("WITHSCORES");
        }
        let mut newest: Vec<(String, f64)> = Vec::new();
        if state != Some(State::Running) {
            let sets: Vec<Vec<(String, f64)>> = self.link.pipeline(&reads).await?;
            newest.extend(sets.into_iter().flatten());
        }
        if state.is_none_or(|state| state == State::Running) {
            newest.extend(self.running().await?);
        }
        newest.sort_by(|(a, at), (b, bt)| bt.total_cmp(at).then_with(|| b.cmp(a)));
        // A job that moved on between the sets' reading is in two of them.
        newest.dedup_by(|a, b| a.0 == b.0);
        newest.truncate(most);
        let ids: Vec<String> = newest.into_iter().map(|(id, _)| id).collect();
        let mut list = Vec::with_capacity(ids.len());
        for page in ids.chunks(PAGE) {
            for inspected in self.inspect_page(page).await? {
                match inspected {
                    Ok(found) => {
                        list.extend(found.filter(|job| state.is_none_or(|state| state == job.state)))
                    }
                    Err(error) => tracing::warn!(%error, "unreadable job left out"),
                }
            }
        }
        Ok(list)
    }

    /// What runs, with its admission: the leases know of all of it, in another order.
    async fn running(&self) -> Result<Vec<(String, f64)>> {
        let mut read = cmd("ZRANGE");
        read.arg(self.keys.leases()).arg(0).arg(LISTED - 1);
        let ids: Vec<String> = self.link.command(&read).await?;
        let mut running = Vec::with_capacity(ids.len());
        for page in ids.chunks(16 * PAGE) {
            let mut reads = pipe();
            reads.ignore_errors();
            for id in page {
                reads.cmd("HGET").arg(self.keys.status(id)).arg("seq");
            }
            let found: Vec<Value> = self.link.pipeline(&reads).await?;
            let seq = |value: &Value| redis::from_redis_value_ref::<f64>(value).unwrap_or_default();
            running.extend(page.iter().cloned().zip(found.iter().map(seq)));
        }
        Ok(running)
    }

    pub async fn count(&self) -> Result<[u64; 4]> {
        let mut reads = pipe();
        reads.atomic();
        let (leases, set) = (self.keys.leases(), |word| self.keys.state(word));
        for set in [set("queued"), leases, set("parked"), set("ended")] {
            reads.cmd("ZCARD").arg(set);
        }
        let (queued, running, parked, ended) = self.link.pipeline(&reads).await?;
        Ok([queued, running, parked, ended])
    }

    pub async fn replay(&self, job: &JobId) -> Result<Replay> {
        let id = job.as_str();
        let mut reads = pipe();
        reads.atomic();
        reads.cmd("HMGET").arg(self.keys.status(id)).arg("steps").arg("journalBytes");
        reads.cmd("GET").arg(self.keys.patch(id));
        type Answers = ((Option<usize>, Option<usize>), Option<Vec<u8>>);
        let ((written, bytes), patch): Answers = self.link.pipeline(&reads).await?;
        let Some(written) = written else { return Ok(Replay::default()) };
        let mean = bytes.unwrap_or_default() / written.max(1);
        let at_once = (REPLY_BYTES / mean.max(1)).clamp(1, 1000);
        let mut steps: Vec<Vec<u8>> = Vec::new();
        while steps.len() < written {
            let mut page = cmd("LRANGE");
            let last = (steps.len() + at_once).min(written) - 1;
            page.arg(self.keys.journal(id)).arg(steps.len()).arg(last);
            let page: Vec<Vec<u8>> = self.link.command(&page).await?;
            if page.is_empty() {
                let found = steps.len();
                tracing::error!(%job, found, written, "steps of a journal are gone");
                steps.resize_with(written, missing_step);
            }
            steps.extend(page);
        }
        Ok(Replay { steps, patch: patch.unwrap_or_default() })
    }
}

/// Makes an inspection of the status hash, the job and the end of its lease.
fn inspection(id: &str, answers: &[Value]) -> Result<Option<Inspection>> {
    let corrupt = |why: &str| StoreError::Corrupt(format!("job {id}: {why}"));
    let [hash, data, lease] = answers else { return Err(corrupt("no answer")) };
    let fields: Vec<(String, String)> = redis::from_redis_value_ref(hash)
        .map_err(|_| corrupt("its key holds another kind of value than a status hash"))?;
    let of: BTreeMap<&str, &str> =
        fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    // A hash without our state is another system's: the job is none of ours.
    let Some(word) = of.get("state") else { return Ok(None) };
    let state = state_of(word).ok_or_else(|| corrupt("its state is none that there is"))?;
    let number = |name: &str| -> Result<u64> {
        let value = of.get(name).and_then(|value| value.parse().ok());
        value.ok_or_else(|| corrupt(&format!("{name} is not a number")))
    };
    let count = |name: &str| number(name).map(|count| u32::try_from(count).unwrap_or(u32::MAX));
    let time = |micros: u64| Timestamp::from_millis(i64::try_from(micros / 1000).unwrap_or(i64::MAX));
    let data: Vec<u8> = match data {
        Value::Nil => return Err(corrupt("the job itself is gone")),
        data => redis::from_redis_value_ref(data).map_err(|_| corrupt("the job itself cannot be read"))?,
    };
    let at = match state {
        State::Queued | State::Parked => time(number("due")?),
        State::Running => {
            let end: Option<f64> = redis::from_redis_value_ref(lease).ok();
            // Between two reads it may have left; its due time is then as good.
            end.map_or(time(number("due")?), |end| Timestamp::from_millis(end as i64))
        }
        State::Ended => {
            let ended = of.get("completedAt").and_then(|at| at.parse().ok());
            ended.ok_or_else(|| corrupt("completedAt is not a time"))?
        }
    };
    Ok(Some(Inspection {
        job: read_job(id, &data).map_err(|why| corrupt(&why))?,
        state,
        counts: Counts {
            runs: count("runs")?,
            attempts: count("attempts")?,
            crashes: count("crashes")?,
            waits: count("waits")?,
            steps: count("steps")?,
        },
        admitted_at: number("admitted").map_or(time(number("seq")?), |millis| {
            Timestamp::from_millis(i64::try_from(millis).unwrap_or(i64::MAX))
        }),
        at,
        waiting_for: of.get("waitingFor").map(|&why| why.to_owned()),
        status: status(&fields),
    }))
}

/// The hash as others see it: the fields that every store has in their order, then all further ones.
fn status(fields: &[(String, String)]) -> Vec<(String, String)> {
    let known = VISIBLE.iter().filter_map(|name| fields.iter().find(|(field, _)| field == name));
    let own = |name: &str| VISIBLE.contains(&name) || INTERNAL.contains(&name) || OWN_FIELDS.contains(&name);
    let further = fields.iter().filter(|(name, _)| !own(name));
    known.chain(further).cloned().collect()
}
