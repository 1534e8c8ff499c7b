//! What `queue.url` says of Redis: the servers to ask, how the queue's own server is found by them,
//! and what a connection to it begins with.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use redis::{
    Client, ConnectionAddr, ConnectionInfo, ErrorKind, IntoConnectionInfo, RedisResult, TlsCertificates,
};

use crate::redis_store::failure::{OwnFault, own};
use crate::settings::parts;

/// Most bytes of a file of certificates; a system's whole bundle is a quarter of it.
const MOST_CA: u64 = 1 << 20;

/// The port that Sentinel listens on if none is named.
const SENTINEL_PORT: u16 = 26379;

/// How the server that has the queue is found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// It is the one named; or, if that turns out to be of a cluster, as there.
    Named,
    /// By Sentinel, which knows the master of this name.
    Sentinel(String),
    /// By any node of a cluster.
    Cluster,
}

/// A URL, read.
pub(super) struct Address {
    pub kind: Kind,
    /// Servers, or sentinels.
    pub seeds: Vec<ConnectionAddr>,
    /// How to greet the server that has the queue: user, password, database, protocol, TLS.
    pub server: ConnectionInfo,
    /// How to greet a sentinel.
    pub sentinel: ConnectionInfo,
}

impl Address {
    /// Reads a URL. `ca_file` is empty for the system's own authorities.
    pub fn read(url: &str, ca_file: &Path) -> RedisResult<Self> {
        let Some((scheme, rest)) = url.split_once("://") else {
            return Err((ErrorKind::InvalidClientConfig, "it has no scheme").into());
        };
        let (scheme, kind) = scheme.split_once('+').unwrap_or((scheme, ""));
        let trusted = if scheme == "rediss" { authorities(ca_file)? } else { None };
        match kind {
            "sentinel" => Self::sentinel(scheme, rest, trusted),
            "cluster" => {
                let (user, hosts, path, query) = parts(rest);
                let servers =
                    each(hosts, |host| info(&format!("{scheme}://{user}{host}{path}{query}"), &trusted))?;
                Self::of(Kind::Cluster, servers)
            }
            _ => Self::of(Kind::Named, vec![info(url, &trusted)?]),
        }
    }

    fn of(kind: Kind, servers: Vec<ConnectionInfo>) -> RedisResult<Self> {
        let seeds = servers.iter().map(|server| server.addr().clone()).collect();
        let Some(server) = servers.into_iter().next() else {
            return Err((ErrorKind::InvalidClientConfig, "it names no host").into());
        };
        Ok(Address { kind, seeds, sentinel: server.clone(), server })
    }

    fn sentinel(scheme: &str, rest: &str, trusted: Option<Vec<u8>>) -> RedisResult<Self> {
        let (user, hosts, path, query) = parts(rest);
        let (master, database) = match path.trim_start_matches('/').split_once('/') {
            Some((master, database)) => (master, database),
            None => (path.trim_start_matches('/'), ""),
        };
        if master.is_empty() {
            let why = "it names no master: redis+sentinel://HOST:26379,HOST:26379/MASTER";
            return Err((ErrorKind::InvalidClientConfig, why).into());
        }
        let (mut ours, mut theirs) = (Vec::new(), Vec::new());
        for pair in query.trim_start_matches('?').split('&').filter(|pair| !pair.is_empty()) {
            match pair.split_once('=') {
                Some(("sentinel_user", value)) => theirs.insert(0, value),
                Some(("sentinel_pass", value)) => theirs.push(value),
                _ => ours.push(pair),
            }
        }
        let theirs = match theirs.as_slice() {
            [] => String::new(),
            [pass] => format!(":{pass}@"),
            [name, pass, ..] => format!("{name}:{pass}@"),
        };
        let sentinels = each(hosts, |host| {
            let port = if has_port(host) { String::new() } else { format!(":{SENTINEL_PORT}") };
            info(&format!("{scheme}://{theirs}{host}{port}"), &trusted)
        })?;
        let query = if ours.is_empty() { String::new() } else { format!("?{}", ours.join("&")) };
        let mut read = Self::of(Kind::Sentinel(master.to_owned()), sentinels)?;
        read.server = info(&format!("{scheme}://{user}localhost/{database}{query}"), &trusted)?;
        Ok(read)
    }
}

fn each(
    hosts: &str,
    read: impl FnMut(&str) -> RedisResult<ConnectionInfo>,
) -> RedisResult<Vec<ConnectionInfo>> {
    hosts.split(',').map(str::trim).filter(|host| !host.is_empty()).map(read).collect()
}

/// Whether a host has a port; an IPv6 address is in brackets.
fn has_port(host: &str) -> bool {
    host.rsplit_once(']').map_or(host, |(_, after)| after).contains(':')
}

fn info(url: &str, trusted: &Option<Vec<u8>>) -> RedisResult<ConnectionInfo> {
    let info = url.into_connection_info()?;
    let Some(pem) = trusted else { return Ok(info) };
    let certificates = TlsCertificates { client_tls: None, root_cert: Some(pem.clone()) };
    let client =
        Client::build_with_tls(info, certificates).map_err(|error| own(OwnFault::Authorities, error))?;
    Ok(client.get_connection_info().clone())
}

fn authorities(ca_file: &Path) -> RedisResult<Option<Vec<u8>>> {
    if ca_file.as_os_str().is_empty() {
        return Ok(None);
    }
    let mut pem = Vec::new();
    let read = File::open(ca_file).and_then(|file| file.take(MOST_CA).read_to_end(&mut pem));
    let cannot = |why: &str| own(OwnFault::Authorities, format_args!("{}: {why}", ca_file.display()));
    read.map_err(|error| cannot(&error.to_string()))?;
    match pem.windows(17).any(|window| window == b"BEGIN CERTIFICATE") {
        true => Ok(Some(pem)),
        false => Err(cannot("it holds no certificate in PEM form")),
    }
}

/// The address of another server that is greeted as this one is. `host` as Redis tells it: empty
/// if it is the one that tells.
pub(super) fn beside(
    teller: &ConnectionAddr,
    like: &ConnectionInfo,
    host: &str,
    port: u16,
) -> ConnectionAddr {
    let host = match (host, teller) {
        ("" | "?", ConnectionAddr::Tcp(host, _) | ConnectionAddr::TcpTls { host, .. }) => host.clone(),
        // Who speaks over a socket is on this machine.
        ("" | "?", _) => "127.0.0.1".to_owned(),
        (host, _) => host.to_owned(),
    };
    match like.addr() {
        ConnectionAddr::TcpTls { insecure, tls_params, .. } => {
            ConnectionAddr::TcpTls { host, port, insecure: *insecure, tls_params: tls_params.clone() }
        }
        _ => ConnectionAddr::Tcp(host, port),
    }
}

/// `host:port` as Redis writes it, IPv6 without brackets.
pub(super) fn split(address: &str) -> Option<(&str, u16)> {
    let (host, port) = address.rsplit_once(':')?;
    Some((host.trim_start_matches('[').trim_end_matches(']'), port.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(url: &str) -> Address {
        Address::read(url, Path::new("")).unwrap()
    }

    #[test]
    fn sentinels_and_their_master_are_read() {
        let found = read("redis+sentinel://me:p%40ss@a:1,b,[::1]/queue/3?sentinel_pass=other&protocol=resp3");
        assert_eq!(found.kind, Kind::Sentinel("queue".into()));
        let seeds: Vec<String> = found.seeds.iter().map(ToString::to_string).collect();
        assert_eq!(seeds, ["a:1", "b:26379", "::1:26379"]);
        let settings = found.server.redis_settings();
        assert_eq!((settings.username(), settings.password(), settings.db()), (Some("me"), Some("p@ss"), 3));
        assert_eq!(settings.protocol(), redis::ProtocolVersion::RESP3);
        let theirs = found.sentinel.redis_settings();
        assert_eq!((theirs.username(), theirs.password()), (None, Some("other")));
        let plain = read("redis+sentinel://a/queue");
        assert_eq!((plain.server.redis_settings().password(), plain.server.redis_settings().db()), (None, 0));
        for url in ["redis+sentinel://a", "redis+sentinel:///queue", "redis+cluster://"] {
            assert!(Address::read(url, Path::new("")).is_err(), "{url}");
        }
    }

    #[test]
    fn nodes_of_a_cluster_are_read() {
        let found = read("rediss+cluster://:p@a:7000,b:7001");
        assert_eq!((found.kind, found.seeds.len()), (Kind::Cluster, 2));
        assert_eq!(found.server.redis_settings().password(), Some("p"));
        assert!(matches!(&found.seeds[1], ConnectionAddr::TcpTls { host, port: 7001, .. } if host == "b"));
        let plain = read("redis://a:7000");
        assert_eq!(plain.kind, Kind::Named);
    }

    #[test]
    fn an_address_is_as_redis_tells_it() {
        assert_eq!(split("10.0.0.1:7000"), Some(("10.0.0.1", 7000)));
        assert_eq!(split("::1:7000"), Some(("::1", 7000)));
        assert_eq!(split(":7000"), Some(("", 7000)));
        assert_eq!(split("nothing"), None);
        let teller = read("redis://a:7000").server;
        assert_eq!(beside(teller.addr(), &teller, "", 7001).to_string(), "a:7001");
        assert_eq!(beside(teller.addr(), &teller, "b", 7001).to_string(), "b:7001");
    }

    #[test]
    fn what_is_no_authority_is_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("ca.pem");
        for content in [None, Some("not a certificate"), Some("-----BEGIN CERTIFICATE-----\n?\n")] {
            if let Some(content) = content {
                std::fs::write(&path, content).unwrap();
            }
            let error = Address::read("rediss://h", &path).err().unwrap();
            let shown = crate::redis_store::failure::failure("rediss://h", &error).to_string();
            assert!(shown.contains("queue.ca_file"), "{content:?}: {shown}");
        }
    }
}
