//! Death and restart: backoff, escalation, and jobs put back by message.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use actix::{Actor, Context, Handler, Message};
use tokio::sync::watch;
use tokio::time::Instant;

use super::alerts::Hook;
use super::{paused, settings};
use crate::address::{Address, Metered, SendError, address};
use crate::alerts::{Alarm, Alerts, Flush};
use crate::held::Held;
use crate::meter::Meter;
use crate::supervisor::{ChildSpec, Escalation, Lifeline, Supervisor};

/// Dies when told to.
struct Mortal {
    _lifeline: Lifeline,
}

impl Actor for Mortal {
    type Context = Context<Self>;
}

struct Die;
impl Message for Die {
    type Result = ();
}

impl Handler<Metered<Die>> for Mortal {
    type Result = ();
    fn handle(&mut self, message: Metered<Die>, _: &mut Self::Context) {
        let (Die, _handling) = message.open();
        panic!("on purpose");
    }
}

struct Greet;
impl Message for Greet {
    type Result = String;
}

impl Handler<Metered<Greet>> for Mortal {
    type Result = String;
    fn handle(&mut self, message: Metered<Greet>, _: &mut Self::Context) -> String {
        let (Greet, _handling) = message.open();
        "alive".to_owned()
    }
}

struct Bench {
    mortal: Address<Mortal>,
    started: Arc<AtomicU32>,
    escalation: watch::Receiver<Escalation>,
    alerts: Address<Alerts>,
    told: Arc<Hook>,
}

/// A Supervisor over one mortal.
fn bench() -> Bench {
    let started = Arc::new(AtomicU32::new(0));
    let (mortal, binding) = address(Meter::new("mortal"), 100);
    let count = Arc::clone(&started);
    let start = move |lifeline: Lifeline| {
        count.fetch_add(1, Ordering::Relaxed);
        binding.bind(Mortal { _lifeline: lifeline }.start());
    };
    let child = ChildSpec { meter: Arc::clone(mortal.meter()), start: Box::new(start), holds_jobs: false };
    let (me, supervisor) = address(Meter::new("supervisor"), 100);
    let (jobs, _nobody) = address(Meter::new("job_supervisor"), 100);
    let (escalate, escalation) = watch::channel(None);
    let settings = settings().supervisor;
    let (told, alerts) = super::alerts::bench([]);
    let actor = Supervisor::new(settings, vec![child], me, jobs, Held::new(), escalate);
    supervisor.bind(actor.alerting(Alarm(alerts.clone())).start());
    // The Supervisor lives as long as the binding's actor does.
    Bench { mortal, started, escalation, alerts, told }
}

#[test]
fn a_dead_actor_is_started_again_after_a_growing_backoff() {
    paused(async {
        let bench = bench();
        assert_eq!(bench.mortal.send(Greet).await, Ok("alive".to_owned()));
        for envelope_ms in [100.0, 200.0, 400.0] {
            assert_eq!(bench.mortal.send(Die).await, Err(SendError::Gone("mortal")));
            let died = Instant::now();
            assert_eq!(
                bench.mortal.send(Greet).await,
                Ok("alive".to_owned()),
                "the same address leads to the next"
            );
            let away = died.elapsed().as_secs_f64() * 1000.0;
            assert!((envelope_ms * 0.8..=envelope_ms * 1.2 + 5.0).contains(&away), "{away} of {envelope_ms}");
        }
        assert_eq!(bench.started.load(Ordering::Relaxed), 4);
        assert_eq!(bench.mortal.meter().read().restarts, 3);
        assert_eq!(*bench.escalation.borrow(), None);
    });
}

#[test]
fn too_many_restarts_within_the_window_escalate_and_few_over_a_long_time_do_not() {
    paused(async {
        let bench = bench();
        for _ in 0..6 {
            assert!(bench.mortal.send(Die).await.is_err());
            tokio::time::sleep(Duration::from_secs(61)).await;
        }
        assert_eq!(*bench.escalation.borrow(), None, "one a minute is no storm");
        for _ in 0..4 {
            assert!(bench.mortal.send(Die).await.is_err());
        }
        let mut escalation = bench.escalation.clone();
        let waited = tokio::time::timeout(Duration::from_secs(1), escalation.wait_for(Option::is_some)).await;
        let why = waited.expect("four within a minute").unwrap().clone().unwrap();
        assert!(why.contains("mortal"), "{why}");
        bench.alerts.send(Flush).await.unwrap();
        let told = bench.told.told();
        assert_eq!((told.len(), told[0]["event"].as_str()), (1, Some("escalation")), "{told:?}");
    });
}
