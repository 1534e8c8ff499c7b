//! What the queue costs the server, as the server itself measures it: time a command, bytes a job.

use std::collections::BTreeMap;
use std::time::Duration;

use redis::Value;
use steadfast_core::time::Timestamp;
use steadfast_store::testing::RedisServer;
use steadfast_store::{Requeue, Settings, State, open};

use super::fleet::Talk;
use crate::world::*;

/// Longest that one command may keep all others waiting, in microseconds.
const LONGEST: u64 = 5000;

/// Slow runs of a kind that say nothing yet, at least so many and every second.
const STRAY: usize = 3;

/// From how many microseconds on the server notes a command. All, down to those within scripts,
/// would make it slow by the noting.
const NOTED: &str = "500";

/// How many jobs the queue holds meanwhile; docs/redis.md tells of the variable.
fn jobs() -> usize {
    std::env::var("STEADFAST_REDIS_JOBS").map_or(2000, |jobs| jobs.parse().unwrap())
}

/// What the server says of the phases of a test.
#[derive(Default)]
struct Measured {
    /// By the clock, in microseconds: phase, command, what was noted of it.
    noted: BTreeMap<(String, String), Vec<u64>>,
    /// Of the processor, in microseconds a script, or a command where there are none.
    spent: BTreeMap<String, u64>,
    before: u64,
}

impl Measured {
    async fn of(operator: &mut Talk) -> Self {
        let mut measured = Measured::default();
        measured.take("", operator).await;
        Measured { before: measured.before, ..Measured::default() }
    }

    /// Takes what happened since the last time.
    async fn take(&mut self, phase: &str, operator: &mut Talk) {
        let stats: String = operator.run(&["INFO", "cpu", "commandstats"]).await;
        let _: String = operator.run(&["CONFIG", "RESETSTAT"]).await;
        let value = |name: &str| stats.lines().find_map(|line| line.strip_prefix(name)).unwrap_or("0");
        let seconds =
            ["used_cpu_user_main_thread:", "used_cpu_sys_main_thread:"].map(|name| value(name).trim());
        let now = seconds.iter().map(|text| (text.parse::<f64>().unwrap() * 1e6) as u64).sum::<u64>();
        let calls = |line: &str| line.split(['=', ',']).nth(1).and_then(|calls| calls.parse::<u64>().ok());
        let of = |start: &str| -> u64 {
            stats.lines().filter(|line| line.starts_with(start)).filter_map(calls).sum()
        };
        let (scripts, all) = (of("cmdstat_evalsha:"), of("cmdstat_"));
        let each = (now - self.before) / if scripts > 0 { scripts } else { all.max(1) };
        let worst = self.spent.entry(phase.to_owned()).or_default();
        *worst = each.max(*worst);
        self.before = now;

        let entries: Vec<Vec<Value>> = operator.run(&["SLOWLOG", "GET", "-1"]).await;
        let _: String = operator.run(&["SLOWLOG", "RESET"]).await;
        for entry in entries {
            let micros: u64 = redis::from_redis_value_ref(&entry[2]).unwrap();
            let words: Vec<Vec<u8>> = redis::from_redis_value_ref(&entry[3]).unwrap();
            let word = |n: usize| String::from_utf8_lossy(&words[n]).to_lowercase();
            let name = match word(0).as_str() {
                "slowlog" | "info" | "config" => continue,
                "evalsha" => format!("script {}", &word(1)[..8]),
                name => name.to_owned(),
            };
            self.noted.entry((phase.to_owned(), name)).or_default().push(micros);
        }
    }

    /// What is slow by the clock is so by itself if it also takes the processor; else the machine
    /// stopped the server in the middle of it, for others.
    fn check(self) {
        for (phase, each) in &self.spent {
            println!("{phase}: {each} us of the processor each");
        }
        let mut slow = String::new();
        for ((phase, name), took) in &self.noted {
            let longest = took.iter().max().copied().unwrap_or(0);
            let over = took.iter().filter(|micros| **micros > LONGEST).count();
            let noted = took.len();
            println!(
                "{phase}: {name}: {noted} times over {NOTED} us, {over} over {LONGEST}, longest {longest}"
            );
            let busy = self.spent.get(phase).is_some_and(|each| *each > LONGEST / 2);
            if busy && over > STRAY.max(noted / 2) {
                slow.push_str(&format!("{phase}: {name}: {over} of {noted} over {LONGEST} us\n"));
            }
        }
        assert!(
            slow.is_empty() && self.spent.values().all(|each| *each <= LONGEST),
            "{slow} {:?}",
            self.spent
        );
    }
}

async fn add(producer: &mut redis::aio::MultiplexedConnection, names: impl Iterator<Item = String>) {
    let mut pipeline = redis::pipe();
    for name in names {
        pipeline.cmd("XADD").arg("job-queue").arg("*").arg("jobData").arg(json(&name)).ignore();
    }
    let () = pipeline.query_async(producer).await.unwrap();
}

async fn producer(server: &RedisServer) -> redis::aio::MultiplexedConnection {
    let client = redis::Client::open(server.url()).unwrap();
    let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(BOUND));
    client.get_multiplexed_async_connection_with_config(&patient).await.unwrap()
}

#[tokio::test]
async fn no_command_keeps_the_server_from_others_for_long() {
    // Its disk is not what is measured.
    let quick = ["--appendonly", "no", "--slowlog-log-slower-than", NOTED, "--slowlog-max-len", "1000000"];
    let server = RedisServer::with(&quick);
    let settings = Settings { keep_ended: Duration::ZERO, ..Settings::for_tests(server.url()) };
    let store = open(&settings, "a").await.unwrap();
    let (mut operator, mut producer) = (Talk::to(&server.url()).await, producer(&server).await);
    let mut measured = Measured::of(&mut operator).await;
    let jobs = jobs();
    let mut made = 0;
    while made < jobs {
        let next = (made + 1000).min(jobs);
        add(&mut producer, (made..next).map(|n| format!("job-{n:06}"))).await;
        made = next;
        measured.take("produce", &mut operator).await;
        store.count().await.unwrap();
        measured.take("take in", &mut operator).await;
    }
    while store.count().await.unwrap()[0] < jobs as u64 {}
    measured.take("take in", &mut operator).await;

    let mut held = Vec::new();
    for most in [1, 32, 256, 256] {
        for _ in 0..4 {
            held.extend(store.claim(most).await.unwrap());
        }
        measured.take(&format!("claim {most}"), &mut operator).await;
    }
    let leases: Vec<_> = held.iter().map(|claim| claim.lease.clone()).collect();
    for _ in 0..5 {
        store.renew(&leases).await.unwrap();
        store.wait(Duration::ZERO).await.unwrap();
    }
    measured.take("renew and wait", &mut operator).await;
    let step = vec![b'x'; 4000];
    for lease in &leases[..100] {
        store.append(lease, 0, &vec![step.clone(); 10], Some(&step)).await.unwrap();
        store.replay(&lease.job).await.unwrap();
    }
    measured.take("append and replay", &mut operator).await;
    let failed = Requeue::Failed { error: "x".into() };
    for (n, lease) in leases.iter().enumerate() {
        match n % 4 {
            0 => store.release(lease).await.unwrap(),
            1 => store.requeue(lease, Duration::from_secs(60), &failed).await.unwrap(),
            2 => store.park(lease, Timestamp::MAX, "x").await.unwrap(),
            _ => store.settle(lease, &completed()).await.unwrap(),
        }
    }
    for n in 0..100 {
        store.cancel(&id(&format!("job-{:06}", jobs - 1 - n))).await.unwrap();
        store.submit(&job(&format!("more-{n}"))).await.unwrap();
    }
    measured.take("leave", &mut operator).await;
    for state in [None, Some(State::Queued), Some(State::Running), Some(State::Parked), Some(State::Ended)] {
        store.list(state, 1000).await.unwrap();
        store.count().await.unwrap();
    }
    measured.take("list and count", &mut operator).await;
    while store.purge().await.unwrap() > 0 {}
    measured.take("purge", &mut operator).await;
    measured.check();
}

/// Bytes of all keys that begin so, as the server counts them.
async fn bytes(operator: &mut Talk, pattern: &str) -> u64 {
    let keys: Vec<String> = operator.run(&["KEYS", pattern]).await;
    let mut sum = 0;
    for key in keys {
        sum += operator.run::<u64>(&["MEMORY", "USAGE", &key, "SAMPLES", "0"]).await;
    }
    sum
}

#[tokio::test]
async fn a_job_takes_as_much_memory_as_is_documented() {
    const JOBS: u64 = 500;
    let server = RedisServer::start();
    let store = open(&Settings::for_tests(server.url()), "a").await.unwrap();
    let (mut operator, mut producer) = (Talk::to(&server.url()).await, producer(&server).await);
    let stated = |what: &str| -> u64 {
        let docs = include_str!("../../../../docs/redis.md");
        let row = docs.lines().find(|line| line.starts_with(&format!("| {what} |"))).expect(what);
        row.split('|').nth(2).unwrap().trim().replace(',', "").parse().unwrap()
    };
    let base = bytes(&mut operator, "*").await;
    add(&mut producer, (0..JOBS).map(|n| format!("job-{n:06}"))).await;
    store.count().await.unwrap();
    let check = async |what: &str, operator: &mut Talk| {
        let each = (bytes(operator, "*").await - base) / JOBS;
        let stated = stated(what);
        println!("{what}: {each} bytes, stated {stated}");
        assert!(each <= stated && each * 3 > stated * 2, "{what}: {each} bytes, stated are {stated}");
    };
    check("queued", &mut operator).await;
    let mut leases = Vec::new();
    while leases.len() < JOBS as usize {
        leases.extend(store.claim(256).await.unwrap().into_iter().map(|claim| claim.lease));
    }
    check("running", &mut operator).await;
    // As one turn of the model is: a few hundred words, of which packing makes a third.
    let step = |n: usize| {
        format!("{{\"turn\":{n},\"text\":\"{}\"}}", "line of code that changed, ".repeat(40)).into_bytes()
    };
    for lease in &leases {
        let steps: Vec<Vec<u8>> = (0..10).map(step).collect();
        store.append(lease, 0, &steps, None).await.unwrap();
    }
    check("running, ten steps of 1 kB", &mut operator).await;
    for lease in &leases {
        store.settle(lease, &completed()).await.unwrap();
    }
    check("ended, ten steps of 1 kB", &mut operator).await;
}
