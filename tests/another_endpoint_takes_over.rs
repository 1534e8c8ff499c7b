//! Several endpoints: where one has no quota left or refuses its key, the jobs go on at the next, none is
//! lost or paid twice, and the journal says who answered.

use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{Request, Response};
use steadfast_core::job::JobId;
use steadfast_core::journal::{Event, Step};
use steadfast_core::time::Timestamp;
use steadfast_http::{Body, Timeouts, Transport, TransportError};
use steadfast_sim::World;
use steadfast_store::{State, Store};

use crate::support::in_process::{Village, field, paused};
use crate::support::{API_KEY, Queue, Town, job};

const HOUR: Duration = Duration::from_secs(3600);

/// The world, reached under the name of two model servers; the first has no quota until a time.
struct TwoServers {
    inner: Arc<dyn Transport>,
    world: Arc<World>,
    paid_at: Timestamp,
}

#[async_trait]
impl Transport for TwoServers {
    async fn send(
        &self,
        request: Request<Bytes>,
        timeouts: Timeouts,
    ) -> Result<Response<Body>, TransportError> {
        if request.uri().host() == Some("first.example") && self.world.now() < self.paid_at {
            let body = r#"{"error":{"message":"nobody paid","type":"insufficient_quota","code":"insufficient_quota"}}"#;
            let body: Body = Box::pin(futures_util::stream::iter([Ok(Bytes::from(body))]));
            return Ok(Response::builder().status(429).body(body).unwrap());
        }
        self.inner.send(request, timeouts).await
    }
}

/// Who answered each turn of a job.
async fn answerers(store: &dyn Store, id: &str) -> Vec<String> {
    let replay = store.replay(&JobId::new(id).unwrap()).await.unwrap();
    let steps = replay.steps.iter().map(|bytes| Step::decode(bytes).unwrap().event);
    let named = steps.filter_map(|event| match event {
        Event::ModelAnswered { endpoint, .. } => Some(endpoint.unwrap_or_default()),
        _ => None,
    });
    named.collect()
}

#[test]
fn jobs_go_on_while_nobody_pays_the_first_and_come_back_to_it_after() {
    paused(async {
        let endpoints = "llm.endpoints = [{ name = \"first\", base_url = \"http://first.example/v1\", model = \"m-1\" }, \
                         { name = \"spare\", base_url = \"http://spare.example/v1\", model = \"m-2\" }]";
        let two = |world: &Arc<World>| -> Arc<dyn Transport> {
            let (inner, world) = (world.transport(), Arc::clone(world));
            let paid_at = world.now() + HOUR;
            Arc::new(TwoServers { inner, world, paid_at })
        };
        let village = Village::with(|_| {}, endpoints, |store| store, two, None).await;
        for (id, issue) in [("one", 1), ("two", 2), ("three", 3)] {
            village.store.submit(&job(id, issue)).await.unwrap();
        }
        for id in ["one", "two", "three"] {
            let ended = village.wait_for(id, State::Ended, HOUR / 2).await;
            assert_eq!(field(&ended, "status"), "completed", "{ended:?}");
            assert_eq!(ended.counts.waits, 0, "there was one that could: {ended:?}");
            let who = answerers(&*village.store, id).await;
            assert!(!who.is_empty() && who.iter().all(|name| name == "spare"), "{who:?}");
        }
        assert_eq!(village.world.records().paid_twice(), 0);
        // Somebody has paid: new jobs begin at the first again.
        tokio::time::sleep(2 * HOUR).await;
        village.store.submit(&job("four", 4)).await.unwrap();
        village.wait_for("four", State::Ended, HOUR).await;
        let who = answerers(&*village.store, "four").await;
        assert!(!who.is_empty() && who.iter().all(|name| name == "first"), "{who:?}");
        village.running.drain().await;
    });
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_key_ends_no_job_where_another_is_good() {
    let mut town = Town::new(Queue::Sqlite).await;
    let url = town.server.url().to_owned();
    let wrong = "sk-revoked-0123456789abcdef";
    town.extend(&format!(
        "llm.endpoints = [{{ name = \"first\", base_url = \"{url}/v1\", model = \"gpt-sim\", api_key = \"{wrong}\" }}, \
         {{ name = \"spare\", base_url = \"{url}/v1\", model = \"gpt-sim\", api_key = \"{API_KEY}\" }}]"
    ));
    for (id, issue) in [("one", 1), ("two", 2)] {
        town.submit(id, issue).await;
    }
    let worker = town.worker();
    for id in ["one", "two"] {
        town.completed(id).await;
        let who = answerers(&*town.store, id).await;
        assert!(!who.is_empty() && who.iter().all(|name| name == "spare"), "{who:?}");
    }
    town.assert_each_effect_once(2).await;
    let refused = town.records().await.chats_with(401);
    assert!((1..=4).contains(&refused), "{refused}: a shut door is not asked again");
    assert!(!worker.said("gate closed: a person must act").is_empty());
    let shown = Command::new(env!("CARGO_BIN_EXE_steadfast"))
        .args(["--config", "worker-1.toml", "jobs", "show", "one"])
        .current_dir(town.dir.path())
        .output()
        .unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("spare gpt-sim"), "{shown}");
    let logs = std::fs::read_to_string(&worker.log).unwrap();
    for key in [wrong, API_KEY] {
        assert!(!logs.contains(key) && !shown.contains(key), "a key is shown");
    }
}
