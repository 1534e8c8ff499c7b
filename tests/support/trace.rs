//! What happened in a simulated story, line by line: when, in which process, for which job, what. The
//! same seed gives the same bytes.

use std::collections::VecDeque;
use std::fmt::Write;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Most lines that are kept; a story has some ten thousand.
const MOST: usize = 2_000_000;

/// See the module.
pub struct Trace {
    lines: Mutex<Vec<Line>>,
    begun: Instant,
}

struct Line {
    at: Duration,
    process: String,
    job: Option<String>,
    what: String,
}

impl Line {
    fn write(&self, to: &mut String) {
        let Line { at, process, job, what } = self;
        let (seconds, millis) = (at.as_secs(), at.subsec_millis());
        let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
        let job = job.as_deref().unwrap_or("-");
        // Writing to a string cannot fail.
        let _ = writeln!(to, "{hours:02}:{minutes:02}:{seconds:02}.{millis:03} {process:<9} {job:<6} {what}");
    }
}

impl Trace {
    /// Nothing yet; time counts from now.
    pub fn new() -> Trace {
        Trace { lines: Mutex::default(), begun: Instant::now() }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Line>> {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more line. `process` is who does it; the world and the test itself are processes too.
    pub fn note(&self, process: &str, job: Option<&str>, what: impl Into<String>) {
        let (process, job, what) = (process.to_owned(), job.map(str::to_owned), what.into());
        let mut lines = self.lock();
        if lines.len() < MOST {
            lines.push(Line { at: self.begun.elapsed(), process, job, what });
        }
    }

    /// All of it.
    pub fn whole(&self) -> String {
        let mut text = String::new();
        self.lock().iter().for_each(|line| line.write(&mut text));
        text
    }

    /// The last `most` lines that concern a job, and what concerns all: or simply the last.
    pub fn last(&self, most: usize, job: Option<&str>) -> String {
        let mut kept = VecDeque::new();
        let lines = self.lock();
        for line in lines.iter().rev() {
            let concerns = match (job, line.job.as_deref()) {
                (Some(job), Some(one)) => one == job,
                // Of what concerns no job only what is done to processes.
                (Some(_), None) => line.process == "test",
                (None, _) => true,
            };
            if concerns && kept.len() < most {
                kept.push_front(line);
            }
        }
        let mut text = String::new();
        kept.into_iter().for_each(|line| line.write(&mut text));
        text
    }
}
