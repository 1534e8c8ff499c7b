//! The keeper's part: the fleet's one budget, who needs it, and the plan for the time to come.
//!
//! [`deal`] makes the plan. Permits are dealt ahead of time on a copy of the budget, and taken from the budget itself as
//! their instants come. No news is good news: what nobody says was refused was let in.

mod deal;

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use super::words::{Unused, Want};
use crate::budget::{Budget, Outcome, Tick};
use crate::headers::Observed;

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
/// What a request costs beyond its estimate, as a share; and how far off together they may be, as a
/// share of what may be spent at once, before it is told and another plan is made.
const OFF: f64 = 0.3;
const SURE: f64 = 0.03;
const SLACK: f64 = 0.03;
const MARGIN: f64 = 0.08;
/// So many times the callers that a plan was made for call for another.
const GROWN: f64 = 1.4;
/// Two plans are no closer than this.
const SOON: Duration = Duration::from_millis(20);
/// A plan as far away may come earlier by what is learned.
const UNTOLD: Duration = Duration::from_millis(500);
/// Between two plans where nobody needs anything: they keep the keepership.
const IDLE_PLAN: Duration = Duration::from_secs(10);
/// How long a request counts as unanswered: rejections are said at once.
const NO_NEWS: Duration = Duration::from_millis(1_500);
/// A member that was heard of lately is there, whether or not it holds leases yet.
const HEARD: Duration = Duration::from_secs(15);
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
    /// Dealt, their instants to come, in their order.
    pending: VecDeque<Dealt>,
    /// Instants of permits that were given back before their time: there is room then, not now.
    holes: VecDeque<Tick>,
    /// Taken from the budget, and nothing bad heard of them yet.
    unsettled: VecDeque<Dealt>,
    pub next_plan: Tick,
    /// Something was learned: what comes next may come earlier.
    recheck: Option<Tick>,
    /// When members were told to expect it.
    promised: Tick,
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
            holes: VecDeque::new(),
            unsettled: VecDeque::new(),
            next_plan: now,
            recheck: None,
            promised: now,
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
        self.overspent(now, want.off as f64);
        if let Some((sent, observed)) = &want.observed {
            self.learn(now, *sent, observed);
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
        if begins && self.probing.is_none() && self.planned_until > now + LEAD {
            // What was dealt ahead was dealt to fewer: beyond it, the newcomer would wait for long.
            self.replan(now);
        } else if begins {
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

    /// Requests cost `by` more tokens than what was dealt for them.
    pub fn overspent(&mut self, now: Tick, by: f64) {
        if by != 0.0 && self.budget.token_rate().is_some() {
            self.commit(now);
            self.budget.overspent(now, by);
            self.reconsider(now);
        }
    }

    /// Whether the next plan is due earlier, or later, is to be seen.
    fn reconsider(&mut self, now: Tick) {
        let waits = self.pending.is_empty() && self.next_plan > now + UNTOLD;
        if self.probing.is_none() && (waits || self.surely().is_some()) {
            self.recheck.get_or_insert(now + SOON);
        }
    }

    /// Takes what an answer's headers told.
    pub fn learn(&mut self, now: Tick, sent: Tick, observed: &Observed) {
        self.commit(now);
        self.budget.learn_of_many(now, sent, observed);
        if observed.requests.is_some() || observed.tokens.is_some() {
            self.reconsider(now);
        }
    }

    /// When it is to be seen whether a plan is due.
    pub fn due(&self) -> Tick {
        self.recheck.map_or(self.next_plan, |at| at.min(self.next_plan))
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
                self.holes.insert(self.holes.partition_point(|hole| hole <= at), *at);
            } else if let Some(out) = self.unsettled.iter().position(|dealt| dealt.at == *at) {
                let tokens = self.unsettled.remove(out).map_or(*tokens, |dealt| dealt.tokens);
                self.budget.untake(now, *at, tokens);
            } else {
                self.budget.unspend(now, *at, *tokens);
            }
        }
        if self.probing.is_none() {
            let dealt = self.pending.back().map_or(now, |last| last.at.max(now));
            self.planned_until = self.planned_until.min(dealt);
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
        self.holes.clear();
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
        let surely = self.surely();
        let permits = surely.unwrap_or(A_PLAN.max(self.peers.len() as f64 * 2.0));
        let shortest = if surely.is_some() { LEAD * 2 } else { SHORTEST_PLAN };
        Duration::try_from_secs_f64(permits / pace.max(0.01))
            .unwrap_or(LONGEST_PLAN)
            .clamp(shortest, LONGEST_PLAN)
    }

    /// Where tokens bind, so many permits that what their requests cost beyond the estimates is a
    /// small part of what may be spent at once.
    fn surely(&self) -> Option<f64> {
        let room = self.budget.token_room().filter(|_| self.tokens_bind())?;
        let off = self.cost() * OFF;
        Some((room * SURE / off.max(1.0)).powi(2).min(A_PLAN))
    }

    /// Tokens that are left over where they bind: what members did not tell yet, it is at most.
    fn margin(&self) -> u64 {
        let room = self.budget.token_room().filter(|_| self.tokens_bind());
        room.map_or(0, |room| (room * MARGIN) as u64)
    }

    /// Tokens that a request costs, as a mean over the members.
    fn cost(&self) -> f64 {
        let busy = || self.peers.values().filter(|peer| peer.want.jobs > 0);
        let cost: u64 = busy().map(|peer| peer.want.tokens).sum();
        cost as f64 / busy().count().max(1) as f64
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
        Some(rate / self.cost().max(1.0))
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
}

fn pop_due(line: &mut VecDeque<Dealt>, now: Tick) -> Option<Dealt> {
    line.front().is_some_and(|dealt| dealt.at <= now).then(|| line.pop_front()).flatten()
}
