//! What an error of Redis or of its client means to the caller, and what can be done about it.

use redis::{ErrorKind, RedisError};

use crate::StoreError;

/// The words of the server's errors that the store knows what to do about.
pub(super) fn failure(shown: &str, error: &RedisError) -> StoreError {
    let code = code(error);
    let unavailable = |what: &str| StoreError::Unavailable(format!("{shown}: {what}"));
    let unusable = |what: &str| StoreError::Unusable(format!("{shown}: {what}"));
    match code.as_str() {
        "OOM" => unavailable(
            "redis is out of memory: raise its maxmemory (with maxmemory-policy noeviction), or let ended jobs \
             go sooner with queue.keep_ended",
        ),
        "READONLY" => {
            unavailable("this redis is a replica and takes no writes: name the master in queue.url")
        }
        "MISCONF" => unavailable("redis cannot write to its disk and takes no writes: see its log"),
        "LOADING" => unavailable("redis is loading its data"),
        "BUSY" => unavailable("redis is busy with another client's script"),
        "MASTERDOWN" | "CLUSTERDOWN" | "TRYAGAIN" => unavailable("redis is failing over"),
        "NOAUTH" => unusable("redis wants a password: put it into queue.url, redis://:PASSWORD@HOST"),
        "WRONGPASS" => unusable("redis refuses the user or password in queue.url"),
        "NOPERM" => unusable(&format!(
            "the user in queue.url lacks a right: it needs streams, hashes, lists, sorted sets, strings and \
             scripts on keys under queue.prefix ({})",
            detail(error)
        )),
        "WRONGTYPE" => unusable(
            "a key that the queue uses (job-queue and job-queue:*, under queue.prefix) holds another kind of \
             value: remove it, or choose a queue.prefix of its own",
        ),
        "MOVED" | "ASK" | "CROSSSLOT" => unusable(
            "this is a redis cluster: name the node that serves the queue's slot, and let queue.prefix hold a \
             hash tag, {steadfast}: say",
        ),
        _ => match error.kind() {
            ErrorKind::AuthenticationFailed => unusable("redis refuses the user or password in queue.url"),
            ErrorKind::InvalidClientConfig => unusable(&format!("queue.url cannot be read: {error}")),
            ErrorKind::Parse => unusable("what answers there is not redis: check host and port in queue.url"),
            _ => unavailable(&error.to_string()),
        },
    }
}

/// Whether the connection is of no more use.
pub(super) fn is_broken(error: &RedisError) -> bool {
    let demoted = matches!(code(error).as_str(), "READONLY" | "MASTERDOWN" | "LOADING");
    demoted || matches!(error.kind(), ErrorKind::Io | ErrorKind::Parse | ErrorKind::AuthenticationFailed)
}

/// The group is gone: flushed, or lost in a failover.
pub(super) fn is_no_group(error: &RedisError) -> bool {
    code(error) == "NOGROUP"
}

/// The group is there already.
pub(super) fn is_busy_group(error: &RedisError) -> bool {
    code(error) == "BUSYGROUP"
}

/// The first word of the server's error; empty for an error of the client.
fn code(error: &RedisError) -> String {
    match error.code() {
        Some(code) => code.to_owned(),
        None => match error.clone().into_server_errors() {
            Some(errors) => errors.first().map(|(_, error)| error.code().to_owned()).unwrap_or_default(),
            None => String::new(),
        },
    }
}

fn detail(error: &RedisError) -> String {
    error.detail().unwrap_or_default().chars().take(200).collect()
}
