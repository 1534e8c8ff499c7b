//! A store of each kind for a test of its own, and what the tests have in common.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::end::EndStatus;
use steadfast_core::job::{Job, JobId};
use steadfast_core::time::Timestamp;
use steadfast_store::memory::MemoryStore;
use steadfast_store::testing::RedisServer;
use steadfast_store::{
    Admission, Claim, Inspection, Lease, Requeue, Settings, Settlement, Store, Token, open,
};

use crate::redis_real::fleet::Cluster;

/// Nothing that is waited for takes so long.
pub const BOUND: Duration = Duration::from_secs(20);

/// Where a test's store is; gone with the test.
pub enum World {
    Memory(MemoryStore),
    Sqlite(tempfile::TempDir),
    Redis(RedisServer),
    /// A part of it: what has this prefix.
    Cluster(Arc<Cluster>, String),
}

impl World {
    pub fn memory() -> Self {
        let settings = Settings::for_tests("memory:");
        World::Memory(MemoryStore::new(&settings, Timestamp::from_secs(1_760_000_000), "base"))
    }

    pub fn sqlite() -> Self {
        World::Sqlite(tempfile::tempdir().unwrap())
    }

    pub fn redis() -> Self {
        World::Redis(RedisServer::start())
    }

    pub fn cluster(cluster: &Arc<Cluster>, name: &str) -> Self {
        World::Cluster(Arc::clone(cluster), format!("{{{name}}}:"))
    }

    pub fn url(&self) -> String {
        match self {
            World::Memory(_) => "memory:".to_owned(),
            World::Sqlite(folder) => format!("sqlite:{}/queue.db", folder.path().display()),
            World::Redis(server) => server.url(),
            World::Cluster(cluster, _) => cluster.url(),
        }
    }

    /// The store as one process sees it.
    pub async fn store(&self, runner: &str) -> Arc<dyn Store> {
        self.with(runner, |_| ()).await
    }

    /// The same with other settings.
    pub async fn with(&self, runner: &str, change: impl FnOnce(&mut Settings)) -> Arc<dyn Store> {
        let mut settings = Settings::for_tests(self.url());
        if let World::Cluster(_, prefix) = self {
            settings.prefix.clone_from(prefix);
        }
        change(&mut settings);
        match self {
            World::Memory(store) => Arc::new(store.for_runner(&settings, runner)),
            World::Sqlite(_) | World::Redis(_) | World::Cluster(..) => open(&settings, runner).await.unwrap(),
        }
    }

    /// The store as a process sees it that dies right after each claim: its leases end at once.
    pub async fn dying(&self) -> Arc<dyn Store> {
        self.with("dying", |settings| settings.lease = Duration::ZERO).await
    }
}

/// Runs each test on each store; in a cluster one after the other.
#[macro_export]
macro_rules! on_every_store {
    ($($name:ident),* $(,)?) => {
        mod memory { $( #[tokio::test] async fn $name() { super::$name($crate::world::World::memory()).await } )* }
        mod sqlite { $( #[tokio::test] async fn $name() { super::$name($crate::world::World::sqlite()).await } )* }
        mod redis { $( #[tokio::test] async fn $name() { super::$name($crate::world::World::redis()).await } )* }
        mod cluster {
            #[tokio::test]
            async fn all_in_one() {
                let cluster = std::sync::Arc::new($crate::redis_real::fleet::Cluster::of_three().await);
                $( super::$name($crate::world::World::cluster(&cluster, stringify!($name))).await; )*
            }
        }
    };
}

pub fn id(id: &str) -> JobId {
    JobId::new(id).unwrap()
}

pub fn json(id: &str) -> String {
    format!(
        r#"{{"id":"{id}","installationId":0,"repoOwner":"test","repoName":"test","taskType":"autonomous",
        "status":"pending","taskParams":{{"issueTitle":"Test","issueBody":"List files"}},
        "createdAt":"2025-10-09T00:00:00.000Z","kept":[1]}}"#
    )
}

pub fn job(id: &str) -> Job {
    Job::parse(&json(id), 1 << 20).unwrap()
}

/// A job of a repository, with further fields.
pub fn wish(id: &str, repository: &str, further: serde_json::Value) -> Job {
    let mut wish: serde_json::Value = serde_json::from_str(&json(id)).unwrap();
    let (owner, name) = repository.split_once('/').unwrap();
    (wish["repoOwner"], wish["repoName"]) = (owner.into(), name.into());
    let serde_json::Value::Object(further) = further else { panic!("fields of a job are an object") };
    for (field, value) in further {
        match field.as_str() {
            "issue" => wish["taskParams"]["issueNumber"] = value,
            _ => wish[&field] = value,
        }
    }
    Job::parse(&wish.to_string(), 1 << 20).unwrap()
}

/// A job of a repository.
pub fn of(id: &str, repository: &str) -> Job {
    wish(id, repository, serde_json::json!({}))
}

/// Submits jobs that are to be queued, in order.
pub async fn submit_all(store: &dyn Store, jobs: impl IntoIterator<Item = Job>) {
    for job in jobs {
        assert_eq!(store.submit(&job).await.unwrap(), Admission::Queued, "{}", job.id);
    }
}

/// Claims one after the other until there is nothing; the ids.
pub async fn claim_singly(store: &dyn Store) -> Vec<String> {
    let mut claimed = Vec::new();
    while let Some(claim) = store.claim(1).await.unwrap().pop() {
        claimed.push(claim.job.id.to_string());
        assert!(claimed.len() < 1000, "there is no end to what can be claimed");
    }
    claimed
}

pub fn completed() -> Settlement {
    Settlement {
        status: EndStatus::Completed,
        result: serde_json::json!({"success": true, "summary": "done"}),
        fields: vec![("endReason".into(), "pull_request".into()), ("status".into(), "no".into())],
    }
}

pub fn failed(error: &str) -> Requeue {
    Requeue::Failed { error: error.into() }
}

/// Submits a job and claims it.
pub async fn running(store: &dyn Store, name: &str) -> Claim {
    store.submit(&job(name)).await.unwrap();
    claim_one(store).await
}

pub async fn claim_one(store: &dyn Store) -> Claim {
    let mut claims = store.claim(1).await.unwrap();
    assert_eq!(claims.len(), 1, "one job is there to be claimed");
    claims.remove(0)
}

pub fn ids(claims: &[Claim]) -> Vec<&str> {
    claims.iter().map(|claim| claim.job.id.as_str()).collect()
}

pub async fn look(store: &dyn Store, name: &str) -> Inspection {
    store.inspect(&id(name)).await.unwrap().unwrap()
}

pub fn field<'a>(inspection: &'a Inspection, name: &str) -> Option<&'a str> {
    inspection.status.iter().find(|(field, _)| field == name).map(|(_, value)| value.as_str())
}

/// A lease as it was before the last claim.
pub fn older(lease: &Lease) -> Lease {
    Lease { job: lease.job.clone(), token: Token(lease.token.0 - 1) }
}

/// Waits for something that must happen soon.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match tokio::time::timeout(BOUND, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {BOUND:?}"),
    }
}

/// Claims until there is one, waiting as a runner waits.
pub async fn claim_soon(store: &dyn Store) -> Claim {
    soon("a claim", async {
        loop {
            if let Some(claim) = store.claim(1).await.unwrap().pop() {
                return claim;
            }
            store.wait(BOUND).await.unwrap();
        }
    })
    .await
}
