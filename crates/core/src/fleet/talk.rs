//! What a process says to the fleet and takes from it: who keeps the budget, plans, and what is done
//! while the ledger is away.

use std::collections::VecDeque;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::keeper::Keeper;
use super::words::{MOST_UNUSED, Met, Plan, Unused, Want, Word};
use super::{Act, Answer, Fleet, GRACE, Granted, Last, Learned, Part};
use crate::budget::{Budget, Kind, LimitSettings, Outcome, Tick, WindowKind};
use crate::failure::GateReason;

/// How long one who became a member waits for the first plan.
const FIRST_PLAN: Duration = Duration::from_secs(3);
/// Alone, the keepership is renewed and the budget noted this often.
const ALONE: Duration = Duration::from_secs(10);
/// So much it sends at most without noting it, permits or a share of a minute's limit, and for no longer
/// than that many take: whoever follows it, if it dies, knows all but that. A note is a round trip.
const UNNOTED: f64 = 10.0;
const UNNOTED_SHARE: f64 = 0.01;
const UNNOTED_FOR: RangeInclusive<f64> = 1.0..=10.0;
/// Between two tries to reach a ledger that is away.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How long a probe may wait for a caller.
const PROBE_WITHIN: Duration = Duration::from_millis(100);
/// Where tokens are counted, new sizes are told so many times as often as that somebody is there, and
/// at once where they are many.
const TELL_SIZES: u32 = 8;
/// Most permits that are counted as sent by a keeper before.
const MOST_UNNOTED: u32 = 1_000;
/// Where nobody has a permit, what answers' headers told is said once for so many permits of the
/// fleet's.
const STARVES: f64 = 5.0;
/// How long a keepership lasts beyond the next renewal.
const LEASE: Duration = Duration::from_secs(20);

impl Fleet {
    /// How long until [`Fleet::step`] has something to do; `None`: not before a call.
    pub fn next(&self, now: Tick) -> Option<Duration> {
        if !self.out.is_empty() {
            return Some(Duration::ZERO);
        }
        if self.asking || !self.shares || (self.part == Part::Idle && self.jobs == 0) {
            return None;
        }
        let mut due = self.due;
        if let (Part::Keeper, Some(keeper)) = (self.part, &self.keeper)
            && !keeper.is_alone(&self.me)
        {
            due = keeper.due();
        } else if self.part == Part::Keeper {
            due = due.min(self.note_due());
        }
        if self.part == Part::Member {
            due = match (self.must_say || self.is_news(now), self.jobs) {
                (true, _) => now,
                (false, 0) => return None,
                (false, _) => due.min(self.said_at + self.say_each),
            };
        }
        if let Some(granted) = self.stock.front() {
            let over = if granted.probe { granted.at + PROBE_WITHIN } else { granted.until };
            due = due.min(over);
        }
        if self.counts_tokens && self.waiting > 0 {
            // Each is for one of those that wait, not for the first.
            let to_come = self.stock.iter().map(|granted| granted.at).filter(|at| *at > now);
            due = to_come.min().map_or(due, |at| due.min(at));
        }
        if self.untold() > 0 {
            due = due.min(self.said_at + self.say_each / TELL_SIZES);
        }
        // A peak that ends is news.
        if self.jobs > 0 && self.peak.1 > now {
            due = due.min(self.peak.1);
        }
        Some(due.saturating_sub(now))
    }

    /// How long a keeper, alone, does not note what it sent.
    fn unnoted_for(&self) -> Duration {
        let per_minute = self.request_limit().map_or(f64::INFINITY, |(per_minute, _)| per_minute);
        let seconds = UNNOTED * 60.0 / per_minute;
        Duration::from_secs_f64(seconds.clamp(*UNNOTED_FOR.start(), *UNNOTED_FOR.end()))
    }

    /// When the keeper, alone, notes what it sent.
    fn note_due(&self) -> Tick {
        let (at, sent) = self.noted;
        let most = self.request_limit().map_or(UNNOTED, |(limit, _)| (limit * UNNOTED_SHARE).max(UNNOTED));
        match sent {
            0 => Tick::MAX,
            sent if f64::from(sent) >= most => at,
            _ => at + self.unnoted_for(),
        }
    }

    /// Whether the keeper should hear of our need now.
    fn is_news(&self, now: Tick) -> bool {
        let (said, jobs) = (f64::from(self.said.jobs), f64::from(self.jobs));
        let need = (said == 0.0) != (jobs == 0.0) || jobs > said * 1.5 + 0.5 || jobs < said * 0.6 - 0.5;
        let untold = self.untold();
        let sizes = untold > 0 && (self.asked == 0 || untold as f64 >= 3.0 + jobs / 4.0);
        let most = if self.counts_tokens { 1.0 } else { (jobs / 4.0).max(3.0) };
        let off = self.counts_tokens && self.off.abs() > self.slack as f64;
        need || sizes || off || self.starves(now) || self.unused.len() as f64 >= most
    }

    /// Whether callers wait, no permit is there, and an answer told something new a while after what
    /// was said last.
    fn starves(&self, now: Tick) -> bool {
        let news = self.waiting > 0 && self.stock.is_empty() && self.observed.is_some();
        let share = f64::from(self.last.members) * STARVES / self.last.rate.unwrap_or(10.0).max(0.1);
        self.tight && news && now >= self.said_at + Duration::from_secs_f64(share.clamp(1.0, 5.0))
    }

    /// How many wait of whose size the keeper does not know.
    fn untold(&self) -> usize {
        let tells = self.counts_tokens && self.part == Part::Member;
        if tells { self.uncovered().len().saturating_sub(self.asked) } else { 0 }
    }

    /// A permit that was dealt to us was not used.
    pub(super) fn not_used(&mut self, granted: Granted) {
        if self.tight && !granted.probe && self.unused.len() < MOST_UNUSED {
            let tokens = self.dealt(&granted);
            self.unused.push(Unused { at: granted.at, tokens });
        }
    }

    /// Who has no caller left for permits whose time has come leaves them to others.
    fn give_up(&mut self, now: Tick) {
        let most = match (self.jobs, self.counts_tokens) {
            (0, _) => 0,
            // They are dealt to those that wait.
            (_, true) => 0,
            (jobs, false) => jobs as usize * 4 + 4,
        };
        if self.waiting > 0 || !self.tight || self.stock.len() <= most {
            return;
        }
        let due = self.stock.partition_point(|granted| granted.at <= now);
        for _ in most..due {
            if let Some(granted) = self.stock.pop_front() {
                self.not_used(granted);
            }
        }
        if self.jobs == 0 {
            let rest = std::mem::take(&mut self.stock);
            let (probes, rest): (VecDeque<_>, VecDeque<_>) = rest.into_iter().partition(|it| it.probe);
            self.stock = probes;
            rest.into_iter().for_each(|granted| self.not_used(granted));
        }
    }

    /// What is to be done now.
    pub fn step(&mut self, now: Tick) -> Vec<Act> {
        self.give_probe_back(now);
        self.expire(now);
        if self.direct().is_none() {
            self.give_up(now);
        }
        let mut acts = std::mem::take(&mut self.out);
        if self.asking || !self.shares {
            return acts;
        }
        match self.part {
            Part::Idle if self.jobs == 0 => {}
            Part::Idle | Part::Seeking | Part::Adrift => {
                if self.part == Part::Idle || now >= self.due {
                    if self.part == Part::Idle {
                        self.part = Part::Seeking;
                    }
                    acts.push(self.ask(now, 0, LEASE, None));
                }
            }
            Part::Member => {
                if now >= self.due && self.jobs > 0 {
                    // No plan came: the keeper is gone, or we are cut off.
                    acts.push(self.ask(now, 0, LEASE, None));
                } else if self.must_say
                    || self.is_news(now)
                    || (self.jobs > 0 && now >= self.said_at + self.say_each)
                    || (self.untold() > 0 && now >= self.said_at + self.say_each / TELL_SIZES)
                {
                    acts.push(self.say_want(now));
                }
            }
            Part::Keeper => self.keep(now, &mut acts),
        }
        acts
    }

    /// A probe for which no caller was there: another may have one.
    fn give_probe_back(&mut self, now: Tick) {
        let late = |granted: &&Granted| granted.probe && granted.at + PROBE_WITHIN <= now;
        let Some(granted) = self.stock.front().filter(late).copied() else { return };
        self.stock.pop_front();
        self.decline(now, granted);
    }

    fn decline(&mut self, now: Tick, granted: Granted) {
        match (self.part, &mut self.keeper) {
            (Part::Keeper, Some(keeper)) => {
                keeper.met(now, granted.at, granted.at, 0, None);
                keeper.declined(now, &self.me);
            }
            (Part::Idle | Part::Seeking | Part::Member | Part::Keeper | Part::Adrift, _) => {
                self.say_met(Met { permit: granted.at, sent: granted.at, ..self.met() });
            }
        }
    }

    fn ask(&mut self, now: Tick, epoch: u64, lease: Duration, words: Option<Vec<u8>>) -> Act {
        self.asking = true;
        self.noted = (now, 0);
        let note = self.keeper.as_ref().filter(|_| epoch > 0).map(|keeper| {
            let budget = keeper.budget.summary();
            let settings = self.settings.clone();
            let alone = keeper.is_alone(&self.me);
            let unnoted = match (lease.is_zero(), alone) {
                (true, true) => now,
                (false, true) => now + self.unnoted_for(),
                (_, false) => keeper.next_plan,
            };
            Box::new(Learned { settings, budget, noted_at: now, granted_until: unnoted, alone })
        });
        Act::Keep { epoch, lease, note, words }
    }

    fn say_want(&mut self, now: Tick) -> Act {
        let unused = std::mem::take(&mut self.unused);
        let off = std::mem::take(&mut self.off) as i64;
        let want = Want { observed: self.observed.take(), unused, off, ..self.wants() };
        self.asked = want.sizes.len();
        self.said = Want { observed: None, unused: Vec::new(), off: 0, ..want.clone() };
        self.said_at = now;
        self.must_say = false;
        Act::Say(Word::Want(want).encode())
    }

    fn keep(&mut self, now: Tick, acts: &mut Vec<Act>) {
        let mine = self.wants();
        let me = self.me.clone();
        let (concurrency, waits) = (self.settings.concurrency, self.waiting > 0);
        let note_due = self.note_due();
        let Some(keeper) = self.keeper.as_mut() else { return };
        let unused = std::mem::take(&mut self.unused);
        if mine != self.said || now >= self.said_at + ALONE || !unused.is_empty() {
            let off = std::mem::take(&mut self.off) as i64;
            keeper.hear(now, Want { unused, off, ..mine.clone() });
            self.said = mine;
            self.said_at = now;
        }
        let alone = keeper.is_alone(&me);
        let plan_due = if alone { now >= keeper.next_plan } else { keeper.is_due(now, &me, waits) };
        if alone && now < self.due.min(note_due) && !keeper.is_new() {
            return;
        }
        if !alone && !plan_due {
            return;
        }
        let (words, lease) = if alone && !keeper.is_new() {
            (None, LEASE)
        } else {
            let plan = keeper.plan(now, &me, waits, concurrency);
            let lease = keeper.lease(now);
            self.accept(now, &plan);
            (Some(Word::Plan(plan).encode()), lease.max(LEASE))
        };
        self.due = now + ALONE;
        let epoch = self.epoch;
        acts.push(self.ask(now, epoch, lease, words));
    }

    /// The ledger's answer to [`Act::Keep`].
    pub fn kept(&mut self, now: Tick, answer: Answer) {
        self.asking = false;
        let was = self.part;
        if answer.yours {
            if was == Part::Keeper && answer.epoch == self.epoch {
                if let Some(keeper) = self.keeper.as_mut() {
                    let me = &self.me;
                    keeper.only(now, &answer.present, me);
                }
                return;
            }
            self.epoch = answer.epoch;
            let budget = self.budget_to_keep(now, answer.note);
            self.keeper = Some(Box::new(Keeper::new(answer.epoch, budget, now)));
            self.part = Part::Keeper;
            self.own = None;
            self.stock.clear();
            self.flight = (self.settings.concurrency > 0).then_some(self.settings.concurrency);
            self.said = Want::default();
            self.due = now;
            return;
        }
        self.epoch = answer.epoch;
        self.keeper = None;
        self.own = None;
        self.part = Part::Member;
        self.must_say = self.jobs > 0;
        // Who asked because no plan came asks again when the lease is over; so does a newcomer, where
        // that is soon: the keeper seems to be gone.
        self.due = match was {
            Part::Member => answer.until.max(now + GRACE) + self.jitter(),
            Part::Idle | Part::Seeking | Part::Keeper | Part::Adrift if answer.until < now + FIRST_PLAN => {
                answer.until.max(now) + self.jitter() / 4
            }
            Part::Idle | Part::Seeking | Part::Keeper | Part::Adrift => now + FIRST_PLAN + self.jitter(),
        };
    }

    /// A part of a second, of each process its own: not all ask at once.
    fn jitter(&self) -> Duration {
        let sum =
            self.me.bytes().fold(17_u64, |sum, byte| sum.wrapping_mul(31).wrapping_add(u64::from(byte)));
        Duration::from_millis(sum % 1_000)
    }

    fn budget_to_keep(&mut self, now: Tick, note: Option<Learned>) -> Budget {
        let Some(note) = note.filter(|note| note.settings == self.settings) else {
            let mut budget = Budget::new(&self.settings, now);
            if let Some(gate) = self.gate.filter(|gate| gate.until > now) {
                budget.close(now, gate.until, gate.reason);
            }
            return budget;
        };
        let mut budget = note.budget;
        // Permits that the keeper before us dealt and did not note.
        if let Some(rate) = budget.rate() {
            // What an older build noted says nothing of what came before now.
            let noted_at = if note.noted_at.is_zero() { now } else { note.noted_at };
            let each = Duration::from_secs_f64(1.0 / rate.max(0.01));
            let mut until = note.granted_until;
            if note.alone && budget.request_kind().0 == Kind::Bucket {
                // It sent as the bucket filled, and its burst; and sends no more.
                until = until.min(now.saturating_add(each * self.settings.burst.saturating_sub(1)));
            }
            let mut at = noted_at.saturating_add(each);
            for _ in 0..MOST_UNNOTED {
                if at > until {
                    break;
                }
                // Those to come may be sent at any time.
                let sent = at.min(now);
                budget.take(sent, self.cost as u64);
                budget.done(now, sent, 0, None, Outcome::Unknown);
                at = at.saturating_add(each);
            }
        }
        budget
    }

    /// The ledger cannot be reached.
    pub fn away(&mut self, now: Tick) {
        self.asking = false;
        self.due = now + TRY_AGAIN + self.jitter();
        match self.part {
            Part::Adrift => {}
            Part::Keeper => {
                let members = self
                    .keeper
                    .as_ref()
                    .map_or(1, |keeper| keeper.members().filter(|(_, jobs)| *jobs > 0).count());
                let last = self.keeper.as_ref().map(|keeper| Last {
                    members: u32::try_from(members.max(1)).unwrap_or(u32::MAX),
                    rate: keeper.budget.rate(),
                    token_rate: keeper.budget.token_rate(),
                    opens: keeper.budget.window_ends(),
                });
                self.last = last.unwrap_or(self.last);
                if self.last.members < 2
                    && let Some(keeper) = self.keeper.take()
                {
                    // Alone as far as is known: all of it is ours.
                    self.own = Some(Box::new(keeper.budget));
                } else {
                    self.own = Some(Box::new(self.part_of(now)));
                }
                self.part = Part::Adrift;
            }
            Part::Idle | Part::Seeking | Part::Member => {
                self.own = Some(Box::new(self.part_of(now)));
                self.part = Part::Adrift;
            }
        }
        if self.flight.is_none() && self.settings.concurrency > 0 {
            // No plan gave it places yet, and its part of the budget knows of none.
            let part = self.settings.concurrency / self.last.members.max(1);
            self.flight = Some(part.max(1));
        }
    }

    /// Our part of what was last known, sent evenly.
    fn part_of(&self, now: Tick) -> Budget {
        let members = f64::from(self.last.members.max(1));
        let a_minute = |rate: f64| ((rate * 60.0 / members).floor()).clamp(1.0, f64::from(u32::MAX)) as u32;
        let known = |rate: Option<f64>, config: u32| rate.map_or(config, a_minute);
        let settings = LimitSettings {
            requests_per_minute: known(self.last.rate, self.settings.requests_per_minute),
            tokens_per_minute: known(self.last.token_rate, self.settings.tokens_per_minute),
            concurrency: 0,
            window: WindowKind::Bucket,
            burst: 1,
        };
        let mut budget = Budget::new(&settings, now);
        let spent = self.last.opens.filter(|opens| *opens > now);
        let gate = self.gate.filter(|gate| gate.until > now);
        if let Some(gate) = gate {
            budget.close(now, gate.until, gate.reason);
        } else if let Some(opens) = spent {
            budget.close(now, opens, GateReason::RateLimit);
        }
        budget
    }

    /// Takes in what was heard on the budget's channel.
    pub fn hear(&mut self, now: Tick, words: &[u8]) {
        if self.part != Part::Keeper && Word::is_for_keeper(words) {
            return;
        }
        match Word::decode(words) {
            Some(Word::Plan(plan)) if plan.keeper != self.me => self.planned(now, plan),
            Some(Word::Want(want)) if want.from != self.me => {
                if let (Part::Keeper, Some(keeper)) = (self.part, self.keeper.as_mut()) {
                    keeper.hear(now, want);
                }
            }
            Some(Word::Met(met)) if met.from != self.me => {
                if let (Part::Keeper, Some(keeper)) = (self.part, self.keeper.as_mut()) {
                    if !met.permit.is_zero() {
                        keeper.met(now, met.permit, met.sent, met.tokens, met.outcome);
                        if met.outcome.is_none() {
                            keeper.declined(now, &met.from);
                        }
                    }
                    if let Some(closed) = met.closed.filter(|closed| closed.until > now) {
                        keeper.budget.close(now, closed.until, closed.reason);
                        keeper.replan(now);
                    }
                    if met.reopened {
                        keeper.budget.open();
                        keeper.replan(now);
                    }
                }
            }
            Some(Word::Plan(_) | Word::Want(_) | Word::Met(_)) | None => {}
        }
    }

    fn planned(&mut self, now: Tick, plan: Plan) {
        if plan.epoch < self.epoch || (plan.epoch == self.epoch && self.part == Part::Keeper) {
            return;
        }
        if self.part == Part::Idle && self.jobs == 0 {
            return;
        }
        if plan.epoch > self.epoch || self.part != Part::Member {
            self.must_say |= self.jobs > 0;
        }
        self.must_say |= plan.hello && self.jobs > 0;
        self.keeper = None;
        self.own = None;
        self.epoch = plan.epoch;
        self.part = Part::Member;
        self.due = plan.next.max(now) + GRACE + self.jitter();
        self.say_each = Duration::from_secs_f64(plan.say_each.clamp(1.0, 3_600.0));
        self.accept(now, &plan);
    }

    /// Takes our part of a plan into stock.
    fn accept(&mut self, now: Tick, plan: &Plan) {
        self.tight = plan.tight || plan.void;
        if plan.void {
            // Those to come nobody else counts as spent.
            let voided = std::mem::take(&mut self.stock);
            for granted in voided.into_iter().filter(|granted| granted.at <= now) {
                if granted.probe {
                    self.decline(now, granted);
                } else {
                    self.not_used(granted);
                }
            }
            self.asked = 0;
        }
        self.gate = plan.gate.filter(|gate| gate.until > now);
        self.last = Last {
            members: plan.members,
            rate: plan.rate,
            token_rate: plan.token_rate,
            opens: plan.opens.filter(|_| plan.grants.is_empty()),
        };
        let Some(grants) = plan.grants.iter().find(|grants| grants.to == self.me) else { return };
        self.flight = grants.flight;
        self.counts_tokens = grants.tokens > 0;
        self.slack = plan.slack;
        self.asked = self.asked.saturating_sub(grants.offsets.len());
        let sizes = grants.sizes.iter().copied().chain(std::iter::repeat(grants.tokens));
        for (number, (offset, tokens)) in (1..).zip(grants.offsets.iter().zip(sizes)) {
            let at = plan.at.saturating_add(Duration::from_micros(*offset));
            let probe = grants.probe && number == grants.offsets.len();
            // What another gave back may be earlier than what is there.
            let place = self.stock.partition_point(|granted| granted.at <= at);
            self.stock.insert(place, Granted { at, until: plan.until, probe, tokens });
        }
    }

    /// Gives the keepership up and says that nothing is needed: the process stops.
    pub fn leave(&mut self) -> Vec<Act> {
        self.jobs = 0;
        self.peak = (0, Duration::ZERO);
        match self.part {
            Part::Keeper => {
                let epoch = self.epoch;
                vec![self.ask(self.noted.0, epoch, Duration::ZERO, None)]
            }
            Part::Member => {
                let rest = std::mem::take(&mut self.stock);
                rest.into_iter().for_each(|granted| self.not_used(granted));
                vec![self.say_want(Duration::ZERO)]
            }
            Part::Idle | Part::Seeking | Part::Adrift => Vec::new(),
        }
    }
}
