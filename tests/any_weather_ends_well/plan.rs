//! What a seed makes of the world: its limits, its faults, and what happens when.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use steadfast_sim::{
    Fault, FaultRule, Latency, LimitKind, Operation, RetryAfter, Server, Target, Weather, WorldConfig,
};

use crate::support::storm::{Death, Deathbed, Rates};

/// Something that is done to the fleet.
#[derive(Clone, Debug)]
pub enum Happening {
    Submit {
        id: String,
        issue: u64,
    },
    /// The queue delivers it twice.
    SubmitAgain {
        id: String,
    },
    Cancel {
        id: String,
    },
    LoseStore {
        runner: usize,
        wait: Duration,
    },
    /// All of them at once.
    StoreDown {
        wait: Duration,
    },
    Freeze {
        runner: usize,
        wait: Duration,
    },
    /// Nothing is claimed for so long: of all, or of the one owner.
    Pause {
        all: bool,
        wait: Duration,
    },
    /// One that has ended is to be done again.
    Retry {
        id: String,
        from_start: bool,
    },
    /// Its wall clock jumps, ahead or back.
    Jump {
        runner: usize,
        millis: i64,
    },
    Die {
        runner: usize,
        death: Death,
    },
    Drain {
        runner: usize,
    },
}

/// What the providers are like.
#[derive(Clone, Debug)]
pub struct Character {
    limit_kind: LimitKind,
    requests_per_minute: Option<u64>,
    tokens_per_minute: Option<u64>,
    tell_limits: bool,
    retry_after: RetryAfter,
    count_rejected: bool,
    latency: Latency,
    lag: Duration,
    points_per_minute: u64,
    secondary_retry_after: bool,
}

impl Character {
    pub fn apply(&self, config: &mut WorldConfig) {
        config.llm.limit_kind = self.limit_kind;
        config.llm.requests_per_minute = self.requests_per_minute;
        config.llm.tokens_per_minute = self.tokens_per_minute;
        config.llm.tell_limits = self.tell_limits;
        config.llm.retry_after = self.retry_after;
        config.llm.count_rejected = self.count_rejected;
        config.latency = self.latency;
        config.github.lag = self.lag;
        config.github.points_per_minute = self.points_per_minute;
        config.github.secondary_retry_after = self.secondary_retry_after;
    }
}

/// A seed's story, as it is meant to go.
#[derive(Clone, Debug)]
pub struct Plan {
    pub seed: u64,
    pub world: Character,
    pub installation: u64,
    pub config: String,
    pub runners: usize,
    pub replaced_after: Duration,
    pub faults: Vec<FaultRule>,
    pub weather: Weather,
    pub rates: Rates,
    pub panics: u32,
    pub happenings: Vec<(Duration, Happening)>,
    pub quiet_at: Duration,
}

const CHAT: &[Operation] = &[Operation::Chat];
const GITHUB: &[Operation] = &[
    Operation::TokenCreate,
    Operation::TokenRevoke,
    Operation::User,
    Operation::App,
    Operation::Repo,
    Operation::CommentList,
    Operation::CommentCreate,
    Operation::CommentCreate,
    Operation::CommentEdit,
    Operation::PullList,
    Operation::PullCreate,
    Operation::PullCreate,
];

/// Seeds from here on also tell the workers the model's limit, every other time.
const KNOWN_LIMITS_FROM: u64 = 10_000;

const GIT: &[Operation] = &[Operation::GitFetch, Operation::GitPush, Operation::GitPush];

struct Dice(StdRng);

impl Dice {
    fn of(&mut self, range: std::ops::Range<u64>) -> u64 {
        self.0.random_range(range)
    }

    fn chance(&mut self, share: f64) -> bool {
        self.0.random::<f64>() < share
    }

    fn secs(&mut self, range: std::ops::Range<u64>) -> Duration {
        Duration::from_millis(self.0.random_range(range.start * 1000..range.end * 1000))
    }

    fn pick<T: Clone>(&mut self, of: &[T]) -> T {
        of[self.0.random_range(0..of.len())].clone()
    }

    fn model_fault(&mut self) -> Fault {
        let (seconds, bytes) = (self.of(1..120), self.of(0..2000) as usize);
        match self.of(0..14) {
            0 => Fault::rate_limited_retry_after(seconds * 8),
            1 => Fault::rate_limited_retry_after_ms(seconds * 700),
            2 => Fault::rate_limited_reset(seconds),
            3 => Fault::rate_limited_bare(),
            4 => Fault::insufficient_quota(),
            5 => Fault::html_502(),
            6 => Fault::unavailable(seconds),
            7 => Fault::Hang,
            8 => Fault::Reset,
            9 => Fault::CutBody { after: bytes },
            10 => Fault::SilentAfter { after: bytes },
            11 => Fault::SlowStream { pause_ms: 200, piece: 100 },
            12 => Fault::error_in_200(502),
            13 => Fault::error_in_stream(502),
            _ => Fault::DoneButLost,
        }
    }

    fn github_fault(&mut self) -> Fault {
        let (seconds, bytes) = (self.of(1..120), self.of(0..400) as usize);
        match self.of(0..11) {
            0 => Fault::secondary_limit(Some(seconds)),
            1 => Fault::secondary_limit(None),
            2 => Fault::primary_limit(Duration::from_secs(seconds * 15)),
            3 => Fault::rate_limited_retry_after(seconds),
            4 => Fault::html_502(),
            5 => Fault::unavailable(seconds),
            6 => Fault::Hang,
            7 => Fault::Reset,
            8 => Fault::CutBody { after: bytes },
            _ => Fault::DoneButLost,
        }
    }

    fn git_fault(&mut self) -> Fault {
        match self.of(0..6) {
            0 => Fault::html_502(),
            1 => Fault::unavailable(5),
            2 => Fault::Hang,
            3 => Fault::Reset,
            4 => Fault::SilentAfter { after: 0 },
            _ => Fault::DoneButLost,
        }
    }

    fn rule(&mut self) -> FaultRule {
        let (skip, times) = (self.of(0..8), self.of(1..5));
        let (operations, fault) = match self.of(0..5) {
            0 | 1 => (CHAT, self.model_fault()),
            2 | 3 => (GITHUB, self.github_fault()),
            _ => (GIT, self.git_fault()),
        };
        FaultRule::next(Target::Operation(self.pick(operations)), times, fault).after(skip)
    }

    /// A provider fails in one way for minutes.
    fn spell(&mut self) -> FaultRule {
        let (from, lasts) = (self.secs(0..600), self.secs(10..900));
        let (server, fault) = match self.of(0..5) {
            0 | 1 => (Server::Llm, self.model_fault()),
            2 | 3 => (Server::Github, self.github_fault()),
            _ => (Server::Git, self.git_fault()),
        };
        FaultRule::between(Target::Server(server), from, from + lasts, fault)
    }

    fn character(&mut self) -> Character {
        let limited = self.chance(0.6);
        Character {
            limit_kind: match self.chance(0.5) {
                true => LimitKind::Fixed,
                false => LimitKind::Bucket { holds: self.secs(1..60) },
            },
            requests_per_minute: limited.then(|| self.of(4..60)),
            tokens_per_minute: self.chance(0.3).then(|| self.of(60_000..300_000)),
            tell_limits: self.chance(0.5),
            retry_after: match self.of(0..3) {
                0 => RetryAfter::True,
                1 => RetryAfter::Always(self.secs(1..60)),
                _ => RetryAfter::Hidden,
            },
            count_rejected: self.chance(0.5),
            latency: if self.chance(0.7) { Latency::lifelike() } else { Latency::none() },
            lag: if self.chance(0.5) { self.secs(0..4) } else { Duration::ZERO },
            points_per_minute: self.pick(&[900, 900, 60]),
            secondary_retry_after: self.chance(0.5),
        }
    }

    fn happening(&mut self, kind: Kind, jobs: u64, by_app: bool) -> Happening {
        let runner = self.of(0..4) as usize;
        match kind {
            Kind::LoseStore => Happening::LoseStore { runner, wait: self.secs(1..150) },
            Kind::StoreDown => Happening::StoreDown { wait: self.secs(1..150) },
            Kind::Freeze => Happening::Freeze { runner, wait: self.secs(1..150) },
            Kind::Die => {
                let at = self.pick(DEATHBEDS);
                let skip = match at {
                    Deathbed::Append | Deathbed::Request | Deathbed::Tool => self.of(0..20),
                    Deathbed::Settle | Deathbed::Claim | Deathbed::Renew => self.of(0..3),
                    Deathbed::Replay | Deathbed::Git => self.of(0..3),
                };
                let death = Death { at, skip: skip as u32, done: self.chance(0.5) };
                Happening::Die { runner, death }
            }
            Kind::Drain => Happening::Drain { runner },
            Kind::Cancel => Happening::Cancel { id: name(self.of(0..jobs)) },
            Kind::SubmitAgain => Happening::SubmitAgain { id: name(self.of(0..jobs)) },
            Kind::Pause => Happening::Pause { all: self.chance(0.5), wait: self.secs(1..200) },
            Kind::Retry => Happening::Retry { id: name(self.of(0..jobs)), from_start: self.chance(0.5) },
            Kind::Jump => {
                // An App's signed token is refused by GitHub where the clock is far off.
                let most = if by_app { 20_000 } else { self.pick(&[20_000, 600_000, 7_200_000]) };
                Happening::Jump { runner, millis: self.of(0..2 * most) as i64 - most as i64 }
            }
        }
    }
}

/// What may be done to a fleet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    LoseStore,
    StoreDown,
    Freeze,
    Die,
    Drain,
    Cancel,
    SubmitAgain,
    Pause,
    Retry,
    Jump,
}

const KINDS: &[Kind] = &[
    Kind::LoseStore,
    Kind::StoreDown,
    Kind::Freeze,
    Kind::Freeze,
    Kind::Die,
    Kind::Die,
    Kind::Die,
    Kind::Drain,
    Kind::Cancel,
    Kind::SubmitAgain,
    Kind::Pause,
    Kind::Retry,
    Kind::Jump,
];

const DEATHBEDS: &[Deathbed] = &[
    Deathbed::Append,
    Deathbed::Append,
    Deathbed::Settle,
    Deathbed::Claim,
    Deathbed::Renew,
    Deathbed::Replay,
    Deathbed::Request,
    Deathbed::Request,
    Deathbed::Git,
    Deathbed::Tool,
];

fn name(number: u64) -> String {
    format!("job-{number}")
}

impl Plan {
    /// Each seed switches some kinds of trouble on and the others off: a story with all of them at once
    /// hides what two of them do together.
    pub fn from_seed(seed: u64) -> Plan {
        let mut dice = Dice(StdRng::seed_from_u64(seed));
        let jobs = dice.of(2..6);
        let first = dice.of(0..12);
        let installation = dice.pick(&[0, 7001]);
        let mut happenings = Vec::new();
        for number in 0..jobs {
            let issue = 1 + (first + number) % 12;
            happenings.push((dice.secs(0..240), Happening::Submit { id: name(number), issue }));
        }
        let mut kinds: Vec<Kind> = KINDS.iter().copied().filter(|_| dice.chance(0.5)).collect();
        if kinds.is_empty() {
            kinds.push(dice.pick(KINDS));
        }
        for _ in 0..dice.of(0..8) {
            let kind = dice.pick(&kinds);
            happenings.push((dice.secs(5..900), dice.happening(kind, jobs, installation != 0)));
        }
        let stormy = dice.chance(0.6);
        let share = |dice: &mut Dice, most: f64| match stormy && dice.chance(0.7) {
            true => dice.0.random::<f64>() * most,
            false => 0.0,
        };
        let rates = Rates {
            refused: share(&mut dice, 0.1),
            denied: share(&mut dice, 0.1),
            late: share(&mut dice, 0.2),
            panic: share(&mut dice, 0.02),
        };
        let mut weather = Weather::default();
        if dice.chance(0.5) {
            let mut share = |most: f64| if dice.chance(0.6) { dice.0.random::<f64>() * most } else { 0.0 };
            weather = Weather { llm: share(0.25), github: share(0.25), git: share(0.25) };
        }
        let mut faults = Vec::new();
        if dice.chance(0.7) {
            faults.extend((0..dice.of(1..10)).map(|_| dice.rule()));
        }
        if dice.chance(0.5) {
            faults.extend((0..dice.of(1..3)).map(|_| dice.spell()));
        }
        let (slots, flight) = (dice.of(1..5), dice.of(0..4));
        // Crashes are what is being made: none of them is to set a job aside.
        let config = format!(
            "job.concurrency = {slots}\nllm.limits.concurrency = {flight}\njob.max_crashes = 100\n\
             job.max_attempts = {}\n",
            dice.pick(&[5, 1000])
        );
        let world = dice.character();
        let mut plan = Plan {
            seed,
            world,
            installation,
            config,
            runners: dice.of(1..4) as usize,
            replaced_after: dice.secs(1..60),
            faults,
            weather,
            rates,
            panics: dice.of(0..4) as u32,
            happenings,
            quiet_at: dice.secs(905..1800),
        };
        // Drawn last, so that older seeds stay what they were.
        let known = seed >= KNOWN_LIMITS_FROM && dice.chance(0.5);
        if let Some(limit) = plan.world.requests_per_minute.filter(|_| known) {
            plan.config.push_str(&format!("llm.limits.requests_per_minute = {limit}\n"));
        }
        plan
    }
}
