//! Closed for everybody, by a rejection or by our own count: one probe goes first, the rest when
//! it was let in.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::lane::{Lane, MINUTE};
use super::{Kind, Tick};

/// Distance of the first probe from a rejection that named no time; doubles.
const FIRST_GAP: Duration = Duration::from_millis(250);
/// Parts of a window that probes are apart at most.
const LAST_GAP: u32 = 15;
const LONGEST_GAP: Duration = Duration::from_secs(4);
/// How long a probe counts as unanswered, before anything was rejected: three times a rejection.
const FIRST_QUIET: Duration = Duration::from_millis(500);
const QUIET: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(3));
/// Times to the next second that a server's word may be rounded by.
const SAME: Duration = Duration::from_millis(10);

/// Who always says a minute says so again this much later; who means it says less.
const TEST: Duration = Duration::from_millis(1_100);
/// Opened so much before the time that was named: it was no time at all.
const EARLY: Duration = Duration::from_secs(2);

/// What is known of a server that names a wait of a minute sharp.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
enum Sixty {
    /// It never did.
    #[default]
    Unheard,
    /// It did, for the first time then: one probe a second later finds out what is meant.
    Heard(Tick),
    /// It counts: what it names is the wait.
    Counts,
    /// It is a constant that knows nothing of the window.
    Constant,
}

fn is_to_be_tested(sixty: Sixty, hint: Option<Duration>) -> bool {
    matches!(sixty, Sixty::Heard(_)) && hint.is_some_and(|hint| hint.abs_diff(MINUTE) < SAME)
}

/// What an opening teaches.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Opening {
    /// When the probe that was let in was sent.
    pub at: Tick,
    /// When the door closed.
    pub since: Tick,
    /// The last probe that was rejected.
    pub rejected: Option<Tick>,
    /// Whether the server named the time: then how long it took says nothing of the limit.
    pub named: bool,
    /// Whether a rejection or the count closed it: else it says nothing of the limit.
    pub teaches: bool,
}

#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
struct Shut {
    since: Tick,
    named: Option<Tick>,
    gap: Duration,
    /// Worth one probe: a minute after the first that counted.
    guess: Option<Tick>,
    last: Tick,
    probe: Option<Tick>,
    rejected: Option<Tick>,
    teaches: bool,
    /// Closed by our count, not by a rejection.
    counted: bool,
    /// When one probe finds out whether the minute that was named is meant.
    #[serde(default)]
    test: Option<Tick>,
}

/// See the module.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Door {
    shut: Option<Shut>,
    quiet: Duration,
    last_hint: Option<(Tick, Duration)>,
    #[serde(default)]
    sixty: Sixty,
}

impl Default for Door {
    fn default() -> Self {
        Door { shut: None, quiet: FIRST_QUIET, last_hint: None, sixty: Sixty::Unheard }
    }
}

impl Door {
    pub fn is_shut(&self) -> bool {
        self.shut.is_some()
    }

    /// Whether it is what was sent through a shut door.
    pub fn is_probe(&self, sent: Tick) -> bool {
        self.shut.is_some_and(|shut| shut.probe == Some(sent))
    }

    /// Until when the server named, if it did and that is to come.
    pub fn named(&self, now: Tick) -> Option<Tick> {
        // What may be no more than a word is no gate before it was tested.
        self.shut.filter(|shut| shut.test.is_none()).and_then(|shut| shut.named).filter(|until| *until > now)
    }

    /// A rejection took this long.
    pub fn heard(&mut self, took: Duration) {
        self.quiet = (self.quiet / 2 + took * 3 / 2).clamp(QUIET.0, QUIET.1);
    }

    /// The wait that the server named to the request of `sent`, unless it is a constant that knows
    /// nothing of the window: the same as told a second before, though time had passed.
    pub fn judge(&mut self, now: Tick, sent: Tick, hint: Option<Duration>) -> Option<Duration> {
        let hint = hint?;
        let minute = hint.abs_diff(MINUTE) < SAME;
        self.sixty = match (self.sixty, minute) {
            (Sixty::Unheard, true) => Sixty::Heard(now),
            // Refused a second after that, and told the same.
            (Sixty::Heard(at), true) if sent > at + Duration::from_secs(1) && now < at + MINUTE => {
                Sixty::Constant
            }
            // The minute was over: it may have been meant, and is tested once more.
            (Sixty::Heard(at), true) if now >= at + MINUTE => Sixty::Heard(now),
            (Sixty::Heard(at), false) if sent > at && hint < MINUTE && now < at + MINUTE => Sixty::Counts,
            (Sixty::Heard(_) | Sixty::Counts | Sixty::Constant, true) | (_, false) => self.sixty,
        };
        let told = self.last_hint.replace((now, hint));
        let constant = told.is_some_and(|(at, before)| {
            hint > Duration::from_secs(2)
                && before.abs_diff(hint) < SAME
                && now.saturating_sub(at) > Duration::from_secs(1) + SAME
                && now < at + before
        });
        let constant = if minute { self.sixty == Sixty::Constant } else { constant };
        (!constant).then_some(hint)
    }

    pub fn shut(&mut self, now: Tick, hint: Option<Duration>, lane: &Lane) {
        // A rolling window returns one by one: less than three units' time later it is no better.
        let unit = Duration::try_from_secs_f64(3.0 / lane.rate()).unwrap_or(FIRST_GAP);
        let gap = if lane.kind == Kind::Rolling { FIRST_GAP.max(unit.min(LONGEST_GAP)) } else { FIRST_GAP };
        self.shut_for(now, hint.map(|wait| now.saturating_add(wait)), gap, true);
        self.guess(lane);
        if let Some(shut) = self.shut.as_mut().filter(|_| is_to_be_tested(self.sixty, hint)) {
            shut.test = Some(now + TEST);
        }
    }

    /// The same of a rejection that says nothing of requests, if it named a minute that is to be
    /// tested. Returns whether it did.
    pub fn shut_to_test(&mut self, now: Tick, hint: Option<Duration>) -> bool {
        let tests = is_to_be_tested(self.sixty, hint);
        if tests {
            self.shut_for(now, hint.map(|wait| now.saturating_add(wait)), FIRST_GAP, false);
            self.shut.iter_mut().for_each(|shut| shut.test = Some(now + TEST));
        }
        tests
    }

    /// The count says that the window is full.
    pub fn shut_by_count(&mut self, now: Tick, lane: &Lane) {
        self.shut_for(now, None, lane.window / LAST_GAP, true);
        self.guess(lane);
        if let Some(shut) = &mut self.shut {
            shut.counted = true;
        }
    }

    /// A gate closed for another reason, until `until`.
    pub fn after_gate(&mut self, now: Tick, until: Tick) {
        let teaches = self.shut.is_some_and(|shut| shut.teaches);
        self.shut_for(now, Some(until), FIRST_GAP, teaches);
    }

    fn guess(&mut self, lane: &Lane) {
        if let Some(shut) = &mut self.shut {
            shut.guess = lane.oldest_leaves();
        }
    }

    fn shut_for(&mut self, now: Tick, named: Option<Tick>, gap: Duration, teaches: bool) {
        self.shut = Some(Shut {
            since: now,
            named,
            gap,
            guess: None,
            last: now,
            probe: None,
            rejected: None,
            teaches,
            counted: false,
            test: None,
        });
    }

    /// How long until the next probe, or until the one under way is known.
    pub fn wait(&self, now: Tick, lane: &Lane) -> Duration {
        let Some(shut) = self.shut else { return Duration::ZERO };
        if let Some(probe) = shut.probe {
            return (probe + self.quiet).saturating_sub(now).max(Duration::from_millis(1));
        }
        let blind = shut.last + shut.gap;
        let next = match (lane.returned(now), shut.test.or(shut.named)) {
            // What comes back of a rolling window may be taken by others on the key.
            (Some(returned), named) => returned.max(blind).max(named.unwrap_or_default()),
            (None, Some(named)) => named,
            (None, None) => self.window_opens(shut, blind, lane),
        };
        next.saturating_sub(now)
    }

    fn window_opens(&self, shut: Shut, blind: Tick, lane: &Lane) -> Tick {
        if let Some(opened) = shut.rejected.and_then(|rejected| lane.not_open(rejected)) {
            // It opens a little later than was thought: the sooner, the less it was off so far.
            let off = shut.last.saturating_sub(opened).max(lane.guard * 2);
            return (shut.last + off).min(blind);
        }
        match lane.expected(shut.last) {
            Some(expected) => lane.may_grow(shut.last).map_or(expected, |at| at.min(expected)),
            None => shut.guess.filter(|at| *at > shut.last).map_or(blind, |at| at.min(blind)),
        }
    }

    /// Something was sent; through a shut door, only a probe is.
    pub fn sent(&mut self, now: Tick) {
        if let Some(shut) = &mut self.shut {
            shut.probe = Some(now);
            shut.last = now;
        }
    }

    /// The probe was not sent after all.
    pub fn unsent(&mut self, sent: Tick) {
        if let Some(shut) = self.shut.as_mut().filter(|shut| shut.probe == Some(sent)) {
            shut.probe = None;
        }
    }

    /// Whether the door is shut, so that this rejection says no more than that.
    pub fn rejected(&mut self, now: Tick, sent: Tick, hint: Option<Duration>) -> bool {
        let Some(shut) = &mut self.shut else { return false };
        if shut.counted && shut.probe != Some(sent) {
            return false;
        }
        if shut.probe == Some(sent) {
            shut.probe = None;
            shut.rejected = Some(sent);
            shut.counted = false;
            // Shut for longer than a window: refused requests may count too, so fewer and fewer.
            let long = now.saturating_sub(shut.since) > MINUTE + MINUTE / 4;
            shut.test = None;
            shut.gap = (shut.gap * 2).min(if long { MINUTE * 5 } else { MINUTE / LAST_GAP });
            shut.named = hint.map(|wait| now.saturating_add(wait));
        } else if let Some(wait) = hint {
            shut.named = shut.named.max(Some(now.saturating_add(wait)));
        }
        true
    }

    /// The probe was answered.
    pub fn accepted(&mut self, sent: Tick) -> Option<Opening> {
        self.shut.filter(|shut| shut.probe == Some(sent))?;
        self.open()
    }

    /// The probe was not rejected in the time that rejections take.
    pub fn settle(&mut self, now: Tick) -> Option<Opening> {
        let probe = self.shut?.probe?;
        if now < probe + self.quiet { None } else { self.open() }
    }

    fn open(&mut self) -> Option<Opening> {
        let shut = self.shut.take()?;
        if let (Some(probe), Some(named), Some(_)) = (shut.probe, shut.named, shut.test) {
            self.sixty = if probe + EARLY < named { Sixty::Constant } else { self.sixty };
        }
        let (since, rejected, teaches) = (shut.since, shut.rejected, shut.teaches);
        Some(Opening { at: shut.probe?, since, rejected, named: shut.named.is_some(), teaches })
    }

    /// The count was raised: what it closed is open.
    pub fn reopen(&mut self) {
        self.shut = self.shut.filter(|shut| !shut.counted || shut.probe.is_some());
    }

    /// The provider answered: a gate that taught nothing is forgotten.
    pub fn forget(&mut self) {
        self.shut = self.shut.filter(|shut| shut.teaches);
    }
}
