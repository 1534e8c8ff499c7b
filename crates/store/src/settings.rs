//! The `[queue]` settings, and the URL that says which store it is.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use bytesize::ByteSize;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{Result, StoreError};

/// Where the queue is kept and what it holds at most: `[queue]`.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// `sqlite:PATH` (default `sqlite:steadfast.db`), `redis://`, `rediss://`, `redis+unix://`,
    /// `redis+sentinel://` or `redis+cluster://` (with TLS: `rediss+...`), or `memory:`. A password
    /// in it is never shown.
    pub url: QueueUrl,
    /// What every Redis key begins with; default empty, the seed system's names. On a Redis
    /// Cluster it must hold a hash tag: `{steadfast}:`.
    pub prefix: String,
    /// A file with the authorities (PEM) that sign the certificate of a Redis behind `rediss`; default
    /// empty: the system's own.
    pub ca_file: PathBuf,
    /// How long a claimed job is ours without a renewal; default 30 s.
    #[serde(with = "humantime_serde")]
    pub lease: Duration,
    /// Most bytes of a job's JSON; default 1 MB.
    pub max_job_bytes: ByteSize,
    /// Whether a second job for an issue is joined to the one that is alive, where a job itself says
    /// nothing (`unique`): `false`, the default, takes every id for a job of its own.
    pub unique_issues: bool,
    /// Most jobs of one repository that run at once, in the whole fleet; 0 is no such limit. Not a
    /// key of `[queue]` but `job.per_repo_concurrency`.
    #[serde(skip)]
    pub per_repo_concurrency: u32,
    /// How long an ended job is kept; default 7 days.
    #[serde(with = "humantime_serde")]
    pub keep_ended: Duration,
    /// Most steps of a job's journal; default 2,000.
    pub max_steps: u32,
    /// Most bytes of one step; default 1 MB.
    pub max_step_bytes: ByteSize,
    /// Most bytes of a workspace's patch; default 20 MB.
    pub max_patch_bytes: ByteSize,
    /// Most bytes of a job's journal, its steps together; default 50 MB.
    pub max_journal_bytes: ByteSize,
    /// SQLite: how often to look for what other processes queued; default 100 ms.
    #[serde(with = "humantime_serde")]
    pub poll_interval: Duration,
    /// Redis: longest wait for a connection; default 5 s.
    #[serde(with = "humantime_serde")]
    pub connect_timeout: Duration,
    /// Redis: longest wait for an answer; SQLite: for another process's transaction; default 5 s.
    #[serde(with = "humantime_serde")]
    pub response_timeout: Duration,
}

/// The queue's URL. Shows and serialises with its password masked; [`QueueUrl::parse`] reads it.
#[derive(Clone, PartialEq, Eq)]
pub struct QueueUrl(String);

/// Which store a [`QueueUrl`] names.
#[derive(Clone, PartialEq, Eq)]
pub enum Location {
    /// In this process, gone with it.
    Memory,
    /// A file.
    Sqlite(PathBuf),
    /// A server: the URL as the Redis client takes it, password included.
    Redis(String),
}

impl QueueUrl {
    /// Keeps a URL as it is written; whether it can be read is told by [`QueueUrl::parse`].
    pub fn new(url: impl Into<String>) -> Self {
        QueueUrl(url.into())
    }

    /// Which store it names.
    pub fn parse(&self) -> Result<Location> {
        let scheme = self.0.split(':').next().unwrap_or_default();
        match (scheme, self.0.split_once(':')) {
            ("memory", Some((_, ""))) => Ok(Location::Memory),
            ("sqlite", Some((_, path))) if is_file(path) => {
                // Both `sqlite:PATH` and, as others write it, `sqlite://PATH`.
                Ok(Location::Sqlite(PathBuf::from(path.strip_prefix("//").unwrap_or(path))))
            }
            (
                "redis" | "rediss" | "redis+unix" | "redis+sentinel" | "rediss+sentinel" | "redis+cluster"
                | "rediss+cluster",
                Some((_, rest)),
            ) if rest.starts_with("//") => Ok(Location::Redis(self.0.clone())),
            _ => Err(StoreError::Unusable(format!(
                "queue.url {self} names no store: write sqlite:steadfast.db, redis://host:6379, \
                 rediss://host:6379, redis+unix:///run/redis.sock, \
                 redis+sentinel://host:26379/master, redis+cluster://host:6379 or memory:"
            ))),
        }
    }
}

impl fmt::Display for QueueUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&masked(&self.0))
    }
}

impl fmt::Debug for QueueUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", masked(&self.0))
    }
}

impl fmt::Debug for Location {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Location::Memory => f.write_str("memory:"),
            Location::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Location::Redis(url) => f.write_str(&masked(url)),
        }
    }
}

impl Serialize for QueueUrl {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for QueueUrl {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        String::deserialize(deserializer).map(QueueUrl)
    }
}

/// A Redis URL with the first of its hosts alone, as general readers of URLs understand it.
pub fn with_one_host(url: &str) -> String {
    match url.split_once("://") {
        Some((scheme, rest)) if scheme.ends_with("+sentinel") || scheme.ends_with("+cluster") => {
            let (user, hosts, path, query) = parts(rest);
            let host = hosts.split(',').map(str::trim).find(|host| !host.is_empty()).unwrap_or_default();
            format!("{scheme}://{user}{host}{path}{query}")
        }
        Some(_) | None => url.to_owned(),
    }
}

/// `user:password@`, hosts, path, query of what comes after `//`: each with its mark, or empty.
pub(crate) fn parts(rest: &str) -> (&str, &str, &str, &str) {
    let (rest, query) = rest.split_at(rest.find('?').unwrap_or(rest.len()));
    let (user, rest) = rest.split_at(rest.rfind('@').map_or(0, |at| at + 1));
    let (hosts, path) = rest.split_at(rest.find('/').unwrap_or(rest.len()));
    (user, hosts, path, query)
}

/// Whether it can be the path of a file; `:memory:` would be as many stores as connections.
fn is_file(path: &str) -> bool {
    !path.trim_start_matches('/').is_empty() && !path.starts_with(':') && !path.ends_with('/')
}

/// The URL without what may be secret: all that is before the last `@` but the user's name (a
/// password may hold an `@` that is not escaped), and the query, where `redis+unix:` has its password.
pub(crate) fn masked(url: &str) -> String {
    if url.starts_with("sqlite:") || !url.contains(['@', '?']) {
        return url.to_owned();
    }
    let Some((scheme, rest)) = url.split_once("://") else { return "***".to_owned() };
    let is_socket = scheme.ends_with("unix");
    let (user, rest) = match rest.rsplit_once('@').filter(|_| !is_socket) {
        Some((user, rest)) => {
            (user.split([':', '/', '?', '#']).next().map(|name| format!("{name}:***@")), rest)
        }
        None => (None, rest),
    };
    let (rest, query) = match rest.split_once('?') {
        Some((rest, _)) => (rest, "?***"),
        None => (rest, ""),
    };
    format!("{scheme}://{}{rest}{query}", user.unwrap_or_default())
}

#[cfg(any(test, feature = "testing"))]
impl Settings {
    /// The defaults of config.toml with another URL, for tests.
    pub fn for_tests(url: impl Into<String>) -> Self {
        Settings {
            url: QueueUrl::new(url),
            prefix: String::new(),
            ca_file: PathBuf::new(),
            lease: Duration::from_secs(30),
            max_job_bytes: ByteSize::mb(1),
            unique_issues: false,
            per_repo_concurrency: 0,
            keep_ended: Duration::from_secs(7 * 24 * 3600),
            max_steps: 2000,
            max_step_bytes: ByteSize::mb(1),
            max_patch_bytes: ByteSize::mb(20),
            max_journal_bytes: ByteSize::mb(50),
            poll_interval: Duration::from_millis(20),
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(5),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_store() {
        let read = |url: &str| QueueUrl::new(url).parse();
        assert_eq!(read("memory:").unwrap(), Location::Memory);
        assert_eq!(read("sqlite:a b.db").unwrap(), Location::Sqlite("a b.db".into()));
        assert_eq!(read("sqlite:/x/y.db").unwrap(), Location::Sqlite("/x/y.db".into()));
        assert_eq!(read("sqlite:///x/y.db").unwrap(), Location::Sqlite("/x/y.db".into()));
        assert_eq!(read("sqlite://y.db").unwrap(), Location::Sqlite("y.db".into()));
        for url in [
            "redis://h",
            "rediss://u:p@h:1/2",
            "redis+unix:///run/r.sock",
            "redis+sentinel://h,i/queue",
            "rediss+cluster://h,i",
        ] {
            assert_eq!(read(url).unwrap(), Location::Redis(url.into()));
        }
        for url in
            ["", "redis", "redis:h", "sqlite:", "sqlite://", "sqlite::memory:", "postgres://h", "memory:x"]
        {
            let error = read(url).unwrap_err().to_string();
            assert!(error.contains("sqlite:steadfast.db"), "{url}: {error}");
        }
    }

    #[test]
    fn of_many_hosts_one_is_left() {
        for (url, one) in [
            ("redis+sentinel://me:a,b@h:1,i:2/q?x=1", "redis+sentinel://me:a,b@h:1/q?x=1"),
            ("rediss+cluster://h,i", "rediss+cluster://h"),
            ("redis+cluster://", "redis+cluster://"),
            ("redis://me:a,b@h", "redis://me:a,b@h"),
        ] {
            assert_eq!(with_one_host(url), one);
        }
    }

    #[test]
    fn no_password_is_shown() {
        for (url, shown) in [
            ("redis://h:1", "redis://h:1"),
            ("redis://:hunter2@h:1/0", "redis://:***@h:1/0"),
            ("rediss://me:hun@ter2@h", "rediss://me:***@h"),
            ("redis+unix:///r.sock?pass=hunter2", "redis+unix:///r.sock?***"),
            (
                "redis+sentinel://me:hunter2@h:1,i/q?sentinel_pass=hunter2",
                "redis+sentinel://me:***@h:1,i/q?***",
            ),
            ("postgres://me:hunter2@h", "postgres://me:***@h"),
            ("me:hunter2@h", "***"),
            ("redis://me:pass?hun/ter2@h/0?x", "redis://me:***@h/0?***"),
            ("redis+unix:///r.sock?user=a@b&pass=hun@ter2", "redis+unix:///r.sock?***"),
            ("sqlite:/a@b.db", "sqlite:/a@b.db"),
        ] {
            let url = QueueUrl::new(url);
            assert_eq!(url.to_string(), shown);
            assert_eq!(serde_json::to_value(&url).unwrap(), shown);
            assert!(
                !format!("{url:?} {:?} {:?}", url.parse(), Settings::for_tests(&*url.0)).contains("ter2")
            );
        }
    }

    #[test]
    fn settings_are_read_as_people_write_them() {
        let written = serde_json::json!({
            "url": "memory:", "prefix": "", "ca_file": "", "lease": "30s", "max_job_bytes": "1MB",
            "unique_issues": false, "keep_ended": "7d",
            "max_steps": 2000, "max_step_bytes": "1MB", "max_patch_bytes": "20MB",
            "max_journal_bytes": "50MB", "poll_interval": "100ms", "connect_timeout": "5s",
            "response_timeout": "5s",
        });
        let read: Settings = serde_json::from_value(written.clone()).unwrap();
        assert_eq!(read.keep_ended, Duration::from_secs(604_800));
        assert_eq!(read.max_job_bytes, ByteSize::mb(1));
        let mut mistyped = written;
        mistyped["leese"] = "1s".into();
        assert!(serde_json::from_value::<Settings>(mistyped).unwrap_err().to_string().contains("leese"));
    }
}
