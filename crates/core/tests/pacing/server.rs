//! A server with a true limit, of any kind; what it tells of it is another matter.

use std::collections::VecDeque;
use std::time::Duration;

use steadfast_core::budget::Kind;
use steadfast_core::headers::{Observed, Window};

/// What a rejection says.
#[derive(Clone, Copy, PartialEq, Debug)]
pub enum RetryAfter {
    Hidden,
    True,
    Sixty,
}

/// One counted dimension. Times are seconds.
#[derive(Clone, Debug)]
pub struct Meter {
    pub kind: Kind,
    /// Allowed a window, from when on.
    pub most: Vec<(f64, f64)>,
    pub window: f64,
    pub burst_share: f64,
    /// What had passed of a fixed window at the beginning.
    pub passed: f64,
    level: f64,
    at: f64,
    number: f64,
    log: VecDeque<(f64, f64)>,
}

impl Meter {
    pub fn new(kind: Kind, most: f64, passed: f64) -> Self {
        let share = 1.0 / 6.0;
        let level = if kind == Kind::Bucket { most * share } else { 0.0 };
        Meter {
            kind,
            most: vec![(0.0, most)],
            window: 60.0,
            burst_share: share,
            passed,
            level,
            at: 0.0,
            number: -1.0,
            log: VecDeque::new(),
        }
    }

    pub fn limit(&self, now: f64) -> f64 {
        self.most.iter().rev().find(|(from, _)| *from <= now).map_or(0.0, |(_, most)| *most)
    }

    fn burst(&self, now: f64) -> f64 {
        (self.limit(now) * self.burst_share).max(1.0)
    }

    fn advance(&mut self, now: f64) {
        match self.kind {
            Kind::Bucket => {
                self.level += (now - self.at).max(0.0) * self.limit(now) / self.window;
                self.level = self.level.min(self.burst(now));
            }
            Kind::Fixed => {
                let number = ((now + self.passed) / self.window).floor();
                if number > self.number {
                    self.number = number;
                    self.level = 0.0;
                }
            }
            Kind::Rolling => {
                while let Some((_, amount)) = self.log.front().filter(|(at, _)| *at + self.window <= now) {
                    self.level -= amount;
                    self.log.pop_front();
                }
            }
        }
        self.at = self.at.max(now);
    }

    fn edge(&self) -> f64 {
        (self.number + 1.0) * self.window - self.passed
    }

    /// How long until `amount` is let in, as things stand; zero: now.
    pub fn wait(&mut self, now: f64, amount: f64) -> f64 {
        self.advance(now);
        let limit = self.limit(now);
        match self.kind {
            Kind::Bucket => {
                let need = amount.min(self.burst(now));
                ((need - self.level) / limit * self.window - 1e-9).max(0.0)
            }
            Kind::Fixed if self.level + amount <= limit || self.level == 0.0 => 0.0,
            Kind::Fixed => self.edge() - now + 1e-6,
            Kind::Rolling => {
                let mut over = self.level + amount - limit;
                let mut until = now;
                for (at, amount) in &self.log {
                    if over <= 0.0 {
                        break;
                    }
                    over -= amount;
                    until = at + self.window + 1e-6;
                }
                until - now
            }
        }
    }

    pub fn charge(&mut self, now: f64, amount: f64) {
        match self.kind {
            Kind::Bucket => self.level -= amount,
            Kind::Fixed => self.level += amount,
            Kind::Rolling => {
                self.level += amount;
                self.log.push_back((now, amount));
            }
        }
    }

    /// Somebody else takes one, as long as anything like it is left.
    pub fn seize(&mut self, now: f64) {
        self.advance(now);
        self.charge(now, 1.0);
    }

    /// The usage of a request let in at `at` turned out to be another.
    pub fn correct(&mut self, now: f64, at: f64, by: f64) {
        self.advance(now);
        match self.kind {
            Kind::Bucket => self.level = (self.level - by).min(self.burst(now)),
            Kind::Fixed if ((at + self.passed) / self.window).floor() < self.number => {}
            Kind::Fixed => self.level = (self.level + by).max(0.0),
            Kind::Rolling => {
                if let Some(entry) = self.log.iter_mut().find(|(sent, _)| *sent == at) {
                    entry.1 += by;
                    self.level += by;
                }
            }
        }
    }

    fn told(&self, now: f64) -> Window {
        let limit = self.limit(now);
        let (remaining, reset) = match self.kind {
            Kind::Bucket => (self.level, (self.burst(now) - self.level) / limit * self.window),
            Kind::Fixed => (limit - self.level, self.edge() - now),
            Kind::Rolling => {
                let whole = self.log.back().map_or(0.0, |(at, _)| at + self.window - now);
                (limit - self.level, whole)
            }
        };
        Window {
            limit: Some(limit as u64),
            remaining: Some(remaining.max(0.0).floor() as u64),
            reset: Some(Duration::from_millis((reset.max(0.0) * 1000.0) as u64)),
        }
    }
}

#[derive(Clone, Debug)]
pub struct Server {
    pub requests: Meter,
    pub tokens: Option<Meter>,
    pub headers: bool,
    pub retry_after: RetryAfter,
}

pub struct Answer {
    pub accepted: bool,
    pub observed: Observed,
    pub retry_after: Option<Duration>,
}

impl Server {
    pub fn wait(&mut self, now: f64, tokens: f64) -> f64 {
        let requests = self.requests.wait(now, 1.0);
        self.tokens.as_mut().map_or(requests, |meter| meter.wait(now, tokens).max(requests))
    }

    pub fn arrive(&mut self, now: f64, tokens: f64) -> Answer {
        let wait = self.wait(now, tokens);
        let accepted = wait <= 0.0;
        if accepted {
            self.requests.charge(now, 1.0);
            if let Some(meter) = &mut self.tokens {
                meter.charge(now, tokens);
            }
        }
        let observed = if self.headers {
            let tokens = self.tokens.as_ref().map(|meter| meter.told(now));
            Observed { requests: Some(self.requests.told(now)), tokens, resource: None }
        } else {
            Observed::default()
        };
        let retry_after = match self.retry_after {
            RetryAfter::Hidden | RetryAfter::True | RetryAfter::Sixty if accepted => None,
            RetryAfter::Hidden => None,
            RetryAfter::True => Some(Duration::from_secs(wait.ceil().max(1.0) as u64)),
            RetryAfter::Sixty => Some(Duration::from_secs(60)),
        };
        Answer { accepted, observed, retry_after }
    }
}
