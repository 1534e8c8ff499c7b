//! Servers that belong together: a cluster, a master with its replica and sentinels; and a client
//! beside the store to talk to each.

use std::fmt::Write;
use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use redis::{FromRedisValue, RedisResult};
use steadfast_store::testing::RedisServer;
use tempfile::TempDir;

use crate::world::{BOUND, soon};

/// The hash tag of these tests, and its slot.
pub const TAG: &str = "{steadfast}:";
pub const SLOT: u16 = 2088;

/// How long a node may be away before the others say so.
const NODE_TIMEOUT: &str = "1000";

/// A client beside the store: a producer, an operator.
pub struct Talk {
    connection: redis::aio::MultiplexedConnection,
}

impl Talk {
    pub async fn to(url: &str) -> Self {
        let client = redis::Client::open(url).unwrap();
        // The client's own half a second is short where much is asked for.
        let patient = redis::AsyncConnectionConfig::new().set_response_timeout(Some(BOUND));
        // A server that changes its part cuts connections that are just being made.
        soon("a connection", async {
            let mut look = tokio::time::interval(Duration::from_millis(20));
            loop {
                look.tick().await;
                if let Ok(connection) = client.get_multiplexed_async_connection_with_config(&patient).await {
                    return Talk { connection };
                }
            }
        })
        .await
    }

    pub async fn ask<T: FromRedisValue>(&mut self, words: &[&str]) -> RedisResult<T> {
        let mut command = redis::cmd(words[0]);
        for word in &words[1..] {
            command.arg(*word);
        }
        command.query_async(&mut self.connection).await
    }

    pub async fn run<T: FromRedisValue>(&mut self, words: &[&str]) -> T {
        match self.ask(words).await {
            Ok(answer) => answer,
            Err(error) => panic!("{words:?}: {error}"),
        }
    }
}

/// Looks again and again until it is so.
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    soon(what, async {
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !is_so().await {
            look.tick().await;
        }
    })
    .await;
}

/// A port that nobody has, below those that the system gives out by itself. None is given twice, and
/// two processes that test at the same time begin apart: a port is free until the server is up.
pub fn free_port() -> u16 {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    const FIRST: u32 = 20_000;
    const COUNT: u32 = 12_000;
    const APART: u32 = 200;
    let begin = std::process::id() % (COUNT / APART) * APART;
    let next = || FIRST + (begin + GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
    let ports = std::iter::repeat_with(|| u16::try_from(next()).unwrap());
    ports.take(COUNT as usize).find(|port| TcpListener::bind(("127.0.0.1", *port)).is_ok()).unwrap()
}

/// A server that can be reached over TCP too.
pub struct Node {
    pub server: RedisServer,
    pub port: u16,
    /// Its name in the cluster.
    pub id: String,
}

impl Node {
    pub fn start(port: u16, options: &[&str]) -> Self {
        let text = port.to_string();
        let server = RedisServer::with(&[&["--port", &text, "--bind", "127.0.0.1"], options].concat());
        Node { server, port, id: String::new() }
    }

    pub fn tcp(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }

    pub async fn talk(&self) -> Talk {
        Talk::to(&self.server.url()).await
    }

    /// Waits until it follows another; its connections may be cut on the way.
    pub async fn becomes_a_replica(&self) {
        until("a replica", async || {
            let info = self.talk().await.ask::<String>(&["INFO", "replication"]).await;
            info.is_ok_and(|info| info.contains("role:slave"))
        })
        .await;
    }
}

/// Three masters that share the slots; and perhaps a replica of the first.
pub struct Cluster {
    pub nodes: Vec<Node>,
    _folder: TempDir,
}

impl Cluster {
    pub async fn of_three() -> Self {
        Self::start(3).await
    }

    /// The first of the three, which has the tests' slot, has a replica.
    pub async fn with_replica() -> Self {
        Self::start(4).await
    }

    async fn start(count: usize) -> Self {
        let slots = ["0-5460", "5461-10922", "10923-16383", ""];
        let folder = tempfile::tempdir().unwrap();
        let ids: Vec<String> = (1..=count).map(|n| format!("{n:040x}")).collect();
        let ports: Vec<(u16, u16)> = ids.iter().map(|_| (free_port(), free_port())).collect();
        let mut nodes = Vec::new();
        for (me, (port, bus)) in ports.iter().enumerate() {
            let mut known = String::new();
            for (n, (port, bus)) in ports.iter().enumerate() {
                let (id, myself) = (&ids[n], if n == me { "myself," } else { "" });
                let role = if n < 3 { "master -".to_owned() } else { format!("slave {}", ids[0]) };
                let epoch = if n < 3 { n + 1 } else { 1 };
                let node =
                    format!("{id} 127.0.0.1:{port}@{bus} {myself}{role} 0 0 {epoch} connected {}", slots[n]);
                writeln!(known, "{}", node.trim_end()).unwrap();
            }
            writeln!(known, "vars currentEpoch 3 lastVoteEpoch 0").unwrap();
            let path = folder.path().join(format!("nodes-{me}.conf"));
            std::fs::write(&path, known).unwrap();
            let (bus, path) = (bus.to_string(), path.display().to_string());
            let mut node = Node::start(
                *port,
                &[
                    &["--cluster-enabled", "yes", "--cluster-config-file", &path, "--cluster-port", &bus][..],
                    &["--cluster-node-timeout", NODE_TIMEOUT, "--cluster-require-full-coverage", "no"],
                    &["--cluster-replica-validity-factor", "0", "--repl-diskless-sync-delay", "0"],
                ]
                .concat(),
            );
            node.id.clone_from(&ids[me]);
            nodes.push(node);
        }
        let cluster = Cluster { nodes, _folder: folder };
        for node in &cluster.nodes {
            let mut talk = node.talk().await;
            until("a cluster", async || {
                let info: String = talk.run(&["CLUSTER", "INFO"]).await;
                let replication: String = talk.run(&["INFO", "replication"]).await;
                info.contains("cluster_state:ok") && !replication.contains("master_link_status:down")
            })
            .await;
        }
        cluster
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port)).collect();
        format!("redis+cluster://{}", hosts.join(","))
    }
}

/// A process that ends with the test.
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A master called `queue`, a replica, and three sentinels that watch over both.
pub struct Watched {
    pub servers: [Node; 2],
    sentinels: Vec<(u16, Process)>,
    _folder: TempDir,
}

impl Watched {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let debug = ["--enable-debug-command", "yes"];
        let master = Node::start(free_port(), &[&["--repl-diskless-sync-delay", "0"], &debug[..]].concat());
        let port = master.port.to_string();
        let replica =
            Node::start(free_port(), &["--replicaof", "127.0.0.1", &port, "--repl-diskless-sync-delay", "0"]);
        let mut talk = replica.talk().await;
        until("a replica", async || {
            talk.run::<String>(&["INFO", "replication"]).await.contains("master_link_status:up")
        })
        .await;
        let sentinels: Vec<_> =
            (0..3).map(|n| Self::sentinel(folder.path().join(format!("{n}.conf")), &port)).collect();
        let watched = Watched { servers: [master, replica], sentinels, _folder: folder };
        for (port, _) in &watched.sentinels {
            until("a sentinel that knows all", async || {
                let Ok(client) = redis::Client::open(format!("redis://127.0.0.1:{port}")) else {
                    return false;
                };
                let Ok(connection) = client.get_multiplexed_async_connection().await else { return false };
                let mut talk = Talk { connection };
                // In a test's time, not an operator's.
                let quick =
                    ["SENTINEL", "DEBUG", "INFO-PERIOD", "200", "PUBLISH-PERIOD", "100", "ASK-PERIOD", "200"];
                let _: RedisResult<String> = talk.ask(&quick).await;
                let known: Vec<String> = talk.ask(&["SENTINEL", "MASTER", "queue"]).await.unwrap_or_default();
                let of =
                    |name: &str| known.chunks(2).find(|pair| pair[0] == name).map(|pair| pair[1].clone());
                of("num-slaves").as_deref() == Some("1") && of("num-other-sentinels").as_deref() == Some("2")
            })
            .await;
        }
        watched
    }

    fn sentinel(path: PathBuf, master: &str) -> (u16, Process) {
        let port = free_port();
        let folder = path.parent().unwrap().display();
        let content = format!(
            "port {port}\nbind 127.0.0.1\ndir {folder}\nsentinel monitor queue 127.0.0.1 {master} 2\n\
             sentinel down-after-milliseconds queue 500\nsentinel failover-timeout queue 3000\n"
        );
        std::fs::write(&path, content).unwrap();
        let mut command = Command::new("redis-server");
        command.arg(path).arg("--sentinel").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        (port, Process(command.spawn().unwrap()))
    }

    pub fn url(&self) -> String {
        let hosts: Vec<String> = self.sentinels.iter().map(|(port, _)| format!("127.0.0.1:{port}")).collect();
        format!("redis+sentinel://{}/queue", hosts.join(","))
    }

    /// Where one that was not lost listens.
    pub fn live_sentinel(&self) -> String {
        format!("127.0.0.1:{}", self.sentinels[1].0)
    }

    /// Ends one sentinel.
    pub fn lose_a_sentinel(&mut self) {
        self.sentinels[0].1 = Process(Command::new("true").spawn().unwrap());
    }
}
