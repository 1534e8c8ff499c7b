//! Dealing: the keeper's plan for the time to come, by stride scheduling on a copy of its budget.

use std::collections::VecDeque;
use std::time::Duration;

use super::super::words::{Grants, Plan};
use super::{Dealt, IDLE_PLAN, Keeper, LEAD, LONGEST_BLIND, LONGEST_PLAN, Peer, SAY_EACH, SLACK, SOON};
use crate::budget::{Budget, Kind, Tick};

/// Who gave a probe back is not the first to have one again.
const DECLINED: Duration = Duration::from_secs(3);
/// So many permits at most is one member behind another.
const MOST_BEHIND: f64 = 4.0;
/// Where places are fewer than members, a place is held for so long.
const TURN: Duration = Duration::from_secs(15);
/// Most permits of a plan, whatever the limit.
const MOST_PERMITS: usize = 2_000;

impl Keeper {
    /// Whether a plan is due: where few permits are dealt at a time, not before the next of them is.
    pub fn is_due(&mut self, now: Tick, me: &str, waits: bool) -> bool {
        let few = self.surely().is_some();
        let asked = self.recheck.take_if(|at| *at <= now).is_some();
        let planned = now >= self.next_plan;
        if !planned && !asked {
            return false;
        }
        if self.void || self.hello || now >= self.promised + LEAD || (planned && !few) {
            return true;
        }
        self.commit(now);
        let length = self.length();
        let rows = self.rows(now, me, length);
        let mut ahead = self.ahead();
        let shut = ahead.is_shut();
        let left = rows.iter().filter(|row| row.left > 0);
        let chosen = left.min_by(|a, b| a.rank(shut, waits).total_cmp(&b.rank(shut, waits)));
        let Some(row) = chosen else {
            self.next_plan = self.promised;
            return now >= self.promised;
        };
        let at = self.planned_until.max(now);
        let opens = at
            .saturating_add(ahead.wait(at, row.sizes.front().copied().unwrap_or(row.tokens) + self.margin()));
        if opens <= now + LEAD * 2 {
            return true;
        }
        let latest = if few { self.promised + LEAD } else { self.next_plan };
        self.next_plan = (opens - LEAD).min(latest);
        false
    }

    /// The budget when all that was dealt will have been taken.
    fn ahead(&self) -> Budget {
        let mut ahead = self.budget.clone();
        // Places are shared out, below: what a member has in flight nobody else knows.
        ahead.forget_places();
        for dealt in &self.pending {
            ahead.wait(dealt.at, dealt.tokens);
            ahead.take(dealt.at, dealt.tokens);
        }
        ahead
    }

    /// Deals permits for the time to come.
    pub fn plan(&mut self, now: Tick, me: &str, waits: bool, concurrency: u32) -> Plan {
        self.commit(now);
        self.count(now);
        // A door that the count shuts is shut from now on, not anew with each plan.
        self.budget.wait(now, 0);
        self.planned_jobs = self.jobs();
        let mut ahead = self.ahead();
        let length = self.length();
        let mut at = self.planned_until.max(now);
        let end = at + length;
        let mut rows = if self.is_alone(me) { Vec::new() } else { self.rows(now, me, length) };
        self.share_out(now, length, &mut rows, concurrency);
        self.probing = self.probing.filter(|(_, decided)| *decided > now);
        let undecided = self.probing.map(|(_, decided)| decided);
        if undecided.is_some() {
            rows.clear();
        }
        let mut until = end + length;
        let mut next = end.saturating_sub(LEAD);
        let margin = self.margin();
        let mut count = 0;
        self.holes.retain(|hole| *hole >= now);
        while count < MOST_PERMITS {
            let shut = ahead.is_shut();
            let left = rows.iter_mut().filter(|row| row.left > 0);
            let chosen = left.min_by(|a, b| a.rank(shut, waits).total_cmp(&b.rank(shut, waits)));
            let Some(row) = chosen else { break };
            let tokens = row.sizes.front().copied().unwrap_or(row.tokens);
            // Where tokens are counted, one that is given back is no room for another size.
            let hole = self.holes.front().copied().filter(|hole| !shut && margin == 0 && *hole < end);
            if let Some(hole) = hole {
                self.holes.pop_front();
                let instant = hole + Duration::from_micros(1);
                ahead.take(instant, tokens);
                row.deal(now, instant, tokens);
                self.pending.insert(
                    self.pending.partition_point(|dealt| dealt.at <= instant),
                    Dealt { at: instant, tokens },
                );
                count += 1;
                continue;
            }
            let wait = ahead.wait(at, tokens + margin);
            let opens = at.saturating_add(wait);
            if opens >= end {
                next = next.max(opens.saturating_sub(LEAD)).min(now + LONGEST_PLAN);
                break;
            }
            // Each permit has an instant of its own, by which it is known.
            at = opens.max(at + Duration::from_micros(1));
            at = Duration::from_micros(u64::try_from(at.as_nanos().div_ceil(1_000)).unwrap_or(u64::MAX));
            let shut = ahead.is_shut();
            ahead.take(at, tokens);
            row.deal(now, at, tokens);
            self.pending.push_back(Dealt { at, tokens });
            count += 1;
            row.probe = shut;
            if shut {
                // What comes of the probe decides on the rest.
                next = at + ahead.wait(at, 0).min(Duration::from_secs(3));
                until = at + Duration::from_secs(3);
                self.probing = Some((at, next));
                break;
            }
        }
        // Whether somebody could have used more.
        let tight = rows.iter().any(|row| row.left > 0 || row.by_size);
        self.blind = if tight { 1 } else { (self.blind * 2).min(LONGEST_BLIND) };
        if rows.is_empty() {
            next = undecided.unwrap_or(now + IDLE_PLAN);
        }
        self.planned_until = at.max(self.planned_until).min(next.max(at));
        self.next_plan = next.max(now + SOON);
        self.promised = self.next_plan;
        let opens = self.budget.window_ends();
        if self.budget.request_kind().0 == Kind::Fixed {
            until = opens.filter(|ends| *ends > at).unwrap_or(until.max(now + self.budget.window() / 2));
        }
        self.said(me, now, rows, until, tight, opens)
    }

    /// What members used since the last plan, at the pace of their callers.
    fn count(&mut self, now: Tick) {
        let passed = now.saturating_sub(self.counted).as_secs_f64();
        self.counted = now;
        for peer in self.peers.values_mut() {
            let used = f64::from(peer.want.jobs) * passed / self.latency.max(0.2);
            peer.stock = (peer.stock - used).max(0.0);
        }
    }

    fn rows(&self, now: Tick, me: &str, length: Duration) -> Vec<Row> {
        let newest = self.peers.values().map(|peer| peer.want.admitted).fold(0.0, f64::max);
        let oldest = self
            .peers
            .values()
            .filter(|peer| peer.want.jobs > 0)
            .map(|peer| peer.want.admitted)
            .fold(f64::INFINITY, f64::min);
        let span = (newest - oldest).max(1.0);
        let tokens_bind = self.tokens_bind();
        let busy = self.peers.values().filter(|peer| peer.want.jobs > 0);
        let first = busy.map(|peer| peer.pass).fold(f64::INFINITY, f64::min);
        let row = |(name, peer): (&String, &Peer)| {
            let jobs = f64::from(peer.want.jobs);
            let calls = jobs * self.calls(length);
            let age = ((newest - peer.want.admitted) / span).clamp(0.0, 1.0);
            let usable = (calls - peer.stock).max(0.0).ceil() as u32;
            // Where tokens hold requests up, only those are dealt for whose size is known.
            let known = u32::try_from(peer.sizes.len()).unwrap_or(u32::MAX);
            Row {
                to: name.clone(),
                mine: name == me,
                jobs: peer.want.jobs,
                tokens: if self.budget.token_rate().is_some() { peer.want.tokens } else { 0 },
                weight: jobs * (1.0 + age),
                left: if tokens_bind { known } else { usable },
                // Who could use nothing for a while does not catch up on all of it.
                pass: (peer.pass - first).min(MOST_BEHIND / jobs.max(1.0)),
                offsets: Vec::new(),
                probe: false,
                declined: peer.declined + DECLINED > now,
                flight: None,
                by_size: tokens_bind,
                sizes: if tokens_bind { peer.sizes.clone() } else { VecDeque::new() },
                dealt: Vec::new(),
            }
        };
        self.peers.iter().filter(|(_, peer)| peer.want.jobs > 0).map(row).collect()
    }

    /// Shares the places out of a limit of requests at once, by need. Where there are fewer than
    /// members, they have them in turn.
    fn share_out(&mut self, now: Tick, length: Duration, rows: &mut [Row], concurrency: u32) {
        if concurrency == 0 || rows.is_empty() {
            return;
        }
        let calls = self.calls(length);
        let members = rows.len();
        if now >= self.turned + TURN {
            self.turned = now;
            // The next in line are those who had none.
            self.turn = (self.turn + (concurrency as usize).min(members)) % members;
        }
        let jobs: u64 = rows.iter().map(|row| u64::from(row.jobs)).sum();
        let mut left = concurrency;
        for index in 0..members {
            let Some(row) = rows.get_mut((self.turn + index) % members) else { continue };
            let share = u64::from(concurrency) * u64::from(row.jobs) / jobs.max(1);
            let share = u32::try_from(share).unwrap_or(u32::MAX).max(1).min(left);
            left -= share;
            row.flight = Some(share);
            row.left = row.left.min((f64::from(share) * calls).ceil() as u32);
        }
    }

    fn said(
        &mut self,
        me: &str,
        now: Tick,
        rows: Vec<Row>,
        until: Tick,
        tight: bool,
        opens: Option<Tick>,
    ) -> Plan {
        let members = u32::try_from(rows.len()).unwrap_or(u32::MAX);
        let counts = self.tokens_bind();
        let mut grants = Vec::new();
        for row in rows {
            if let Some(peer) = self.peers.get_mut(&row.to) {
                peer.pass = row.pass;
                peer.stock += row.offsets.len() as f64;
                if row.by_size {
                    peer.sizes = row.sizes;
                }
            }
            if row.offsets.is_empty() && row.flight.is_none() && !counts {
                continue;
            }
            let (tokens, sizes) = if counts { (row.tokens.max(1), row.dealt) } else { (0, Vec::new()) };
            let (probe, flight) = (row.probe, row.flight);
            grants.push(Grants { to: row.to, tokens, probe, flight, offsets: row.offsets, sizes });
        }
        let rate = self.budget.rate();
        let say_each = f64::from(members.max(1)) * SAY_EACH / rate.unwrap_or(10.0).max(0.1);
        Plan {
            epoch: self.epoch,
            keeper: me.to_owned(),
            void: std::mem::take(&mut self.void),
            hello: std::mem::take(&mut self.hello),
            at: now,
            grants,
            until,
            next: self.next_plan,
            members,
            rate,
            token_rate: self.budget.token_rate(),
            opens,
            gate: self.budget.gate(now),
            say_each: say_each.clamp(5.0, 600.0),
            tight,
            slack: self.budget.token_room().map_or(0, |room| (room * SLACK) as u64),
        }
    }
}

/// A member, while permits are dealt.
struct Row {
    to: String,
    mine: bool,
    jobs: u32,
    tokens: u64,
    weight: f64,
    /// As many as it can use in the time of the plan.
    left: u32,
    pass: f64,
    offsets: Vec<u64>,
    probe: bool,
    /// It gave a probe back a moment ago.
    declined: bool,
    /// Requests at once that it may have.
    flight: Option<u32>,
    /// Whether it is dealt by the sizes of those that wait.
    by_size: bool,
    sizes: VecDeque<u64>,
    /// Tokens with each of `offsets`.
    dealt: Vec<u64>,
}

impl Row {
    /// One permit more.
    fn deal(&mut self, now: Tick, at: Tick, tokens: u64) {
        self.sizes.pop_front();
        self.dealt.push(tokens);
        self.offsets.push(u64::try_from(at.saturating_sub(now).as_micros()).unwrap_or(u64::MAX));
        self.left -= 1;
        self.pass += 1.0 / self.weight;
    }

    /// The least goes first: in its turn; for a probe, who surely has something to send: the keeper
    /// that knows so of itself, else who has the most callers.
    fn rank(&self, probe: bool, keeper_waits: bool) -> f64 {
        match (probe, self.mine && keeper_waits) {
            (true, _) if self.declined => 0.0,
            (true, true) => f64::NEG_INFINITY,
            (true, false) => -f64::from(self.jobs),
            (false, _) => self.pass,
        }
    }
}
