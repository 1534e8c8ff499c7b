//! GitHub's limits: the hourly one by account, and the secondary ones by points, content, tokens and
//! concurrency.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use http::StatusCode;
use serde_json::json;

use super::auth::Caller;
use super::{Asked, DOCS};
use crate::faults::Operation;
use crate::reply::Reply;
use crate::world::World;

const HOUR: Duration = Duration::from_secs(3600);
const MINUTE: Duration = Duration::from_secs(60);

/// What is counted.
#[derive(Default)]
pub(crate) struct Quota {
    primary: HashMap<&'static str, Window>,
    secondary: HashMap<&'static str, Secondary>,
    in_work: usize,
    writes_in_work: usize,
}

/// An hour from the first request in it.
#[derive(Clone, Copy)]
struct Window {
    began: Duration,
    used: u64,
}

/// Recent events, oldest first: of the last hour, points of the last minute.
#[derive(Default)]
struct Secondary {
    points: VecDeque<(Duration, u64)>,
    content: VecDeque<(Duration, u64)>,
    tokens: VecDeque<(Duration, u64)>,
    writes: VecDeque<(Duration, u64)>,
    /// Everything is refused until then.
    shut_until: Duration,
}

/// The sum of what lies within `span` before now, and how long until `room` for `amount` under `limit`
/// arises.
fn over(
    events: &VecDeque<(Duration, u64)>,
    now: Duration,
    span: Duration,
    amount: u64,
    limit: u64,
) -> Option<Duration> {
    let within = events.iter().filter(|(at, _)| now.saturating_sub(*at) < span);
    let mut sum: u64 = within.clone().map(|(_, amount)| amount).sum();
    if sum + amount <= limit {
        return None;
    }
    for (at, freed) in within {
        sum -= freed;
        if sum + amount <= limit {
            return Some((*at + span).saturating_sub(now));
        }
    }
    Some(span)
}

/// A request in work: counts as such until dropped, whatever becomes of its future.
pub(crate) struct InWork<'a> {
    world: &'a World,
    request: bool,
    write: bool,
}

impl Drop for InWork<'_> {
    fn drop(&mut self) {
        let mut state = self.world.state();
        state.github.quota.in_work -= usize::from(self.request);
        state.github.quota.writes_in_work -= usize::from(self.write);
    }
}

/// Counts a push among the writes.
pub(crate) fn begin_write(world: &World) -> InWork<'_> {
    let since_start = world.since_start();
    let mut state = world.state();
    state.github.quota.writes_in_work += 1;
    let writes = state.github.quota.writes_in_work;
    state.records.max_concurrent_writes = state.records.max_concurrent_writes.max(writes);
    state.records.write_started(since_start);
    drop(state);
    InWork { world, request: false, write: true }
}

/// Lets a request in, or refuses it by one of the limits.
pub(crate) fn enter<'a>(
    world: &'a World,
    caller: &Caller,
    operation: Operation,
) -> Result<InWork<'a>, Reply> {
    let config = &world.config.github;
    let (now, account) = (world.since_start(), caller.account());
    let primary = window(world, account, 0);
    if primary.used >= config.primary_per_hour && operation != Operation::RateLimit {
        let reset = world.config.start + primary.began + HOUR;
        return Err(primary_refusal(world, reset.secs()));
    }
    let write = operation.is_write();
    let mut state = world.state();
    let quota = &mut state.github.quota;
    if quota.in_work >= config.concurrent {
        return Err(secondary_refusal(world, MINUTE));
    }
    if write && config.concurrent_writes.is_some_and(|most| quota.writes_in_work >= most) {
        return Err(secondary_refusal(world, MINUTE));
    }
    let points = if write { 5 } else { 1 };
    let content = u64::from(operation.creates_content());
    let token = u64::from(operation == Operation::TokenCreate);
    let counted = quota.secondary.entry(account).or_default();
    if now < counted.shut_until {
        let wait = counted.shut_until - now;
        return Err(secondary_refusal(world, wait));
    }
    let (burst, span) = config.write_burst.unwrap_or((u64::MAX, Duration::ZERO));
    for (events, kept) in [
        (&mut counted.points, MINUTE),
        (&mut counted.content, HOUR),
        (&mut counted.tokens, HOUR),
        (&mut counted.writes, span),
    ] {
        while events.front().is_some_and(|(at, _)| now.saturating_sub(*at) >= kept) {
            events.pop_front();
        }
    }
    let waits = [
        over(&counted.points, now, MINUTE, points, config.points_per_minute),
        over(&counted.content, now, HOUR, content, config.content_per_hour).filter(|_| content > 0),
        over(&counted.content, now, MINUTE, content, config.content_per_minute).filter(|_| content > 0),
        over(&counted.tokens, now, HOUR, token, config.tokens_per_hour).filter(|_| token > 0),
        over(&counted.writes, now, span, 1, burst).filter(|_| write),
    ];
    if let Some(wait) = waits.into_iter().flatten().max() {
        counted.shut_until = now + config.secondary_lasts;
        return Err(secondary_refusal(world, wait.max(config.secondary_lasts)));
    }
    counted.points.push_back((now, points));
    if content > 0 {
        counted.content.push_back((now, content));
    }
    if token > 0 {
        counted.tokens.push_back((now, token));
    }
    if write && config.write_burst.is_some() {
        counted.writes.push_back((now, 1));
    }
    quota.in_work += 1;
    drop(state);
    if write {
        let mut in_work = begin_write(world);
        in_work.request = true;
        return Ok(in_work);
    }
    Ok(InWork { world, request: true, write: false })
}

/// The account's hour, after counting `by` more requests in it.
fn window(world: &World, account: &'static str, by: u64) -> Window {
    let now = world.since_start();
    let mut state = world.state();
    let window = state.github.quota.primary.entry(account).or_insert(Window { began: now, used: 0 });
    if now.saturating_sub(window.began) >= HOUR {
        *window = Window { began: now, used: 0 };
    }
    window.used += by;
    *window
}

/// Counts an answered request, unless it was free, and writes the headers that tell of it.
pub(crate) fn account(world: &World, caller: &Caller, free: bool, reply: &mut Reply) {
    let counted = window(world, caller.account(), u64::from(!free));
    let limit = world.config.github.primary_per_hour;
    let reset = world.config.start + counted.began + HOUR;
    headers(reply, limit, counted.used, reset.secs());
}

fn headers(reply: &mut Reply, limit: u64, used: u64, reset: i64) {
    reply.set("x-ratelimit-limit", &limit.to_string());
    reply.set("x-ratelimit-remaining", &limit.saturating_sub(used).to_string());
    reply.set("x-ratelimit-used", &used.to_string());
    reply.set("x-ratelimit-reset", &reset.to_string());
    reply.set("x-ratelimit-resource", "core");
}

/// The refusal of a used up primary limit that begins anew at `reset`, in Unix seconds.
pub(crate) fn primary_refusal(world: &World, reset: i64) -> Reply {
    let config = &world.config.github;
    let status = StatusCode::from_u16(config.primary_status).unwrap_or(StatusCode::FORBIDDEN);
    let message = format!("API rate limit exceeded for installation ID {}.", config.installation_id);
    let body = json!({
        "message": message, "documentation_url": DOCS, "status": status.as_u16().to_string(),
    });
    let mut reply = Reply::json(status, &body).because(message);
    headers(&mut reply, config.primary_per_hour, config.primary_per_hour, reset);
    reply
}

fn secondary_refusal(world: &World, wait: Duration) -> Reply {
    let message = "You have exceeded a secondary rate limit. Please wait a few minutes before you try again.";
    let body = json!({
        "message": message,
        "documentation_url": "https://docs.github.com/rest/overview/rate-limits-for-the-rest-api",
        "status": "403",
    });
    let reply = Reply::json(StatusCode::FORBIDDEN, &body).because(message);
    if world.config.github.secondary_retry_after {
        let seconds = wait.as_millis().div_ceil(1000).max(1);
        return reply.with("retry-after", &seconds.to_string());
    }
    reply
}

/// `GET /rate_limit`: costs nothing.
pub(super) fn rate_limit(asked: &Asked<'_>) -> Result<Reply, Reply> {
    let counted = window(asked.world, asked.caller.account(), 0);
    let limit = asked.world.config.github.primary_per_hour;
    let reset = (asked.world.config.start + counted.began + HOUR).secs();
    let core = json!({
        "limit": limit, "used": counted.used, "remaining": limit.saturating_sub(counted.used), "reset": reset,
        "resource": "core",
    });
    Ok(Reply::json(StatusCode::OK, &json!({"resources": {"core": core}, "rate": core})))
}
