//! Processes that share a budget, and what becomes of it when the one that keeps it dies.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use actix::Actor;
use steadfast_core::budget::WindowKind;
use steadfast_core::failure::Verdict;
use steadfast_core::headers::Observed;
use steadfast_core::time::Timestamp;
use steadfast_store::memory::MemoryStore;
use steadfast_store::{Ledger, Settings, Store};
use tokio::time::Instant;

use super::accountant::failure;
use super::{PausedClock, paused, settings};
use crate::accountant::{Acquire, BudgetKey, End, EndpointId, Fleetwide, Halt, Need, RateAccountant};
use crate::address::{Address, address};
use crate::calls::Order;
use crate::meter::Meter;
use crate::supervisor::Lifeline;

/// From when until when the provider is down, where it goes down.
const DOWN: (f64, f64) = (100.0, 700.0);

/// The ledger, and when each request went out, in seconds.
#[derive(Clone)]
struct Town {
    ledger: Arc<dyn Ledger>,
    begin: Instant,
    sent: Rc<RefCell<Vec<f64>>>,
    window: WindowKind,
    a_minute: u32,
    goes_down: bool,
}

/// A process with callers that send one request after the other.
struct Process {
    accountant: Address<RateAccountant>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Town {
    fn with(window: WindowKind, a_minute: u32) -> Self {
        let store = serde_json::json!({
            "url": "memory:", "prefix": "", "ca_file": "", "lease": "30s", "max_job_bytes": "1MB",
            "unique_issues": false, "keep_ended": "7d", "max_steps": 2000, "max_step_bytes": "1MB",
            "max_patch_bytes": "20MB", "max_journal_bytes": "50MB", "poll_interval": "100ms",
            "connect_timeout": "5s", "response_timeout": "5s",
        });
        let store: Settings = serde_json::from_value(store).unwrap();
        let store = MemoryStore::new(&store, Timestamp::from_secs(1_760_000_000), "a");
        Town {
            ledger: store.ledger(),
            begin: Instant::now(),
            sent: Rc::default(),
            window,
            a_minute,
            goes_down: false,
        }
    }

    fn process(&self, me: &str, callers: i64) -> Process {
        let mut settings = settings();
        settings.llm_spacing = Duration::ZERO;
        // As config.toml has them.
        settings.breaker.min_calls = 10;
        settings.breaker.open = Duration::from_secs(15);
        settings.breaker.open_max = Duration::from_secs(60);
        settings.llm_limits.requests_per_minute = self.a_minute;
        settings.llm_limits.window = self.window;
        settings.llm_limits.burst = u32::from(self.window == WindowKind::Bucket);
        let (accountant, binding) = address(Meter::new("rate_accountant"), 100);
        let (nobody, _) = address(Meter::new("supervisor"), 100);
        let lifeline = Lifeline::new(0, nobody);
        let actor =
            RateAccountant::new(&settings, Arc::new(PausedClock::new()), accountant.clone(), lifeline);
        let fleet = Fleetwide { ledger: Arc::clone(&self.ledger), me: me.to_owned() };
        binding.bind(actor.sharing(fleet).start());
        let tasks = (0..callers).map(|order| self.caller(&accountant, order)).collect();
        Process { accountant, tasks }
    }

    fn caller(&self, accountant: &Address<RateAccountant>, order: i64) -> tokio::task::JoinHandle<()> {
        let (town, accountant) = (self.clone(), accountant.clone());
        actix::spawn(async move {
            loop {
                let order = Order { priority: 0, admitted: Timestamp::from_secs(order) };
                let need = Need { operation: "chat", tokens: 1, order, is_retry: false };
                let patience = Duration::from_secs(3_600);
                let acquire = Acquire { key: BudgetKey::Llm(EndpointId(0)), need, patience };
                let Ok(ticket) = accountant.send(acquire).await else { return };
                let Ok(Ok(permit)) = ticket.permit().await else { return };
                permit.report(Observed::default(), town.answer().await).await;
            }
        })
    }

    async fn answer(&self) -> End {
        let at = self.begin.elapsed().as_secs_f64();
        self.sent.borrow_mut().push(at);
        let too_many = self.window == WindowKind::Fixed && self.sent.borrow().len() > self.a_minute as usize;
        tokio::time::sleep(Duration::from_millis(200)).await;
        let again = Verdict::Retry { after: None };
        if too_many {
            End::Failed(failure(again, 429, false))
        } else if self.goes_down && (DOWN.0..DOWN.1).contains(&at) {
            End::Failed(failure(again, 503, true))
        } else {
            End::Answered(None)
        }
    }

    /// How many were sent from then until then.
    fn between(&self, from: f64, until: f64) -> usize {
        self.sent.borrow().iter().filter(|at| (from..until).contains(at)).count()
    }
}

impl Process {
    /// It dies without a word.
    async fn kill(self) {
        self.tasks.iter().for_each(tokio::task::JoinHandle::abort);
        self.accountant.send(Halt).await.unwrap();
    }
}

async fn sleep(seconds: u64) {
    tokio::time::sleep(Duration::from_secs(seconds)).await;
}

#[test]
fn a_worker_that_is_killed_and_started_again_calls_at_once_and_not_too_often() {
    paused(async {
        let town = Town::with(WindowKind::Bucket, 60);
        let mut before = town.process("box-1#00", 4);
        let mut killed = 0.0;
        for life in 1..=5 {
            sleep(30).await;
            before.kill().await;
            killed = town.begin.elapsed().as_secs_f64();
            before = town.process(&format!("box-{life}#{life}"), 4);
            sleep(4).await;
            assert!(town.between(killed, killed + 3.0) > 0, "life {life}: {:?}", town.sent.borrow().last());
        }
        sleep(60).await;
        let all = town.sent.borrow().len() as f64;
        let seconds = town.begin.elapsed().as_secs_f64();
        assert!(all <= seconds * 1.02 + 1.0, "{all} in {seconds} s");
        assert!(all >= seconds * 0.9, "{all} in {seconds} s");
        assert!(killed > 150.0);
    });
}

/// How many are sent of a window's 60 and beyond, in 43 s, where the worker is killed after 3 or not.
async fn sent_of_a_window(is_killed: bool) -> usize {
    let town = Town::with(WindowKind::Fixed, 60);
    let mut worker = town.process("box-1#1", 2);
    sleep(3).await;
    let sent = town.sent.borrow().len();
    assert!((10..60).contains(&sent), "{sent}");
    if is_killed {
        worker.kill().await;
        worker = town.process("box-2#2", 2);
    }
    sleep(40).await;
    worker.kill().await;
    town.sent.borrow().len()
}

#[test]
fn what_a_dead_worker_sent_of_a_window_is_not_sent_again() {
    paused(async {
        // Some are sent to find the next window, whoever sends them.
        let (whole, killed) = (sent_of_a_window(false).await, sent_of_a_window(true).await);
        assert!(whole >= 60 && killed.abs_diff(whole) <= 1, "{whole}, and {killed} with a kill");
    });
}

#[test]
fn of_two_the_other_goes_on_when_the_keeper_dies() {
    paused(async {
        let town = Town::with(WindowKind::Bucket, 60);
        let keeper = town.process("box-1#1", 4);
        sleep(1).await;
        let _other = town.process("box-2#2", 4);
        sleep(60).await;
        keeper.kill().await;
        let killed = town.begin.elapsed().as_secs_f64();
        // A plan is told for 20 s at most, and a little more is waited for the next.
        sleep(120).await;
        let after = town.between(killed + 25.0, killed + 115.0) as f64;
        assert!((85.0..=92.0).contains(&after), "{after} in 90 s");
        let all = town.sent.borrow().len() as f64;
        let seconds = town.begin.elapsed().as_secs_f64();
        assert!(all <= seconds * 1.02 + 1.0, "{all} in {seconds} s");
    });
}

#[test]
fn a_fleet_sends_into_an_outage_what_one_process_would() {
    for a_minute in [60, 600] {
        for processes in [1, 16] {
            paused(async move {
                let town = Town { goes_down: true, ..Town::with(WindowKind::Bucket, a_minute) };
                let _all: Vec<_> = (0..processes).map(|n| town.process(&format!("box-{n}#{n}"), 2)).collect();
                sleep(900).await;
                let into = town.between(DOWN.0, DOWN.1);
                assert!((10..=26).contains(&into), "{into} of {processes} at {a_minute}");
                let pace = f64::from(a_minute) / 60.0;
                // Found within 72 s, and known to all.
                let after =
                    town.between(780.0, 900.0) as f64 / (120.0 * pace.min(f64::from(processes) * 10.0));
                assert!(after > 0.9, "{after} of the limit after it, {processes} at {a_minute}");
            });
        }
    }
}
