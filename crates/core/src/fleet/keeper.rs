//! The keeper's part: the fleet's one budget, who needs it, and the plan for the time to come.
//!
//! Permits are dealt ahead of time on a copy of the budget, and taken from the budget itself as
//! their instants come. No news is good news: what nobody says was refused was let in.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::words::{Grants, Plan, Unused, Want};
use crate::budget::{Budget, Kind, Outcome, Tick};

/// Permits of one plan: a plan is one message, so one message for so many permits.
const A_PLAN: f64 = 32.0;
const SHORTEST_PLAN: Duration = Duration::from_secs(1);
const LONGEST_PLAN: Duration = Duration::from_secs(20);
/// While nothing is known, plans are short: what comes of one is the base of the next.
const BLIND_PLAN: Duration = Duration::from_millis(500);
/// How much before the last permit's instant the next plan is said.
const LEAD: Duration = Duration::from_millis(150);
/// While that is not what holds anybody up, they grow up to this.
const LONGEST_BLIND: u32 = 16;
/// Tokens are dealt by their number where they allow less than this many times the requests.
const TOKENS_BIND: f64 = 1.5;
/// So many times the callers that a plan was made for call for another.
const GROWN: f64 = 1.4;
/// Two plans are no closer than this.
const SOON: Duration = Duration::from_millis(20);
/// Who gave a probe back is not the first to have one again.
const DECLINED: Duration = Duration::from_secs(3);
/// Between two plans where nobody needs anything: they keep the keepership.
const IDLE_PLAN: Duration = Duration::from_secs(10);
/// How long a request counts as unanswered: rejections are said at once.
const NO_NEWS: Duration = Duration::from_millis(1_500);
/// A member that was heard of lately is there, whether or not it holds leases yet.
const HEARD: Duration = Duration::from_secs(15);
/// So many permits at most is one member behind another.
const MOST_BEHIND: f64 = 4.0;
/// Where places are fewer than members, a place is held for so long.
const TURN: Duration = Duration::from_secs(15);
/// Most permits of a plan, whatever the limit.
const MOST_PERMITS: usize = 2_000;
/// Most members that are known.
const MOST_MEMBERS: usize = 4_096;
/// Members say that they are there once for so many permits of the fleet's.
const SAY_EACH: f64 = 40.0;

/// A member, as the keeper knows it.
#[derive(Clone, Debug)]
struct Peer {
    want: Want,
    heard: Tick,
    /// Stride scheduling: who has the least goes first.
    pass: f64,
    /// Permits that it has in stock, estimated: dealt, less what it could use since.
    stock: f64,
    /// Sizes that it told of, and no permit was dealt for.
    sizes: VecDeque<u64>,
    /// It gave a probe back then: it has nothing to send.
    declined: Tick,
}

/// A permit that was dealt.
#[derive(Clone, Copy, Debug)]
struct Dealt {
    at: Tick,
    tokens: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Keeper {
    pub epoch: u64,
    pub budget: Budget,
    peers: BTreeMap<String, Peer>,
    /// Dealt, their instants to come.
    pending: VecDeque<Dealt>,
    /// Taken from the budget, and nothing bad heard of them yet.
    unsettled: VecDeque<Dealt>,
    pub next_plan: Tick,
    planned_until: Tick,
    /// When the stocks were estimated.
    counted: Tick,
    /// A probe is out, or planned, with this instant: nothing is dealt beyond it before its end, or the
    /// second instant.
    probing: Option<(Tick, Tick)>,
    void: bool,
    hello: bool,
    /// Seconds that a call takes, smoothed.
    pub latency: f64,
    /// Callers that the last plan was made for.
    planned_jobs: f64,
    /// While nothing is known: how long plans are, in the shortest.
    blind: u32,
    /// Whose turn it is to be among those who have a place, where there are fewer than members.
    turn: usize,
    turned: Tick,
}

impl Keeper {
    pub fn new(epoch: u64, budget: Budget, now: Tick) -> Self {
        Keeper {
            epoch,
            budget,
            peers: BTreeMap::new(),
            pending: VecDeque::new(),
            unsettled: VecDeque::new(),
            next_plan: now,
            planned_until: now,
            counted: now,
            probing: None,
            void: false,
            hello: true,
            latency: 2.0,
            planned_jobs: 0.0,
            blind: 1,
            turn: 0,
            turned: now,
        }
    }

    /// Whether nobody else needs the budget: then nothing is planned ahead.
    pub fn is_alone(&self, me: &str) -> bool {
        self.pending.is_empty() && !self.peers.iter().any(|(name, peer)| name != me && peer.want.jobs > 0)
    }

    /// Whether nobody heard yet that it is the keeper.
    pub fn is_new(&self) -> bool {
        self.hello
    }

    pub fn members(&self) -> impl Iterator<Item = (&str, u32)> {
        self.peers.iter().map(|(name, peer)| (name.as_str(), peer.want.jobs))
    }

    pub fn hear(&mut self, now: Tick, want: Want) {
        if let Some((sent, observed)) = &want.observed {
            self.commit(now);
            self.budget.learn(now, *sent, observed);
        }
        if want.off != 0 {
            self.budget.overspent(now, want.off as f64);
        }
        let least = self.peers.values().map(|peer| peer.pass).fold(f64::INFINITY, f64::min);
        let least = if least.is_finite() { least } else { 0.0 };
        if self.peers.len() >= MOST_MEMBERS && !self.peers.contains_key(&want.from) {
            return;
        }
        let peer = self.peers.entry(want.from.clone()).or_insert(Peer {
            want: Want::default(),
            heard: now,
            pass: least,
            stock: 0.0,
            sizes: VecDeque::new(),
            declined: Duration::ZERO,
        });
        let begins = peer.want.jobs == 0 && want.jobs > 0;
        if begins {
            peer.pass = peer.pass.max(least);
        }
        peer.heard = now;
        peer.stock = f64::from(want.stock);
        let hungry = peer.sizes.is_empty() && !want.sizes.is_empty();
        peer.sizes = want.sizes.iter().copied().collect();
        let unused = want.unused.clone();
        peer.want = Want { sizes: Vec::new(), unused: Vec::new(), off: 0, observed: None, ..want };
        if begins {
            self.next_plan = self.next_plan.min(now);
        }
        if self.jobs() > self.planned_jobs * GROWN {
            // The plan was made for fewer.
            self.next_plan = self.next_plan.min(now + SOON);
        }
        if hungry && self.probing.is_none() {
            // Whose size was not known is dealt for when what is dealt already is over.
            self.next_plan = self.next_plan.min(self.planned_until.saturating_sub(LEAD).max(now + SOON));
        }
        self.unused(now, &unused);
    }

    /// Permits that somebody could not use are the budget's again.
    fn unused(&mut self, now: Tick, unused: &[Unused]) {
        if unused.is_empty() {
            return;
        }
        self.commit(now);
        for Unused { at, tokens } in unused {
            if let Some(pending) = self.pending.iter().position(|dealt| dealt.at == *at) {
                self.pending.remove(pending);
            } else if let Some(out) = self.unsettled.iter().position(|dealt| dealt.at == *at) {
                self.unsettled.remove(out);
                self.budget.untake(now, *at, *tokens);
            } else {
                self.budget.unspend(now, *at, *tokens);
            }
        }
        if self.probing.is_none() {
            self.planned_until = self.planned_until.min(now);
            self.next_plan = self.next_plan.min(now + SOON);
        }
    }

    /// Forgets who is neither present, by its leases, nor was heard of lately.
    pub fn only(&mut self, now: Tick, present: &[String], me: &str) {
        self.peers.retain(|name, peer| {
            let runner = name.split_once('#').map_or(name.as_str(), |(runner, _)| runner);
            name == me
                || peer.heard + HEARD > now
                || present.iter().any(|there| there == runner || there == name)
        });
    }

    /// Takes from the budget what was dealt for instants that have come.
    pub fn commit(&mut self, now: Tick) {
        while let Some(dealt) = pop_due(&mut self.pending, now) {
            // Asking is what lets a window's count shut the door.
            self.budget.wait(dealt.at, dealt.tokens);
            self.budget.take(dealt.at, dealt.tokens);
            self.unsettled.push_back(dealt);
        }
        while let Some(dealt) = pop_due(&mut self.unsettled, now.saturating_sub(NO_NEWS)) {
            self.budget.done(now, dealt.at, dealt.tokens, None, Outcome::Accepted);
        }
    }

    /// News of a permit that was dealt.
    pub fn met(&mut self, now: Tick, permit: Tick, sent: Tick, tokens: u64, outcome: Option<Outcome>) {
        self.commit(now);
        let before = (self.budget.is_shut(), self.budget.rate());
        self.probing = self.probing.filter(|(probe, _)| *probe != permit);
        let out = self.unsettled.iter().position(|dealt| dealt.at == permit);
        if let Some(out) = out {
            self.unsettled.remove(out);
        } else if outcome == Some(Outcome::Accepted) {
            // Counted as let in already.
            return;
        }
        match outcome {
            Some(Outcome::Rejected(hint)) => self.budget.refused(now, permit, sent, tokens, hint),
            Some(outcome) => self.budget.done(now, permit, tokens, None, outcome),
            None => {
                if let Some(pending) = self.pending.iter().position(|dealt| dealt.at == permit) {
                    self.pending.remove(pending);
                } else {
                    self.budget.untake(now, permit, tokens);
                }
                self.next_plan = self.next_plan.min(now);
                self.planned_until = self.planned_until.min(now);
            }
        }
        let cut = matches!(outcome, Some(Outcome::Rejected(_)))
            && (self.budget.rate() != before.1 || self.tokens_bind());
        if cut || self.budget.is_shut() != before.0 {
            // What was dealt at another rate would be refused like this one.
            self.replan(now);
        }
    }

    /// `who` gave a probe back.
    pub fn declined(&mut self, now: Tick, who: &str) {
        if let Some(peer) = self.peers.get_mut(who) {
            peer.declined = now;
        }
    }

    /// What was planned does not hold.
    pub fn replan(&mut self, now: Tick) {
        let void = !self.pending.is_empty() || self.budget.is_shut() || self.budget.gate(now).is_some();
        if void {
            self.void = true;
            self.peers.values_mut().for_each(|peer| peer.stock = 0.0);
        }
        self.pending.retain(|dealt| dealt.at <= now);
        self.probing = None;
        self.planned_until = now;
        self.next_plan = now;
    }

    fn length(&self) -> Duration {
        let Some(rate) = self.budget.rate() else {
            return BLIND_PLAN * self.blind.clamp(1, LONGEST_BLIND);
        };
        let pace = self.token_pace().map_or(rate, |pace| pace.min(rate)).min(self.demand());
        // Each member reads all of a plan: the more there are, the fewer plans.
        let permits = A_PLAN.max(self.peers.len() as f64 * 2.0);
        Duration::try_from_secs_f64(permits / pace.max(0.01))
            .unwrap_or(LONGEST_PLAN)
            .clamp(SHORTEST_PLAN, LONGEST_PLAN)
    }

    /// Calls that one caller makes at most in the time of a plan.
    fn calls(&self, length: Duration) -> f64 {
        1.5 + length.as_secs_f64() / self.latency.max(0.2)
    }

    fn jobs(&self) -> f64 {
        self.peers.values().map(|peer| f64::from(peer.want.jobs)).sum()
    }

    /// Requests a second that would be sent if nothing held them up.
    fn demand(&self) -> f64 {
        (self.jobs() / self.latency.max(0.2)).max(0.1)
    }

    /// Requests a second for which there are tokens.
    fn token_pace(&self) -> Option<f64> {
        let rate = self.budget.token_rate()?;
        let busy = || self.peers.values().filter(|peer| peer.want.jobs > 0);
        let cost: u64 = busy().map(|peer| peer.want.tokens).sum();
        Some(rate * busy().count().max(1) as f64 / (cost as f64).max(1.0))
    }

    /// Whether it is tokens that hold requests up.
    fn tokens_bind(&self) -> bool {
        let others = self.budget.rate().unwrap_or(f64::INFINITY).min(self.demand());
        self.token_pace().is_some_and(|pace| pace < others * TOKENS_BIND)
    }

    /// How long the keepership is asked for.
    pub fn lease(&self, now: Tick) -> Duration {
        self.next_plan.saturating_sub(now) + Duration::from_secs(5)
    }

    /// Deals permits for the time to come.
    pub fn plan(&mut self, now: Tick, me: &str, waits: bool, concurrency: u32) -> Plan {
        self.commit(now);
        self.count(now);
        // A door that the count shuts is shut from now on, not anew with each plan.
        self.budget.wait(now, 0);
        self.planned_jobs = self.jobs();
        let mut ahead = self.budget.clone();
        // Places are shared out, below: what a member has in flight nobody else knows.
        ahead.forget_places();
        for dealt in &self.pending {
            ahead.wait(dealt.at, dealt.tokens);
            ahead.take(dealt.at, dealt.tokens);
        }
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
        let mut count = 0;
        while count < MOST_PERMITS {
            let shut = ahead.is_shut();
            let left = rows.iter_mut().filter(|row| row.left > 0);
            let chosen = left.min_by(|a, b| a.rank(shut, waits).total_cmp(&b.rank(shut, waits)));
            let Some(row) = chosen else { break };
            let tokens = row.sizes.front().copied().unwrap_or(row.tokens);
            let wait = ahead.wait(at, tokens);
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
            row.sizes.pop_front();
            row.dealt.push(tokens);
            self.pending.push_back(Dealt { at, tokens });
            row.offsets.push(u64::try_from(at.saturating_sub(now).as_micros()).unwrap_or(u64::MAX));
            row.left -= 1;
            row.pass += 1.0 / row.weight;
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

fn pop_due(line: &mut VecDeque<Dealt>, now: Tick) -> Option<Dealt> {
    line.front().is_some_and(|dealt| dealt.at <= now).then(|| line.pop_front()).flatten()
}
