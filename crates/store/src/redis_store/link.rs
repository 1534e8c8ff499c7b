//! The connection to Redis: made when it is needed, made again when it broke, and the scripts that
//! run over it.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, FromRedisValue, Pipeline, RedisError, RedisResult, Script,
    ScriptInvocation, Value,
};
use tokio::sync::Mutex;

use super::failure::{failure, is_broken};
use crate::settings::masked;
use crate::{Result, Settings, StoreError};

/// A connection that many commands share, and the way to a new one.
pub(super) struct Link {
    client: Client,
    /// The URL without its password.
    pub shown: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// It has answered as Redis does: an unreadable answer from here on was cut off.
    is_redis: AtomicBool,
    current: Mutex<Current>,
}

#[derive(Default)]
struct Current {
    connection: Option<MultiplexedConnection>,
    /// Counts connections, so that a broken one is dropped once and its successor is not.
    made: u64,
    /// Whether the last attempt failed. Only for those who look closely: the worker itself says
    /// once that its store is away.
    away: bool,
}

impl Link {
    /// For a URL; connects nowhere yet.
    pub fn new(url: &str, settings: &Settings) -> Result<Self> {
        let shown = masked(url);
        if url.starts_with("rediss:") && rustls::crypto::CryptoProvider::get_default().is_none() {
            let why = format!("{shown}: no TLS provider is installed in this process");
            return Err(StoreError::Unusable(why));
        }
        let client = Client::open(url).map_err(|error| failure(&shown, &error))?;
        Ok(Link {
            client,
            shown,
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            current: Mutex::default(),
            is_redis: AtomicBool::new(false),
        })
    }

    /// A connection of one's own, on which a command may take as long as it takes: the client's
    /// usual limit would leave a blocking read's answer to nobody.
    pub async fn connect_blocking(&self) -> RedisResult<MultiplexedConnection> {
        self.connect(None).await
    }

    /// A connection of one's own for what others say.
    pub async fn pubsub(&self) -> RedisResult<(redis::aio::PubSubSink, redis::aio::PubSubStream)> {
        let connect = self.client.get_async_pubsub();
        let pubsub = tokio::time::timeout(self.connect_timeout, connect).await;
        let late = || RedisError::from((ErrorKind::Io, "connecting took too long"));
        Ok(pubsub.map_err(|_| late())??.split())
    }

    async fn connect(&self, response_timeout: Option<Duration>) -> RedisResult<MultiplexedConnection> {
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(self.connect_timeout))
            .set_response_timeout(response_timeout);
        self.client.get_multiplexed_async_connection_with_config(&config).await
    }

    async fn connection(&self) -> RedisResult<(MultiplexedConnection, u64)> {
        let mut current = self.current.lock().await;
        if let Some(connection) = &current.connection {
            return Ok((connection.clone(), current.made));
        }
        match self.connect(Some(self.response_timeout)).await {
            Ok(connection) => {
                if std::mem::take(&mut current.away) {
                    tracing::debug!(store = %self.shown, "redis is back");
                }
                current.made += 1;
                current.connection = Some(connection.clone());
                Ok((connection, current.made))
            }
            Err(error) => {
                if !std::mem::replace(&mut current.away, true) {
                    tracing::debug!(store = %self.shown, %error, "redis is away");
                }
                Err(error)
            }
        }
    }

    /// Sends something over the connection; if that turns out to have been closed, once more over a
    /// new one. Only for what may be done twice. Says whether it was sent once.
    async fn send(&self, request: Request<'_>) -> RedisResult<(Value, bool)> {
        let mut again = true;
        loop {
            let (mut connection, number) = self.connection().await?;
            let error = match request.send(&mut connection).await {
                Ok(value) => return Ok((value, again)),
                Err(error) => error,
            };
            if is_broken(&error) {
                let mut current = self.current.lock().await;
                if current.made == number {
                    current.connection = None;
                }
            }
            // A time-out is not repeated: the caller has waited long enough to decide.
            if !std::mem::take(&mut again) || !error.is_connection_dropped() {
                return Err(error);
            }
        }
    }

    /// One command, its error as it came.
    pub async fn raw(&self, command: &Cmd) -> RedisResult<Value> {
        self.told(command).await.map(|(answer, _)| answer)
    }

    /// One command, its error as it came; and whether it was sent once. If not, the server may have
    /// given a first answer that was lost.
    pub async fn told(&self, command: &Cmd) -> RedisResult<(Value, bool)> {
        self.send(Request::Command(command)).await
    }

    /// One command.
    pub async fn command<T: FromRedisValue>(&self, command: &Cmd) -> Result<T> {
        self.read(self.raw(command).await)
    }

    /// Commands in one write.
    pub async fn pipeline<T: FromRedisValue>(&self, pipeline: &Pipeline) -> Result<T> {
        self.read(self.send(Request::Pipeline(pipeline)).await.map(|(answer, _)| answer))
    }

    /// One script, by its hash; loaded if the server does not know it (any more).
    pub async fn script<T: FromRedisValue>(&self, script: &Script, call: &Call) -> Result<T> {
        let mut invocation = script.prepare_invoke();
        for key in &call.keys {
            invocation.key(key);
        }
        for arg in &call.args {
            invocation.arg(arg.as_slice());
        }
        self.read(self.send(Request::Script(&invocation)).await.map(|(answer, _)| answer))
    }

    /// Reads an answer as what it ought to be. An answer of another shape says nothing against the
    /// connection.
    fn read<T: FromRedisValue>(&self, answer: RedisResult<Value>) -> Result<T> {
        let answer = answer.map_err(|error| self.failure(&error))?;
        redis::from_redis_value(answer).map_err(|error| {
            let shown = &self.shown;
            StoreError::Unusable(format!(
                "{shown}: redis answers what this build does not expect ({error}): it needs redis 7"
            ))
        })
    }

    /// What answers there is Redis.
    pub fn is_redis(&self) {
        self.is_redis.store(true, Ordering::Relaxed);
    }

    /// What an error means.
    pub fn failure(&self, error: &RedisError) -> StoreError {
        if error.kind() == ErrorKind::Parse && self.is_redis.load(Ordering::Relaxed) {
            return StoreError::Unavailable(format!("{}: an answer was cut off: {error}", self.shown));
        }
        failure(&self.shown, error)
    }
}

/// What is sent.
#[derive(Clone, Copy)]
enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script(&'a ScriptInvocation<'a>),
}

impl Request<'_> {
    async fn send(self, over: &mut MultiplexedConnection) -> RedisResult<Value> {
        match self {
            Request::Command(command) => command.query_async(over).await,
            Request::Pipeline(pipeline) => pipeline.query_async(over).await,
            Request::Script(script) => script.invoke_async(over).await,
        }
    }
}

/// The keys and arguments of a script.
pub(super) struct Call {
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    /// With the keys and arguments that all scripts have.
    pub fn new(global: Vec<String>, args: [String; 2]) -> Self {
        Call { keys: global, args: args.into_iter().map(String::into_bytes).collect() }
    }

    /// With these keys alone.
    pub fn bare(keys: impl IntoIterator<Item = String>) -> Self {
        Call { keys: keys.into_iter().collect(), args: Vec::new() }
    }

    /// Adds keys.
    pub fn keys(mut self, keys: impl IntoIterator<Item = String>) -> Self {
        self.keys.extend(keys);
        self
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl ToString) -> Self {
        self.args.push(arg.to_string().into_bytes());
        self
    }

    /// Adds an argument that need not be text.
    pub fn bytes(mut self, arg: &[u8]) -> Self {
        self.args.push(arg.to_vec());
        self
    }
}
