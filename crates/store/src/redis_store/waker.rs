//! A blocking read on a connection of its own, in a task of its own: whoever waits for work listens
//! to it, and may be dropped at any time without a command left behind.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{RedisResult, Value, cmd};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::failure::is_for_good;
use super::keys::{GROUP, Keys};
use super::link::Link;

/// How long one read blocks. A connection whose other side vanished is found out after it.
const BLOCK: Duration = Duration::from_secs(5);

/// Waits between attempts to connect: doubling, from and up to.
const RECONNECT: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// Tells of changes in Redis; its task starts with the first who listens and ends with it.
pub(super) struct Waker {
    link: Arc<Link>,
    keys: Keys,
    patience: Duration,
    heard: watch::Sender<u64>,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Waker {
    pub fn new(link: Arc<Link>, keys: Keys, response_timeout: Duration) -> Self {
        let heard = watch::Sender::new(0);
        Waker { link, keys, patience: BLOCK + response_timeout, heard, task: Mutex::default() }
    }

    /// Listens. Whatever happens in Redis after the listener's first look is heard of.
    pub fn listen(&self) -> watch::Receiver<u64> {
        let mut task = self.task.lock().unwrap_or_else(PoisonError::into_inner);
        // The runtime that ran the task may have ended before this one.
        if task.as_ref().is_none_or(JoinHandle::is_finished) {
            let reader = Reader {
                link: Arc::clone(&self.link),
                streams: [self.keys.stream(), self.keys.wake()],
                seen: BTreeMap::new(),
                patience: self.patience,
                heard: self.heard.clone(),
            };
            *task = Some(tokio::spawn(reader.run()));
        }
        self.heard.subscribe()
    }
}

impl Drop for Waker {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}

struct Reader {
    link: Arc<Link>,
    streams: [String; 2],
    /// The last entry seen of each stream.
    seen: BTreeMap<String, String>,
    patience: Duration,
    heard: watch::Sender<u64>,
}

impl Reader {
    async fn run(mut self) {
        let (mut pause, mut warned) = (RECONNECT.0, false);
        loop {
            match self.read(&mut pause).await {
                // What it takes to listen is not what it takes to ask: nobody else would tell of it.
                Err(error) if is_for_good(&error) => {
                    if !std::mem::replace(&mut warned, true) {
                        let error = self.link.failure(&error);
                        tracing::warn!(%error, "new work is not heard of at once: it is looked for now and then");
                    }
                }
                Err(_) | Ok(()) => warned = false,
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RECONNECT.1);
        }
    }

    /// Reads over a new connection until it ends or the server goes silent.
    async fn read(&mut self, pause: &mut Duration) -> RedisResult<()> {
        let (mut connection, at) = self.link.connect_blocking().await?;
        let patience = self.patience;
        let begun = tokio::time::timeout(patience, self.begin(&mut connection)).await;
        let Ok(begun) = begun else { return Ok(()) };
        begun?;
        *pause = RECONNECT.0;
        // What happened before the reading began is found by who looks now.
        self.tell();
        let link = Arc::clone(&self.link);
        let mut checked = Instant::now();
        loop {
            if checked.elapsed() >= BLOCK {
                link.recheck().await;
                checked = Instant::now();
            }
            let next = tokio::select! {
                next = self.next(&mut connection) => next,
                // The queue went elsewhere, and nothing will be heard here any more.
                () = link.left(&at) => None,
            };
            match next {
                Some(Ok(())) => {}
                ended => {
                    self.tell();
                    return ended.unwrap_or(Ok(()));
                }
            }
        }
    }

    fn tell(&self) {
        self.heard.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Finds where to read from. After a reconnect too: the server may have begun anew.
    async fn begin(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        for stream in &self.streams {
            let newest: Vec<(String, Value)> = cmd("XREVRANGE")
                .arg(stream)
                .arg("+")
                .arg("-")
                .arg("COUNT")
                .arg(1)
                .query_async(connection)
                .await?;
            let id = newest.into_iter().next().map_or_else(|| "0-0".to_owned(), |(id, _)| id);
            self.seen.insert(stream.clone(), id);
        }
        Ok(())
    }

    /// Waits for an entry and tells of it; `None` if the server went silent.
    async fn next(&mut self, connection: &mut MultiplexedConnection) -> Option<RedisResult<()>> {
        let mut read = cmd("XREAD");
        read.arg("COUNT").arg(1).arg("BLOCK").arg(super::inbox::millis(BLOCK)).arg("STREAMS");
        for stream in &self.streams {
            read.arg(stream);
        }
        for stream in &self.streams {
            read.arg(self.seen.get(stream).map_or("0-0", String::as_str));
        }
        type Answer = Option<Vec<(String, Vec<(String, Value)>)>>;
        let answer =
            tokio::time::timeout(self.patience, read.query_async::<Answer>(connection)).await.ok()?;
        let streams = match answer {
            Ok(Some(streams)) => streams,
            Ok(None) => return Some(Ok(())),
            Err(error) => return Some(Err(error)),
        };
        for (stream, entries) in streams {
            if let Some((id, _)) = entries.into_iter().next_back() {
                self.seen.insert(stream, id);
            }
        }
        self.tell();
        // Who was told asks the server first.
        tokio::task::yield_now().await;
        Some(self.skip(connection).await)
    }

    /// Passes over what others have had since: nobody need wake for it, and a thousand entries are
    /// not read one by one.
    async fn skip(&mut self, connection: &mut MultiplexedConnection) -> RedisResult<()> {
        let stream = &self.streams[0];
        let groups: RedisResult<Vec<BTreeMap<String, Value>>> =
            cmd("XINFO").arg("GROUPS").arg(stream).query_async(connection).await;
        let groups = match groups {
            Ok(groups) => groups,
            Err(error) if error.is_io_error() => return Err(error),
            // Neither stream nor group is there yet.
            Err(_) => return Ok(()),
        };
        let text =
            |value: Option<&Value>| value.and_then(|value| redis::from_redis_value_ref::<String>(value).ok());
        for group in groups.iter().filter(|group| text(group.get("name")).as_deref() == Some(GROUP)) {
            let delivered = text(group.get("last-delivered-id")).unwrap_or_default();
            let seen = self.seen.entry(stream.clone()).or_insert_with(|| "0-0".into());
            if order(&delivered) > order(seen) {
                *seen = delivered;
            }
        }
        Ok(())
    }
}

/// An entry's id as numbers, which is how they are ordered.
fn order(id: &str) -> (u64, u64) {
    let (time, number) = id.split_once('-').unwrap_or((id, "0"));
    (time.parse().unwrap_or(0), number.parse().unwrap_or(0))
}
