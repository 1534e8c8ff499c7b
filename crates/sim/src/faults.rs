//! What can go wrong: faults by script and by chance, each form of refusal by name.

mod forms;

use std::collections::VecDeque;
use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use crate::config::Weather;

/// What a request asks for; the name by which faults are aimed and records are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[expect(missing_docs, reason = "each is named for the request it is")]
pub enum Operation {
    Chat,
    Models,
    App,
    TokenCreate,
    TokenRevoke,
    User,
    RateLimit,
    Repo,
    Issue,
    CommentList,
    CommentGet,
    CommentCreate,
    CommentEdit,
    CommentDelete,
    RefGet,
    RefCreate,
    RefUpdate,
    RefDelete,
    Commit,
    PullList,
    PullGet,
    PullCreate,
    PullEdit,
    GitFetch,
    GitPush,
    Unknown,
}

/// Which server an operation belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Server {
    /// The model server.
    Llm,
    /// GitHub's REST API.
    Github,
    /// The git remote over HTTP.
    Git,
}

/// What kind of request an operation is.
enum Kind {
    Llm,
    GithubRead,
    GithubWrite,
    /// A write that GitHub counts as creating content.
    GithubContent,
    GitFetch,
    GitPush,
}

impl Operation {
    fn kind(self) -> Kind {
        match self {
            Operation::Chat | Operation::Models => Kind::Llm,
            Operation::App
            | Operation::TokenCreate
            | Operation::TokenRevoke
            | Operation::User
            | Operation::RateLimit
            | Operation::Repo
            | Operation::Issue
            | Operation::CommentList
            | Operation::CommentGet
            | Operation::RefGet
            | Operation::Commit
            | Operation::PullList
            | Operation::PullGet
            | Operation::Unknown => Kind::GithubRead,
            Operation::CommentEdit
            | Operation::CommentDelete
            | Operation::RefCreate
            | Operation::RefUpdate
            | Operation::RefDelete
            | Operation::PullEdit => Kind::GithubWrite,
            Operation::CommentCreate | Operation::PullCreate => Kind::GithubContent,
            Operation::GitFetch => Kind::GitFetch,
            Operation::GitPush => Kind::GitPush,
        }
    }

    /// Which server answers it.
    pub fn server(self) -> Server {
        match self.kind() {
            Kind::Llm => Server::Llm,
            Kind::GithubRead | Kind::GithubWrite | Kind::GithubContent => Server::Github,
            Kind::GitFetch | Kind::GitPush => Server::Git,
        }
    }

    /// Whether it changes what others see.
    pub fn is_write(self) -> bool {
        match self.kind() {
            Kind::GithubWrite | Kind::GithubContent | Kind::GitPush => true,
            Kind::Llm | Kind::GithubRead | Kind::GitFetch => false,
        }
    }

    /// Whether GitHub counts it as creating content.
    pub fn creates_content(self) -> bool {
        match self.kind() {
            Kind::GithubContent => true,
            Kind::Llm | Kind::GithubRead | Kind::GithubWrite | Kind::GitFetch | Kind::GitPush => false,
        }
    }
}

/// At which requests a fault is aimed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Target {
    /// All of them.
    Any,
    /// All of one server.
    Server(Server),
    /// One kind.
    Operation(Operation),
}

impl Target {
    fn matches(self, operation: Operation) -> bool {
        match self {
            Target::Any => true,
            Target::Server(server) => operation.server() == server,
            Target::Operation(aimed) => aimed == operation,
        }
    }
}

/// One way for a request to go wrong.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// An answer instead of the work.
    Status {
        /// Its status.
        code: u16,
        /// Its headers.
        headers: Vec<(String, String)>,
        /// Its body.
        body: String,
    },
    /// GitHub's primary limit, used up.
    PrimaryLimit {
        /// Seconds until it begins anew.
        reset_in: u64,
    },
    /// Never an answer, and no work.
    Hang,
    /// The connection breaks before an answer; no work was done.
    Reset,
    /// The work is done, then the connection breaks before an answer.
    DoneButLost,
    /// The work is done; the body ends early.
    CutBody {
        /// Bytes that arrive.
        after: usize,
    },
    /// The work is done; the body stops arriving and the connection stays.
    SilentAfter {
        /// Bytes that arrive.
        after: usize,
    },
    /// The work is done; the body comes in pieces with a pause before each.
    SlowStream {
        /// Milliseconds of each pause.
        pause_ms: u64,
        /// Bytes of each piece.
        piece: usize,
    },
}

/// A fault in the script.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FaultRule {
    /// Whom it hits.
    pub target: Target,
    /// What happens.
    pub fault: Fault,
    /// Requests that pass first.
    #[serde(default)]
    pub skip: u64,
    /// Requests that are hit; `None` is all from then on.
    #[serde(default)]
    pub times: Option<u64>,
    /// Not before this many milliseconds from the world's start.
    #[serde(default)]
    pub from_ms: Option<u64>,
    /// Not after this many milliseconds from the world's start.
    #[serde(default)]
    pub until_ms: Option<u64>,
}

impl FaultRule {
    /// The next `times` requests of this kind.
    pub fn next(target: Target, times: u64, fault: Fault) -> Self {
        FaultRule { target, fault, skip: 0, times: Some(times), from_ms: None, until_ms: None }
    }

    /// Every request of this kind between two times, counted from the world's start.
    pub fn between(target: Target, from: Duration, until: Duration, fault: Fault) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        FaultRule {
            target,
            fault,
            skip: 0,
            times: None,
            from_ms: Some(millis(from)),
            until_ms: Some(millis(until)),
        }
    }

    /// Lets `skip` requests pass first.
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }
}

/// The script and the dice.
pub(crate) struct FaultBook {
    rules: VecDeque<FaultRule>,
    weather: Weather,
    dice: StdRng,
}

impl FaultBook {
    pub(crate) fn new(seed: u64, weather: Weather) -> Self {
        FaultBook { rules: VecDeque::new(), weather, dice: StdRng::seed_from_u64(seed ^ 0xfa01) }
    }

    pub(crate) fn add(&mut self, rule: FaultRule) {
        self.rules.push_back(rule);
    }

    pub(crate) fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    pub(crate) fn clear(&mut self) {
        self.rules.clear();
        self.weather = Weather::default();
    }

    /// The fault that hits this request, `since_start` after the world began. The first rule that
    /// matches decides: it lets pass, or hits.
    pub(crate) fn draw(&mut self, operation: Operation, since_start: Duration) -> Option<Fault> {
        let millis = u64::try_from(since_start.as_millis()).unwrap_or(u64::MAX);
        let in_time = |rule: &FaultRule| {
            rule.from_ms.is_none_or(|from| millis >= from) && rule.until_ms.is_none_or(|until| millis < until)
        };
        let found = self.rules.iter().position(|rule| rule.target.matches(operation) && in_time(rule));
        if let Some(index) = found {
            let rule = &mut self.rules[index];
            if rule.skip > 0 {
                rule.skip -= 1;
                return None;
            }
            let fault = rule.fault.clone();
            if let Some(times) = &mut rule.times {
                *times = times.saturating_sub(1);
                if *times == 0 {
                    self.rules.remove(index);
                }
            }
            return Some(fault);
        }
        self.weather_fault(operation)
    }

    fn weather_fault(&mut self, operation: Operation) -> Option<Fault> {
        let rate = match operation.server() {
            Server::Llm => self.weather.llm,
            Server::Github => self.weather.github,
            Server::Git => self.weather.git,
        };
        if rate <= 0.0 || self.dice.random::<f64>() >= rate {
            return None;
        }
        let seconds = self.dice.random_range(1..=5);
        let cut = self.dice.random_range(0..400);
        let choice = self.dice.random_range(0..12);
        Some(match operation.server() {
            Server::Llm => match choice {
                0 => Fault::rate_limited_retry_after(seconds),
                1 => Fault::rate_limited_retry_after_ms(seconds * 700),
                2 => Fault::rate_limited_reset(seconds),
                3 => Fault::rate_limited_bare(),
                4 => Fault::html_502(),
                5 => Fault::unavailable(seconds),
                6 => Fault::Hang,
                7 => Fault::Reset,
                8 => Fault::CutBody { after: cut },
                9 => Fault::SilentAfter { after: cut },
                10 => Fault::error_in_200(502),
                _ => Fault::DoneButLost,
            },
            Server::Github => match choice {
                0 | 1 => Fault::secondary_limit(Some(seconds)),
                2 => Fault::secondary_limit(None),
                3 => Fault::primary_limit(Duration::from_secs(seconds * 10)),
                4 => Fault::Hang,
                5 => Fault::Reset,
                6 => Fault::CutBody { after: cut },
                7 | 8 => Fault::DoneButLost,
                9 => Fault::unavailable(seconds),
                _ => Fault::html_502(),
            },
            Server::Git => match choice {
                0..=3 => Fault::html_502(),
                4..=7 => Fault::Reset,
                8 => Fault::rate_limited_bare(),
                _ => Fault::CutBody { after: cut },
            },
        })
    }
}
