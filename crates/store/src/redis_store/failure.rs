//! What an error of Redis or of its client means to the caller, and what can be done about it.

use std::error::Error;
use std::fmt::Display;
use std::sync::Arc;

use redis::{ErrorKind, RedisError};

use crate::StoreError;

/// What the link itself finds wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OwnFault {
    /// The prefix has no hash tag, and this is a cluster.
    NoTag,
    /// The URL says cluster, and the server is none.
    NoCluster,
    /// The URL says Redis, and the server is a sentinel.
    IsSentinel,
    /// The sentinels do not know the master.
    NoMaster,
    /// No sentinel answers, or what they name is not a master yet.
    FailingOver,
    /// It says nothing.
    Silent,
    /// It hangs up before a word.
    HungUp,
    /// `queue.ca_file` cannot be used.
    Authorities,
}

const OWN: [(OwnFault, &str); 8] = [
    (OwnFault::NoTag, "OWN-NOTAG"),
    (OwnFault::NoCluster, "OWN-NOCLUSTER"),
    (OwnFault::IsSentinel, "OWN-SENTINEL"),
    (OwnFault::NoMaster, "OWN-NOMASTER"),
    (OwnFault::FailingOver, "OWN-FAILOVER"),
    (OwnFault::Silent, "OWN-SILENT"),
    (OwnFault::HungUp, "OWN-HUNGUP"),
    (OwnFault::Authorities, "OWN-CA"),
];

/// An error of the link, in the client's type, so that both go one way.
pub(super) fn own(fault: OwnFault, detail: impl Display) -> RedisError {
    let code = OWN.iter().find(|(each, _)| *each == fault).map_or("", |(_, code)| code);
    redis::make_extension_error(code.to_owned(), Some(detail.to_string()))
}

fn own_fault(code: &str) -> Option<OwnFault> {
    OWN.iter().find(|(_, each)| *each == code).map(|(fault, _)| *fault)
}

/// What an error means. `shown` is the URL without its password.
pub(super) fn failure(shown: &str, error: &RedisError) -> StoreError {
    let code = code(error);
    let unavailable = |what: &str| StoreError::Unavailable(format!("{shown}: {what}"));
    let unusable = |what: &str| StoreError::Unusable(format!("{shown}: {what}"));
    if let Some(fault) = own_fault(&code) {
        let detail = detail(error);
        return match fault {
            OwnFault::NoTag => unusable(
                "this is a redis cluster, where the queue's keys must lie in one slot: let queue.prefix hold a \
                 hash tag, {steadfast}: say",
            ),
            OwnFault::NoCluster => unusable("this redis is no cluster: write redis:// in queue.url"),
            OwnFault::IsSentinel => {
                unusable("this is a sentinel: write redis+sentinel://HOST:26379/MASTER in queue.url")
            }
            OwnFault::NoMaster => unusable(&format!(
                "the sentinels watch no master of that name ({detail}): see sentinel monitor in their \
                 configuration"
            )),
            OwnFault::FailingOver => unavailable(&format!("redis is failing over: {detail}")),
            OwnFault::Silent => {
                let tls =
                    if shown.starts_with("rediss") { ", or does not speak TLS (then redis://)" } else { "" };
                unavailable(&format!(
                    "nothing answered within {detail}: the host is away, hangs, or is not redis{tls}"
                ))
            }
            OwnFault::HungUp => unavailable(&format!(
                "what listens there hung up at once ({detail}): it is going down, has as many clients as it \
                 takes, or wants TLS (then rediss://)"
            )),
            OwnFault::Authorities => unusable(&format!("queue.ca_file cannot be used: {detail}")),
        };
    }
    match code.as_str() {
        "OOM" => unavailable(
            "redis is out of memory: raise its maxmemory (with maxmemory-policy noeviction), or let ended jobs \
             go sooner with queue.keep_ended",
        ),
        "READONLY" => {
            unavailable("this redis is a replica and takes no writes: name the master in queue.url")
        }
        "MISCONF" => unavailable("redis cannot write to its disk and takes no writes: see its log"),
        "NOREPLICAS" => unavailable(
            "redis has fewer replicas than its min-replicas-to-write and takes no writes: see its replicas",
        ),
        "LOADING" => unavailable("redis is loading its data"),
        "BUSY" => unavailable("redis is busy with another client's script"),
        "MASTERDOWN" | "CLUSTERDOWN" | "UNBLOCKED" => unavailable("redis is failing over"),
        "TRYAGAIN" | "ASK" => unavailable("the queue's slot is moving to another node of the cluster"),
        "MOVED" => unavailable("the nodes of the redis cluster do not agree on who has the queue's slot yet"),
        "NOAUTH" => unusable("redis wants a password: put it into queue.url, redis://:PASSWORD@HOST"),
        "WRONGPASS" => unusable("redis refuses the user or password in queue.url"),
        "DENIED" => unusable(
            "redis is in protected mode and serves its own machine alone: give it a user and a password",
        ),
        _ if is_no_right(error) => unusable(&format!(
            "the user in queue.url lacks a right ({error}): docs/redis.md has the list of what it needs, and \
             ACL LOG on the server says which one was missed"
        )),
        "WRONGTYPE" => unusable(
            "a key that the queue uses (job-queue and job-queue:*, under queue.prefix) holds another kind of \
             value: remove it, or choose a queue.prefix of its own",
        ),
        "CROSSSLOT" => {
            unusable("this is a redis cluster: let queue.prefix hold a hash tag, {steadfast}: say")
        }
        _ => match error.kind() {
            ErrorKind::AuthenticationFailed => unusable("redis refuses the user or password in queue.url"),
            ErrorKind::InvalidClientConfig => unusable(&format!("queue.url cannot be read: {error}")),
            ErrorKind::Parse => unusable(
                "what answers there is not redis: check host and port in queue.url, and rediss:// if it wants TLS",
            ),
            _ if error.to_string().contains("refused to switch database") => {
                unusable(&format!("redis refuses the database that queue.url names ({})", detail(error)))
            }
            _ => match refused_by_tls(error) {
                Some(why) => unusable(&why),
                None => unavailable(&error.to_string()),
            },
        },
    }
}

/// What TLS has against the server, if that is the reason.
fn refused_by_tls(error: &RedisError) -> Option<String> {
    // The client keeps the cause in an `Arc`, as which it has to be asked for.
    let shared = error.source()?.downcast_ref::<Arc<dyn Error + Send + Sync>>()?;
    let inner = shared.downcast_ref::<std::io::Error>()?.get_ref()?;
    match inner.downcast_ref::<rustls::Error>()? {
        rustls::Error::InvalidCertificate(why) => Some(format!(
            "its certificate is not trusted ({why}): name the authority that signed it in queue.ca_file, and \
             the host in queue.url as the certificate does"
        )),
        rustls::Error::InvalidMessage(_) => {
            Some("it does not speak TLS: write redis:// in queue.url, or name its TLS port".into())
        }
        _ => None,
    }
}

/// Whether the connection is of no more use.
pub(super) fn is_broken(error: &RedisError) -> bool {
    let demoted = matches!(
        code(error).as_str(),
        "READONLY" | "MASTERDOWN" | "LOADING" | "CLUSTERDOWN" | "MOVED" | "NOAUTH" | "UNBLOCKED"
    );
    demoted || matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed)
}

/// Where a cluster says that the queue's slot is: for good, or while it moves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Elsewhere {
    Moved(String),
    Ask(String),
}

/// What the error says of where to go. Nothing was done if it says so.
pub(super) fn elsewhere(error: &RedisError) -> Option<Elsewhere> {
    let errors = error.clone().into_server_errors()?;
    let told = |code: &str| {
        let (_, error) = errors.iter().find(|(_, error)| error.code() == code)?;
        error.details()?.split_ascii_whitespace().nth(1).map(str::to_owned)
    };
    told("MOVED").map(Elsewhere::Moved).or_else(|| told("ASK").map(Elsewhere::Ask))
}

/// The script has to be loaded.
pub(super) fn is_no_script(error: &RedisError) -> bool {
    code(error) == "NOSCRIPT"
}

/// The server does not know the command.
pub(super) fn is_unknown_command(error: &RedisError) -> bool {
    is_plain(error) && error.to_string().contains("unknown command")
}

/// The server refuses without a word that programs know.
pub(super) fn is_plain(error: &RedisError) -> bool {
    code(error) == "ERR"
}

/// The user may not do this; or, to Redis 7.0 a plain error, may not do it in a script.
pub(super) fn is_no_right(error: &RedisError) -> bool {
    let in_script = ["The user executing the script can't", "ACL failure in script"];
    code(error) == "NOPERM" || in_script.iter().any(|words| error.to_string().contains(words))
}

/// A key holds another kind of value.
pub(super) fn is_wrong_type(error: &RedisError) -> bool {
    code(error) == "WRONGTYPE"
}

/// Trying again does not help: a person has to.
pub(super) fn is_for_good(error: &RedisError) -> bool {
    matches!(failure("", error), StoreError::Unusable(_))
}

/// The group is gone: flushed, or lost in a failover.
pub(super) fn is_no_group(error: &RedisError) -> bool {
    code(error) == "NOGROUP"
}

/// The group is there already.
pub(super) fn is_busy_group(error: &RedisError) -> bool {
    code(error) == "BUSYGROUP"
}

/// The first word of the server's error, or of what a transaction was discarded for; empty for an
/// error of the client.
fn code(error: &RedisError) -> String {
    let of_server = || {
        let errors = error.clone().into_server_errors()?;
        errors.first().map(|(_, error)| error.code().to_owned())
    };
    match error.code().map(str::to_owned).or_else(of_server).unwrap_or_default() {
        code if code == "EXECABORT" => {
            let detail = detail(error);
            let cause = detail.split_once("because of: ").and_then(|(_, cause)| cause.split(' ').next());
            cause.map(str::to_owned).unwrap_or(code)
        }
        code => code,
    }
}

fn detail(error: &RedisError) -> String {
    let of_server = |error: &RedisError| {
        let errors = error.clone().into_server_errors()?;
        errors.first().and_then(|(_, error)| error.details().map(str::to_owned))
    };
    let detail = error.detail().map(str::to_owned).or_else(|| of_server(error));
    detail.unwrap_or_default().chars().take(200).collect()
}
