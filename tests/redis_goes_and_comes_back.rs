//! Redis is stopped and started under load: nothing is lost, nothing is done twice, and the log says
//! so once each way.

use std::time::Duration;

use steadfast_store::{Settings, State};

use crate::support::{Queue, Town};

#[tokio::test(flavor = "multi_thread")]
async fn under_load_nothing_is_lost_and_nothing_is_done_twice() {
    let slow = |config: &mut steadfast_sim::WorldConfig| {
        config.latency.llm_first = Duration::from_millis(150);
        config.latency.github = Duration::from_millis(30);
    };
    let mut town = Town::with(Queue::Redis, slow, "job.concurrency = 6").await;
    let issues: Vec<u64> = (1..=8).collect();
    for issue in &issues {
        town.submit(&format!("job-{issue}"), *issue).await;
    }
    let worker = town.worker();
    worker.says("model answered", 6).await;
    let redis = town.redis.as_mut().unwrap();
    redis.stop();
    worker.says("store unavailable", 1).await;
    town.redis.as_mut().unwrap().restart();
    worker.says("store is back", 1).await;
    // The test's own connection is a new one.
    let settings =
        Settings { lease: Duration::from_secs(3), ..Settings::for_tests(town.redis.as_ref().unwrap().url()) };
    town.store = steadfast_store::open(&settings, "test").await.unwrap();
    let mut completed = 0;
    let mut pulls = 0;
    for issue in &issues {
        let (status, result) = town.end_of(&format!("job-{issue}")).await;
        assert_eq!(status, "completed", "{result}\n{}", town.logs());
        completed += 1;
        pulls += usize::from(result["prUrl"].is_string());
    }
    assert_eq!(completed, issues.len());
    town.assert_each_effect_once(pulls).await;
    assert_eq!(worker.said("store unavailable").len(), 1, "said once");
    assert_eq!(worker.said("store is back").len(), 1, "said once");
    let counted = town.store.count().await.unwrap();
    assert_eq!(counted[State::Ended as usize], issues.len() as u64);
    assert_eq!(counted.iter().sum::<u64>(), issues.len() as u64, "each job is in exactly one state");
}

#[tokio::test(flavor = "multi_thread")]
async fn away_for_longer_than_the_lease_the_runs_wait_and_go_on_later() {
    let slow =
        |config: &mut steadfast_sim::WorldConfig| config.latency.llm_first = Duration::from_millis(300);
    let mut town = Town::with(Queue::Redis, slow, "").await;
    town.submit("long", 1).await;
    let worker = town.worker();
    worker.says("model answered", 1).await;
    town.redis.as_mut().unwrap().stop();
    worker.says("leases may have ended", 1).await;
    town.redis.as_mut().unwrap().restart();
    let settings =
        Settings { lease: Duration::from_secs(3), ..Settings::for_tests(town.redis.as_ref().unwrap().url()) };
    town.store = steadfast_store::open(&settings, "test").await.unwrap();
    town.completed("long").await;
    town.assert_each_effect_once(1).await;
    // Given back or taken over: either way what the worker did is what the store knows of.
    let ended = town.wait_for("long", State::Ended).await;
    assert_eq!(worker.said("job claimed").len(), ended.counts.runs as usize, "{}", town.logs());
    let answered = town.records().await.chats_with(200);
    assert_eq!(worker.said("model answered").len(), answered, "no answer that was paid for is thrown away");
}
