//! The scenarios of the table, with what a row must hold.

use steadfast_core::budget::{Kind, LimitSettings, WindowKind};

use crate::server::{Meter, RetryAfter, Server};

#[derive(Clone, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub kind: Kind,
    pub server: Server,
    pub settings: LimitSettings,
    pub rpm: f64,
    pub jobs: usize,
    pub calls: usize,
    pub at_once: usize,
    /// Seconds that a stranger takes another share of the key for; 0: there is none.
    pub strangers: f64,
    /// How far an estimate is off, as a share.
    pub estimate_error: f64,
    pub most_x: f64,
    pub most_429: f64,
    pub fleet: Processes,
}

/// The processes that share the key, and what becomes of them. Times are seconds.
#[derive(Clone, Debug)]
pub struct Processes {
    pub processes: usize,
    /// Half of them are killed then.
    pub kill_at: Option<f64>,
    /// One is there at first; the rest join within a minute and leave from `leave_at` on.
    pub join: bool,
    pub leave_at: f64,
    /// The ledger cannot be reached in this time.
    pub away: Option<(f64, f64)>,
}

impl Processes {
    pub fn of(processes: usize) -> Self {
        Processes { processes, kill_at: None, join: false, leave_at: 0.0, away: None }
    }
}

/// `(name, kind, headers, config, retry-after, x, share of 429)`.
type Row = (&'static str, Kind, bool, bool, RetryAfter, f64, f64);

const ROWS: &[Row] = &[
    ("known-bucket", Kind::Bucket, false, true, RetryAfter::Hidden, 1.05, 0.01),
    ("known-fixed", Kind::Fixed, false, true, RetryAfter::Hidden, 1.05, 0.01),
    ("known-rolling", Kind::Rolling, false, true, RetryAfter::Hidden, 1.05, 0.01),
    ("told-bucket", Kind::Bucket, true, false, RetryAfter::True, 1.05, 0.01),
    ("told-fixed", Kind::Fixed, true, false, RetryAfter::True, 1.05, 0.01),
    ("told-rolling", Kind::Rolling, true, false, RetryAfter::True, 1.05, 0.01),
    ("tokens", Kind::Bucket, true, false, RetryAfter::True, 1.08, 0.02),
    ("retry-after", Kind::Bucket, false, false, RetryAfter::True, 1.08, 0.03),
    ("retry-after", Kind::Fixed, false, false, RetryAfter::True, 1.08, 0.03),
    ("retry-after-60", Kind::Bucket, false, false, RetryAfter::Sixty, 1.15, 0.03),
    ("retry-after-60", Kind::Fixed, false, false, RetryAfter::Sixty, 1.15, 0.03),
    ("blind-bucket", Kind::Bucket, false, false, RetryAfter::Hidden, 1.20, 0.08),
    ("blind-fixed", Kind::Fixed, false, false, RetryAfter::Hidden, 1.20, 0.08),
    ("blind-rolling", Kind::Rolling, false, false, RetryAfter::Hidden, 1.20, 0.08),
    ("halve", Kind::Bucket, false, false, RetryAfter::Hidden, 1.15, 0.08),
    ("halve", Kind::Fixed, false, false, RetryAfter::Hidden, 1.15, 0.08),
    ("halve-told", Kind::Bucket, true, false, RetryAfter::True, 1.15, 0.08),
    ("double", Kind::Bucket, false, false, RetryAfter::Hidden, 1.15, 0.08),
    ("double", Kind::Fixed, false, false, RetryAfter::Hidden, 1.15, 0.08),
    ("double-told", Kind::Bucket, true, false, RetryAfter::True, 1.15, 0.08),
    ("strangers", Kind::Bucket, true, true, RetryAfter::True, 1.15, 0.08),
    ("strangers", Kind::Fixed, true, true, RetryAfter::True, 1.15, 0.08),
    ("strangers", Kind::Rolling, true, true, RetryAfter::True, 1.15, 0.08),
];

/// All scenarios at `rpm`; `phase` in 0 to 1 is what had passed of a fixed window.
pub fn all(rpm: f64, jobs: usize, calls: usize, at_once: usize, phase: f64) -> Vec<Scenario> {
    let row = |&(name, kind, headers, config, retry_after, most_x, most_429): &Row| {
        let base = name.split('-').next().unwrap_or(name);
        let mut requests = Meter::new(kind, rpm, phase * 60.0);
        let total = (jobs * calls) as f64 / rpm * 60.0;
        match base {
            "halve" => requests.most.push((total / 2.0, rpm / 2.0)),
            "double" => requests.most.push((total / 3.0, rpm * 2.0)),
            _ => {}
        }
        // Sizes vary by 100 about a mean of 2,150: half of the requests' limit can be used.
        let tokens = (name == "tokens").then(|| Meter::new(kind, rpm * 2_150.0 / 2.0, phase * 60.0));
        let window = match (config, kind) {
            (false, _) => WindowKind::Auto,
            (true, Kind::Bucket) => WindowKind::Bucket,
            (true, Kind::Fixed) => WindowKind::Fixed,
            (true, Kind::Rolling) => WindowKind::Rolling,
        };
        let known = |value: f64| if config { value as u32 } else { 0 };
        let burst = if kind == Kind::Bucket { known((rpm / 6.0).max(1.0)) } else { 0 };
        Scenario {
            name,
            kind,
            server: Server { requests, tokens, headers, retry_after },
            settings: LimitSettings {
                requests_per_minute: known(rpm),
                tokens_per_minute: 0,
                concurrency: 0,
                window,
                burst,
            },
            rpm,
            jobs,
            calls,
            at_once,
            strangers: if name == "strangers" { 90.0 } else { 0.0 },
            estimate_error: if name == "tokens" { 0.5 } else { 0.0 },
            most_x,
            most_429,
            fleet: Processes::of(1),
        }
    };
    ROWS.iter().map(row).collect()
}
