//! The same actors under simulated time: a job waits hours for a limit, and the test does not.

use std::time::Duration;

use steadfast_sim::{Fault, FaultRule, Operation, Target};
use steadfast_store::State;

use crate::support::in_process::{Village, field, paused};
use crate::support::job;

const HOUR: Duration = Duration::from_secs(3600);

#[test]
fn a_job_that_waits_hours_for_a_limit_completes() {
    paused(async {
        let village = Village::new(|_| {}, "", |store| store).await;
        let chat = Target::Operation(Operation::Chat);
        // A quarter of an hour each time, again and again, for three hours.
        let rule = FaultRule::between(chat, Duration::ZERO, 3 * HOUR, Fault::rate_limited_retry_after(900));
        village.world.fault(rule.after(2));
        let begin = village.world.now();
        village.store.submit(&job("patient", 1)).await.unwrap();
        let parked = village.wait_for("patient", State::Parked, HOUR).await;
        assert!(
            parked.waiting_for.is_some_and(|why| why.contains("rate limit")),
            "it says what it waits for"
        );
        let ended = village.wait_for("patient", State::Ended, 10 * HOUR).await;
        assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
        let took = village.world.now().since(begin);
        assert!(took >= 3 * HOUR - Duration::from_secs(900), "{took:?}");
        let records = village.world.records();
        assert_eq!(records.pulls.len(), 1);
        assert_eq!(records.paid_twice(), 0);
        let refused = records.faults.len();
        assert!(
            (3..40).contains(&refused),
            "{refused} refusals in three hours: a closed door is not hammered"
        );
        assert_eq!(ended.counts.attempts, 0, "waiting for a limit is no attempt");
    });
}

#[test]
fn a_fresh_worker_takes_the_first_job_at_once() {
    paused(async {
        let village = Village::new(|_| {}, "", |store| store).await;
        village.world.fault(FaultRule::next(Target::Operation(Operation::Chat), 1, Fault::Hang));
        village.store.submit(&job("first", 1)).await.unwrap();
        village.wait_for("first", State::Running, Duration::from_secs(1)).await;
    });
}
