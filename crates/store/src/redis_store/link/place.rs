//! Finds the server that has the queue and connects to it: the one named, the master that Sentinel
//! knows, or the owner of the queue's slot. All keys lie in one slot, so a cluster is one server at
//! a time to the queue, and no client for many of them is needed.

use std::collections::VecDeque;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, ConnectionInfo, ErrorKind, FromRedisValue,
    RedisError, RedisResult, Value, cmd,
};
use tokio::time::Instant;

use super::address::{Address, Kind, beside, split};
use super::greeting::Greeting;
use crate::redis_store::failure::{
    Elsewhere, OwnFault, elsewhere, is_no_right, is_plain, is_unknown_command, own,
};

/// Most servers that are tried to find the one that has the queue.
const MOST_TRIED: usize = 16;

/// Silent servers that are waited for before one caller gives up.
const PATIENCE: u32 = 2;

/// Most nodes of a cluster that are remembered.
const MOST_KNOWN: usize = 64;

/// Where the queue may be.
pub(super) struct Place {
    address: Address,
    connect_timeout: Duration,
    /// A key of the queue: who has it, has all. `None` if the prefix lets them lie anywhere.
    probe: Option<String>,
    found: Mutex<Found>,
}

/// What was learned of a cluster, likeliest first.
#[derive(Default)]
struct Found {
    nodes: VecDeque<ConnectionAddr>,
}

/// What one server turned out to be.
enum Is {
    Right(MultiplexedConnection),
    Other(ConnectionAddr),
}

impl Place {
    pub fn new(address: Address, connect_timeout: Duration, probe: Option<String>) -> Self {
        Place { address, connect_timeout, probe, found: Mutex::default() }
    }

    /// Connects to the server that has the queue, and says where that is.
    pub async fn connect(
        &self,
        response_timeout: Option<Duration>,
    ) -> RedisResult<(MultiplexedConnection, ConnectionAddr)> {
        let mut waiting = self.candidates().await?;
        let mut tried: Vec<ConnectionAddr> = Vec::new();
        let mut failed = None;
        // Where many are silent, the caller hears of it before all have been waited for.
        let end = Instant::now() + self.connect_timeout * PATIENCE;
        while let Some(at) = waiting.pop_front() {
            if tried.len() >= MOST_TRIED || (failed.is_some() && Instant::now() >= end) {
                break;
            }
            if tried.contains(&at) {
                continue;
            }
            tried.push(at.clone());
            match self.look(&at, response_timeout).await {
                Ok(Is::Right(connection)) => {
                    self.likeliest(at.clone());
                    return Ok((connection, at));
                }
                Ok(Is::Other(next)) => waiting.push_front(next),
                Err(error) => failed = Some(error),
            }
        }
        Err(failed.unwrap_or_else(|| own(OwnFault::FailingOver, "its nodes name each other")))
    }

    /// A node of the cluster said that the queue is there.
    pub fn told(&self, teller: &ConnectionAddr, address: &str) {
        if let Some(at) = self.beside(teller, address) {
            self.likeliest(at);
        }
    }

    /// The server that a node of the cluster names.
    pub fn beside(&self, teller: &ConnectionAddr, address: &str) -> Option<ConnectionAddr> {
        let (host, port) = split(address)?;
        Some(beside(teller, &self.address.server, host, port))
    }

    /// How a server at this address is greeted.
    pub fn info(&self, at: &ConnectionAddr) -> ConnectionInfo {
        self.address.server.clone().set_addr(at.clone())
    }

    /// Connects to this very server.
    pub async fn dial(
        &self,
        info: ConnectionInfo,
        response_timeout: Option<Duration>,
    ) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(response_timeout);
        let connection = Client::open(info)?.get_multiplexed_async_connection_with_config(&config).await;
        connection.map_err(|error| self.said(error))
    }

    fn found(&self) -> std::sync::MutexGuard<'_, Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn likeliest(&self, at: ConnectionAddr) {
        let mut found = self.found();
        found.nodes.retain(|node| *node != at);
        found.nodes.push_front(at);
        found.nodes.truncate(MOST_KNOWN);
    }

    async fn candidates(&self) -> RedisResult<VecDeque<ConnectionAddr>> {
        if let Kind::Sentinel(master) = &self.address.kind {
            return Ok(VecDeque::from([self.ask_sentinels(master).await?]));
        }
        let known = self.found().nodes.clone();
        Ok(known.into_iter().chain(self.address.seeds.iter().cloned()).collect())
    }

    /// Connects and sees whether this is the right one.
    async fn look(&self, at: &ConnectionAddr, response_timeout: Option<Duration>) -> RedisResult<Is> {
        let mut connection = self.dial(self.info(at), response_timeout).await?;
        let greeting = match self.ask(&mut connection, &cmd("HELLO")).await {
            Ok(answer) => Greeting::read(&answer),
            // Too old to be greeted; what it lacks is told elsewhere.
            Err(error) if is_unknown_command(&error) => Greeting::default(),
            Err(error) => return Err(error),
        };
        match (&self.address.kind, greeting.mode.as_str()) {
            (Kind::Named | Kind::Cluster, "sentinel") => Err(own(OwnFault::IsSentinel, "")),
            (Kind::Cluster, "standalone") => Err(own(OwnFault::NoCluster, "")),
            (Kind::Sentinel(_), _) if greeting.role != "master" => {
                Err(own(OwnFault::FailingOver, format_args!("{at} is not a master yet")))
            }
            // It may have hung for as long as a failover takes, and not know of it.
            (Kind::Sentinel(master), _) => match self.ask_sentinels(master).await? {
                now if now == *at => Ok(Is::Right(connection)),
                now => Ok(Is::Other(now)),
            },
            (_, "cluster") => self.look_in_cluster(at, connection).await,
            _ => Ok(Is::Right(connection)),
        }
    }

    async fn look_in_cluster(
        &self,
        at: &ConnectionAddr,
        mut connection: MultiplexedConnection,
    ) -> RedisResult<Is> {
        let Some(probe) = &self.probe else { return Err(own(OwnFault::NoTag, "")) };
        match self.ask::<Value>(&mut connection, cmd("CLUSTER").arg("SLOTS")).await {
            Ok(slots) => self.learn(at, slots),
            // It is for the day on which this node is gone; that one who is redirected gets along.
            Err(error) if is_no_right(&error) => {
                tracing::debug!(node = %at, %error, "the cluster's other nodes are not known");
            }
            Err(error) => return Err(error),
        }
        match self.ask::<i64>(&mut connection, cmd("EXISTS").arg(probe)).await {
            Ok(_) => Ok(Is::Right(connection)),
            Err(error) => match elsewhere(&error) {
                Some(Elsewhere::Moved(address)) => self.beside(at, &address).map(Is::Other).ok_or(error),
                // Half of it is there already; the other half is still here.
                Some(Elsewhere::Ask(_)) => Ok(Is::Right(connection)),
                None => Err(error),
            },
        }
    }

    /// Remembers the cluster's nodes: `[[first, last, [host, port, ...], ...], ...]`.
    fn learn(&self, at: &ConnectionAddr, slots: Value) {
        let rows: Vec<Vec<Value>> = redis::from_redis_value(slots).unwrap_or_default();
        for node in rows.into_iter().flat_map(|row| row.into_iter().skip(2)) {
            let node: Vec<Value> = redis::from_redis_value(node).unwrap_or_default();
            let host = node.first().and_then(|host| redis::from_redis_value_ref::<String>(host).ok());
            let Some(Ok(port)) = node.get(1).map(redis::from_redis_value_ref::<u16>) else { continue };
            let node = beside(at, &self.address.server, &host.unwrap_or_default(), port);
            let mut found = self.found();
            if !found.nodes.contains(&node) && found.nodes.len() < MOST_KNOWN {
                found.nodes.push_back(node);
            }
        }
    }

    /// The master that the sentinels name now, if they are who names it and they answer.
    pub async fn named_by_sentinels(&self) -> Option<ConnectionAddr> {
        match &self.address.kind {
            Kind::Sentinel(master) => self.ask_sentinels(master).await.ok(),
            Kind::Named | Kind::Cluster => None,
        }
    }

    /// One command, whose answer may not be waited for for ever even where others' may.
    async fn ask<T: FromRedisValue>(
        &self,
        connection: &mut MultiplexedConnection,
        command: &Cmd,
    ) -> RedisResult<T> {
        let answer = tokio::time::timeout(self.connect_timeout, command.query_async(connection)).await;
        answer.map_err(|_| self.silent())?.map_err(|error| self.said(error))
    }

    /// What an error means of a connection that is just being made.
    fn said(&self, error: RedisError) -> RedisError {
        match error.is_connection_dropped() && !error.is_connection_refusal() {
            true => own(OwnFault::HungUp, error),
            false if error.is_timeout() => self.silent(),
            false => error,
        }
    }

    fn silent(&self) -> RedisError {
        own(OwnFault::Silent, format_args!("{:?}", self.connect_timeout))
    }

    /// The master's address by the newest configuration that more than half of the sentinels know, or
    /// those that answer: one that was cut off from the others may still name the master before.
    async fn ask_sentinels(&self, master: &str) -> RedisResult<ConnectionAddr> {
        let mut asked: FuturesUnordered<_> =
            self.address.seeds.iter().map(|sentinel| self.ask_sentinel(sentinel, master)).collect();
        let (mut newest, mut answered, mut failed): (Option<(u64, ConnectionAddr)>, _, _) = (None, 0, None);
        while let Some(answer) = asked.next().await {
            match answer {
                Ok((epoch, at)) => {
                    answered += 1;
                    if newest.as_ref().is_none_or(|(known, _)| epoch > *known) {
                        newest = Some((epoch, at));
                    }
                }
                Err(error) => failed = Some(error),
            }
            if answered > self.address.seeds.len() / 2 {
                break;
            }
        }
        match newest {
            Some((_, at)) => Ok(at),
            None => Err(failed.unwrap_or_else(|| own(OwnFault::FailingOver, "no sentinel answers"))),
        }
    }

    async fn ask_sentinel(
        &self,
        sentinel: &ConnectionAddr,
        master: &str,
    ) -> RedisResult<(u64, ConnectionAddr)> {
        let info = self.address.sentinel.clone().set_addr(sentinel.clone());
        let mut connection = self.dial(info, Some(self.connect_timeout)).await?;
        let answer: Value = match self.ask(&mut connection, cmd("SENTINEL").arg("MASTER").arg(master)).await {
            Ok(answer) => answer,
            // "No such master with that name"; or "unknown command".
            Err(error) if is_plain(&error) => {
                return Err(own(OwnFault::NoMaster, format_args!("{sentinel} on {master}: {error}")));
            }
            Err(error) => return Err(error),
        };
        let fields: std::collections::BTreeMap<String, String> = redis::from_redis_value(answer)?;
        let number = |name: &str| fields.get(name).and_then(|text| text.parse::<u64>().ok());
        let port = number("port").and_then(|port| u16::try_from(port).ok());
        match (fields.get("ip"), port) {
            (Some(host), Some(port)) => {
                let at = beside(sentinel, &self.address.server, host, port);
                Ok((number("config-epoch").unwrap_or(0), at))
            }
            _ => Err(RedisError::from((ErrorKind::UnexpectedReturnType, "a sentinel names no address"))),
        }
    }
}
