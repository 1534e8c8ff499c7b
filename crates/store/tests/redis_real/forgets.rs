//! A failover that forgets: the replica that takes over never got the last writes, which had been
//! acknowledged. What the store knows wins; runs that it does not know are refused; nothing doubles.

use std::sync::Arc;
use std::time::Duration;

use steadfast_core::time::Timestamp;
use steadfast_store::{Admission, Claim, ClaimedFrom, Renewal, Settings, State, Store, StoreError, open};

use super::fleet::{Node, Talk, free_port, until};
use super::gate::Gate;
use crate::world::*;

fn lost(result: steadfast_store::Result<()>) -> bool {
    matches!(result, Err(StoreError::LeaseLost { .. }))
}

struct Forgetful {
    master: Node,
    replica: Node,
    gate: Gate,
    store: Arc<dyn Store>,
}

impl Forgetful {
    async fn start() -> Self {
        let master = Node::start(free_port(), &["--repl-diskless-sync-delay", "0"]);
        let (host, port) = ("127.0.0.1", master.port.to_string());
        let replica = Node::start(free_port(), &["--replicaof", host, &port]);
        let mut talk = replica.talk().await;
        until("a replica", async || {
            talk.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        let gate = Gate::before(&master.server);
        let store = open(&Settings::for_tests(gate.url()), "a").await.unwrap();
        Forgetful { master, replica, gate, store }
    }

    /// From here on the replica hears nothing of what the master acknowledges.
    async fn part(&self) {
        let replicas: i64 = self.master.talk().await.run(&["WAIT", "1", "5000"]).await;
        assert_eq!(replicas, 1);
        let _: String = self.replica.talk().await.run(&["REPLICAOF", "NO", "ONE"]).await;
    }

    /// The master dies, and everybody goes to the replica.
    fn fail_over(&mut self) {
        self.master.server.stop();
        self.gate.open(&self.replica.server);
    }

    async fn claim(&self, name: &str) -> Claim {
        self.store.submit(&job(name)).await.unwrap();
        claim_one(&*self.store).await
    }
}

#[tokio::test]
async fn acknowledged_writes_that_were_forgotten_double_nothing() {
    let mut world = Forgetful::start().await;
    let store = Arc::clone(&world.store);
    let [run, settled, parked] =
        [world.claim("run").await, world.claim("settled").await, world.claim("parked").await];
    store.append(&run.lease, 0, &[b"0".to_vec(), b"1".to_vec()], Some(b"p1")).await.unwrap();
    store.submit(&job("waits")).await.unwrap();
    world.part().await;

    // The last second: all of it acknowledged.
    store.append(&run.lease, 2, &[b"2".to_vec()], Some(b"p2")).await.unwrap();
    store.settle(&settled.lease, &completed()).await.unwrap();
    store.park(&parked.lease, Timestamp::MAX, "x").await.unwrap();
    let claimed = claim_one(&*store).await;
    assert_eq!(claimed.job.id, id("waits"));
    store.append(&claimed.lease, 0, &[b"0".to_vec()], None).await.unwrap();
    store.submit(&job("forgotten")).await.unwrap();
    world.fail_over();

    // A run that the store knows goes on, but not over the gap: it is refused, not written askew.
    assert_eq!(store.renew(std::slice::from_ref(&run.lease)).await.unwrap(), [Renewal::Held]);
    let beyond = store.append(&run.lease, 3, &[b"3".to_vec()], None).await;
    assert!(matches!(beyond, Err(StoreError::Corrupt(_))), "{beyond:?}");
    let replay = store.replay(&id("run")).await.unwrap();
    assert_eq!((replay.steps, replay.patch), (vec![b"0".to_vec(), b"1".to_vec()], b"p1".to_vec()));
    store.append(&run.lease, 2, &[b"2".to_vec()], Some(b"p2")).await.unwrap();

    // A run that it does not know can do nothing at all, and its job is claimed anew.
    assert_eq!(store.renew(std::slice::from_ref(&claimed.lease)).await.unwrap(), [Renewal::Lost]);
    assert!(lost(store.append(&claimed.lease, 1, &[b"1".to_vec()], None).await));
    assert!(lost(store.settle(&claimed.lease, &completed()).await));
    assert!(lost(store.release(&claimed.lease).await));
    let again = claim_one(&*store).await;
    assert_eq!((again.job.id.as_str(), again.counts.runs, again.counts.crashes), ("waits", 1, 0));
    assert_eq!((again.counts.steps, again.from), (0, ClaimedFrom::Queue));
    assert!(again.lease.token > claimed.lease.token, "{again:?} {claimed:?}");
    for result in [
        store.append(&claimed.lease, 0, &[b"0".to_vec()], None).await,
        store.settle(&claimed.lease, &completed()).await,
    ] {
        assert!(lost(result), "the forgotten run has no hold on the new one");
    }

    // What was ended or put away is running again for the store, by the same token: whoever ended
    // it may say so again, and who does not is followed when the lease ends.
    assert_eq!(look(&*store, "settled").await.state, State::Running);
    store.settle(&settled.lease, &completed()).await.unwrap();
    store.park(&parked.lease, Timestamp::MAX, "x").await.unwrap();
    // What was taken in is not known: a producer that repeats it is heard.
    assert!(store.inspect(&id("forgotten")).await.unwrap().is_none());
    assert_eq!(store.submit(&job("forgotten")).await.unwrap(), Admission::Queued);
    assert_eq!(store.count().await.unwrap(), [1, 2, 1, 1]);
}

#[tokio::test]
async fn an_end_that_was_forgotten_is_come_to_again_by_another() {
    let mut world = Forgetful::start().await;
    let short = Settings { lease: Duration::from_millis(50), ..Settings::for_tests(world.gate.url()) };
    let dying = open(&short, "dying").await.unwrap();
    dying.submit(&job("x")).await.unwrap();
    let first = claim_one(&*dying).await;
    dying.append(&first.lease, 0, &[b"pull request opened".to_vec()], None).await.unwrap();
    world.part().await;
    dying.settle(&first.lease, &completed()).await.unwrap();
    world.fail_over();
    // Its journal says how far it came; the world says what was made of it.
    let second = claim_soon(&*world.store).await;
    assert_eq!((second.from, second.counts.crashes, second.counts.steps), (ClaimedFrom::ExpiredLease, 1, 1));
    assert!(second.lease.token > first.lease.token);
    assert!(lost(dying.settle(&first.lease, &completed()).await));
    world.store.settle(&second.lease, &completed()).await.unwrap();
    assert_eq!(world.store.count().await.unwrap(), [0, 0, 0, 1]);
}

#[tokio::test]
async fn a_clock_that_is_behind_gives_no_token_twice() {
    // The token goes up from what the store knows even where the clock does not.
    let world = Forgetful::start().await;
    let ahead = world.claim("x").await;
    let far = (ahead.lease.token.0 + 3_600_000_000).to_string();
    let mut talk = Talk::to(&world.gate.url()).await;
    let _: i64 = talk.run(&["HSET", "job:x", "token", &far]).await;
    let lease = steadfast_store::Lease {
        token: steadfast_store::Token(ahead.lease.token.0 + 3_600_000_000),
        ..ahead.lease
    };
    world.store.release(&lease).await.unwrap();
    let next = claim_one(&*world.store).await;
    assert_eq!(next.lease.token.0, lease.token.0 + 1);
    assert!(lost(world.store.release(&lease).await));
}
