//! The connection to Redis: made when it is needed, made again when it broke or when the queue is
//! elsewhere, and the scripts that run over it.

mod address;
mod greeting;
mod place;
mod request;

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use futures_util::StreamExt;
use redis::aio::{MultiplexedConnection, PubSubSink, PubSubStream};
use redis::{
    Client, Cmd, ConnectionAddr, ErrorKind, FromRedisValue, Msg, Pipeline, RedisError, RedisResult, Script,
    Value, cmd, pipe,
};
use tokio::sync::{Mutex, watch};

use self::address::Address;
use self::place::Place;
pub(super) use self::request::Call;
use self::request::Request;
use super::failure::{Elsewhere, elsewhere, failure, is_broken, is_wrong_type};
use super::keys::Keys;
use crate::settings::masked;
use crate::{Result, Settings, StoreError};

/// Most times that one request follows the queue to another node.
const MOVES: usize = 4;

/// A connection that many commands share, and the way to a new one.
pub(super) struct Link {
    place: Place,
    /// The URL without its password.
    pub shown: String,
    connect_timeout: Duration,
    response_timeout: Duration,
    /// It has answered as Redis does: an unreadable answer from here on was cut off.
    is_redis: AtomicBool,
    current: Mutex<Current>,
    /// How often connecting was tried.
    tries: AtomicU64,
    /// The server that the connection goes to.
    at: watch::Sender<Option<ConnectionAddr>>,
}

#[derive(Default)]
struct Current {
    connection: Option<(MultiplexedConnection, ConnectionAddr)>,
    /// Counts connections, so that a broken one is dropped once and its successor is not.
    made: u64,
    /// Why the last attempt failed, if it did.
    away: Option<RedisError>,
}

/// A connection, the server that it goes to, and its number.
struct Line {
    connection: MultiplexedConnection,
    at: ConnectionAddr,
    number: u64,
}

impl Link {
    /// For a URL; connects nowhere yet.
    pub fn new(url: &str, settings: &Settings) -> Result<Self> {
        let shown = masked(url);
        if url.starts_with("rediss") && rustls::crypto::CryptoProvider::get_default().is_none() {
            let why = format!("{shown}: no TLS provider is installed in this process");
            return Err(StoreError::Unusable(why));
        }
        let address = Address::read(url, &settings.ca_file).map_err(|error| failure(&shown, &error))?;
        let probe = has_tag(&settings.prefix).then(|| Keys::new(&settings.prefix).stream());
        Ok(Link {
            place: Place::new(address, settings.connect_timeout, probe),
            shown,
            connect_timeout: settings.connect_timeout,
            response_timeout: settings.response_timeout,
            current: Mutex::default(),
            tries: AtomicU64::new(0),
            is_redis: AtomicBool::new(false),
            at: watch::Sender::new(None),
        })
    }

    /// A connection of one's own, on which a command may take as long as it takes: the client's
    /// usual limit would leave a blocking read's answer to nobody.
    pub async fn connect_blocking(&self) -> RedisResult<(MultiplexedConnection, ConnectionAddr)> {
        let (connection, at) = self.place.connect(None).await?;
        self.leave_all_but(&at).await;
        Ok((connection, at))
    }

    /// A connection of one's own for what others say, to the server that everything else goes to:
    /// who is present is known to that one alone.
    pub async fn pubsub(&self) -> RedisResult<(PubSubSink, Words)> {
        let line = self.connection().await?;
        let client = Client::open(self.place.info(&line.at))?;
        let pubsub = tokio::time::timeout(self.connect_timeout, client.get_async_pubsub()).await;
        let late = |_| RedisError::from((ErrorKind::Io, "connecting took too long"));
        let (sink, stream) = pubsub.map_err(late)??.split();
        Ok((sink, Words { stream, at: line.at, now: self.at.subscribe() }))
    }

    async fn connection(&self) -> RedisResult<Line> {
        let tries = self.tries.load(Ordering::Relaxed);
        let mut current = self.current.lock().await;
        if let Some((connection, at)) = &current.connection {
            return Ok(Line { connection: connection.clone(), at: at.clone(), number: current.made });
        }
        // Who waited while another tried in vain does not try next: a hundred would wait in a row.
        if let Some(error) = current.away.as_ref().filter(|_| self.tries.load(Ordering::Relaxed) != tries) {
            return Err(error.clone());
        }
        let connected = self.place.connect(Some(self.response_timeout)).await;
        self.tries.fetch_add(1, Ordering::Relaxed);
        match connected {
            Ok((connection, at)) => {
                if current.away.take().is_some() {
                    tracing::debug!(store = %self.shown, "redis is back");
                }
                if current.made == 0 {
                    self.look_over(&connection).await;
                }
                current.made += 1;
                current.connection = Some((connection.clone(), at.clone()));
                let before = self.at.send_replace(Some(at.clone()));
                if before.is_some_and(|before| before != at) {
                    tracing::info!(store = %self.shown, server = %at, "the queue is on another server now");
                }
                Ok(Line { connection, at, number: current.made })
            }
            Err(error) => {
                // The worker itself says once that its store is away; this is for who looks closely.
                if current.away.replace(error.clone()).is_none() {
                    tracing::debug!(store = %self.shown, %error, "redis is away");
                }
                Err(error)
            }
        }
    }

    /// Leaves the server if the sentinels name another by now: one that was cut off from them is a
    /// master for as long as it stays so, and what it is told is forgotten.
    pub async fn recheck(&self) {
        if let Some(at) = self.place.named_by_sentinels().await {
            self.leave_all_but(&at).await;
        }
    }

    /// The queue is there now: a connection to elsewhere is of no more use.
    async fn leave_all_but(&self, at: &ConnectionAddr) {
        let mut current = self.current.lock().await;
        if current.connection.as_ref().is_some_and(|(_, here)| here != at) {
            current.connection = None;
        }
    }

    /// Ends when everything else goes to another server than this.
    pub async fn left(&self, at: &ConnectionAddr) {
        is_elsewhere(&mut self.at.subscribe(), at).await;
    }

    /// Says what an operator ought to change; a user without the right to see it is not bothered.
    async fn look_over(&self, connection: &MultiplexedConnection) {
        let answer: RedisResult<String> =
            cmd("INFO").arg("memory").query_async(&mut connection.clone()).await;
        if let Some(policy) = answer.as_deref().ok().and_then(greeting::evicts) {
            tracing::warn!(
                store = %self.shown,
                policy,
                "redis drops keys when its memory is full, and jobs with them: set maxmemory-policy noeviction"
            );
        }
    }

    /// Sends something over the connection; if that turns out to have been closed, once more over a
    /// new one. Only for what may be done twice. Says whether it was sent once. Where a cluster says
    /// that the queue is elsewhere, nothing was done, and it is followed there.
    async fn send(&self, request: Request<'_>) -> RedisResult<(Value, bool)> {
        let (mut again, mut moves) = (true, 0);
        loop {
            let mut line = self.connection().await?;
            let error = match request.send(&mut line.connection).await {
                Ok(value) => return Ok((value, again)),
                Err(error) => error,
            };
            if is_broken(&error) {
                let mut current = self.current.lock().await;
                if current.made == line.number {
                    current.connection = None;
                }
            }
            match elsewhere(&error) {
                Some(Elsewhere::Moved(to)) if moves < MOVES => {
                    moves += 1;
                    self.place.told(&line.at, &to);
                    continue;
                }
                Some(Elsewhere::Ask(to)) => {
                    return self.ask(request, &line.at, &to, error).await.map(|value| (value, again));
                }
                Some(Elsewhere::Moved(_)) | None => {}
            }
            // A time-out is not repeated: the caller has waited long enough to decide.
            if !std::mem::take(&mut again) || !error.is_connection_dropped() {
                return Err(error);
            }
        }
    }

    /// Sends something to the node that a moving slot goes to, once, as that node wants it.
    async fn ask(
        &self,
        request: Request<'_>,
        teller: &ConnectionAddr,
        to: &str,
        error: RedisError,
    ) -> RedisResult<Value> {
        let Some(at) = self.place.beside(teller, to) else { return Err(error) };
        let (script, command) = match request {
            // Some of its keys are here and some are there: only the end of the move helps.
            Request::Pipeline(_) => return Err(error),
            Request::Command(command) => (None, command),
            Request::Script(script, command) => (Some(script), command),
        };
        let mut connection = self.place.dial(self.place.info(&at), Some(self.response_timeout)).await?;
        if let Some(script) = script {
            script.load_async(&mut connection).await?;
        }
        let mut asking = pipe();
        asking.cmd("ASKING").ignore().add_command(command.clone());
        let answers: Vec<Value> = asking.query_async(&mut connection).await?;
        answers.into_iter().next_back().ok_or(error)
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
        let command = call.command(script);
        self.read(self.send(Request::Script(script, &command)).await.map(|(answer, _)| answer))
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

    /// What an error means. A server that has served the queue does so again once a person has given
    /// back the right or the password: until then it is away, and no job is to suffer for it.
    pub fn failure(&self, error: &RedisError) -> StoreError {
        let served = self.is_redis.load(Ordering::Relaxed);
        if error.kind() == ErrorKind::Parse && served {
            return StoreError::Unavailable(format!("{}: an answer was cut off: {error}", self.shown));
        }
        match failure(&self.shown, error) {
            StoreError::Unusable(why) if served && !is_wrong_type(error) => StoreError::Unavailable(why),
            other => other,
        }
    }
}

/// Whether all keys that begin so lie in one slot of a cluster: what is between the first `{` and
/// the next `}` alone decides, if there is anything.
fn has_tag(prefix: &str) -> bool {
    let tag = prefix.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    tag.is_some_and(|(tag, _)| !tag.is_empty())
}

/// What is heard on channels; it ends when the queue is on another server.
pub(super) struct Words {
    stream: PubSubStream,
    at: ConnectionAddr,
    now: watch::Receiver<Option<ConnectionAddr>>,
}

impl Words {
    /// The next; `None` if there will be no more. May be dropped without loss.
    pub async fn next(&mut self) -> Option<Msg> {
        tokio::select! {
            message = self.stream.next() => message,
            () = is_elsewhere(&mut self.now, &self.at) => None,
        }
    }
}

async fn is_elsewhere(now: &mut watch::Receiver<Option<ConnectionAddr>>, at: &ConnectionAddr) {
    // It fails when the link is gone: nobody is left to go anywhere.
    let _ = now.wait_for(|now| now.as_ref().is_some_and(|now| now != at)).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_tag_holds_all_keys_together() {
        for prefix in ["{steadfast}:", "a{b}", "{{x}:", "a{b}c{d}"] {
            assert!(has_tag(prefix), "{prefix}");
        }
        for prefix in ["", "steadfast:", "{}", "{}{x}", "{x", "}x{", "x}"] {
            assert!(!has_tag(prefix), "{prefix}");
        }
    }
}
