//! Mailbox meters: plain shared numbers that every send and every handler moves, and anybody reads.

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::time::Instant;

/// Longest time that is told apart; longer ones count as this long.
const LONGEST: Duration = Duration::from_secs(24 * 3600);

/// The meters of one actor's mailbox. They outlive the actor's restarts.
pub struct Meter {
    name: &'static str,
    depth: AtomicUsize,
    high_water: AtomicUsize,
    handled: AtomicU64,
    rejected: AtomicU64,
    restarts: AtomicU32,
    times: Mutex<Times>,
}

/// Time in the mailbox and in the handler, in microseconds.
#[derive(Clone)]
struct Times {
    wait: Histogram<u64>,
    handle: Histogram<u64>,
}

/// Median, 99th percentile and maximum of a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spread {
    /// Half were at most this long.
    pub p50: Duration,
    /// All but one in a hundred were at most this long.
    pub p99: Duration,
    /// The longest.
    pub max: Duration,
}

/// What a meter says at one moment.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The actor's name.
    pub name: &'static str,
    /// Messages sent and not yet taken up.
    pub depth: usize,
    /// The greatest depth so far.
    pub high_water: usize,
    /// Messages whose handling has ended, since the start.
    pub handled: u64,
    /// Messages that were told no because the mailbox was full, since the start.
    pub rejected: u64,
    /// Restarts after a death, since the start.
    pub restarts: u32,
    /// Time in the mailbox, of the messages taken up since the last reading.
    pub wait: Spread,
    /// Time from taking up to the end of handling, of the messages ended since the last reading.
    pub handle: Spread,
}

impl Meter {
    /// A meter for the actor called `name`.
    pub fn new(name: &'static str) -> Arc<Meter> {
        Arc::new(Meter {
            name,
            depth: AtomicUsize::new(0),
            high_water: AtomicUsize::new(0),
            handled: AtomicU64::new(0),
            rejected: AtomicU64::new(0),
            restarts: AtomicU32::new(0),
            times: Mutex::new(Times { wait: histogram(), handle: histogram() }),
        })
    }

    /// The actor's name.
    pub fn name(&self) -> &'static str {
        self.name
    }

    /// Counts a restart.
    pub(crate) fn restarted(&self) {
        self.restarts.fetch_add(1, Ordering::Relaxed);
    }

    /// Counts a message that was told no.
    pub(crate) fn rejected(&self) {
        self.rejected.fetch_add(1, Ordering::Relaxed);
    }

    /// The reading of this moment; begins the next interval of the times.
    pub fn read(&self) -> Reading {
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        let reading = Reading {
            name: self.name,
            depth: self.depth.load(Ordering::Relaxed),
            high_water: self.high_water.load(Ordering::Relaxed),
            handled: self.handled.load(Ordering::Relaxed),
            rejected: self.rejected.load(Ordering::Relaxed),
            restarts: self.restarts.load(Ordering::Relaxed),
            wait: spread(&times.wait),
            handle: spread(&times.handle),
        };
        times.wait.reset();
        times.handle.reset();
        reading
    }

    fn record(&self, of: impl Fn(&mut Times) -> &mut Histogram<u64>, took: Duration) {
        let micros = u64::try_from(took.min(LONGEST).as_micros()).unwrap_or(u64::MAX);
        let mut times = self.times.lock().unwrap_or_else(PoisonError::into_inner);
        of(&mut times).saturating_record(micros);
    }
}

fn histogram() -> Histogram<u64> {
    let longest = u64::try_from(LONGEST.as_micros()).unwrap_or(u64::MAX);
    // Two significant digits within fixed bounds: the arguments are constants that are in range.
    #[expect(clippy::expect_used, reason = "constant arguments, covered by every test of a meter")]
    Histogram::new_with_bounds(1, longest, 2).expect("bounds are in range")
}

fn spread(times: &Histogram<u64>) -> Spread {
    let at = |quantile| Duration::from_micros(times.value_at_quantile(quantile));
    if times.is_empty() {
        return Spread::default();
    }
    Spread { p50: at(0.5), p99: at(0.99), max: Duration::from_micros(times.max()) }
}

/// A message on its way: counted in the depth until it is taken up or dropped.
pub(crate) struct InMailbox {
    meter: Arc<Meter>,
    since: Instant,
}

impl InMailbox {
    pub(crate) fn enter(meter: &Arc<Meter>) -> Self {
        let depth = meter.depth.fetch_add(1, Ordering::Relaxed) + 1;
        meter.high_water.fetch_max(depth, Ordering::Relaxed);
        InMailbox { meter: Arc::clone(meter), since: Instant::now() }
    }

    /// The message is taken up: its handling begins.
    pub(crate) fn open(self) -> Handling {
        self.meter.record(|times| &mut times.wait, self.since.elapsed());
        Handling { meter: Arc::clone(&self.meter), since: Instant::now() }
    }
}

impl Drop for InMailbox {
    fn drop(&mut self) {
        self.meter.depth.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A message being handled; the handler keeps it until its work, futures included, has ended.
#[must_use = "handling is timed until this is dropped"]
pub struct Handling {
    meter: Arc<Meter>,
    since: Instant,
}

impl Drop for Handling {
    fn drop(&mut self) {
        self.meter.record(|times| &mut times.handle, self.since.elapsed());
        self.meter.handled.fetch_add(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn counts_depth_and_times() {
        let meter = Meter::new("test");
        let first = InMailbox::enter(&meter);
        let second = InMailbox::enter(&meter);
        tokio::time::advance(Duration::from_secs(2)).await;
        let handling = first.open();
        tokio::time::advance(Duration::from_secs(1)).await;
        drop(handling);
        drop(second);
        let reading = meter.read();
        assert_eq!((reading.depth, reading.high_water, reading.handled), (0, 2, 1));
        assert!(reading.wait.max >= Duration::from_secs(2), "{:?}", reading.wait);
        assert!(reading.handle.p50 >= Duration::from_secs(1), "{:?}", reading.handle);
        assert_eq!(meter.read().wait, Spread::default(), "times begin anew with each reading");
    }
}
