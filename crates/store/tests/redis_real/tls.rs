//! Redis behind TLS: whose certificate is signed by whom, and what is said if it is not.

use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use steadfast_store::{Settings, StoreError, open};
use tempfile::TempDir;

use super::fleet::{Node, free_port};
use crate::world::*;

/// An authority of this test, and a server that it signed for.
struct Secured {
    node: Node,
    tls: u16,
    folder: TempDir,
}

impl Secured {
    fn start(name: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = authority();
        let key = KeyPair::generate().unwrap();
        let certificate =
            CertificateParams::new(vec![name.to_owned()]).unwrap().signed_by(&key, &authority).unwrap();
        let path = |name: &str| folder.path().join(name).display().to_string();
        for (name, content) in
            [("ca.pem", authority.pem()), ("cert.pem", certificate.pem()), ("key.pem", key.serialize_pem())]
        {
            std::fs::write(path(name), content).unwrap();
        }
        let tls = free_port();
        let node = Node::start(
            free_port(),
            &[
                &["--tls-port", &tls.to_string(), "--tls-auth-clients", "no"][..],
                &["--tls-cert-file", &path("cert.pem"), "--tls-key-file", &path("key.pem")],
                &["--tls-ca-cert-file", &path("ca.pem"), "--requirepass", "hunter2"],
            ]
            .concat(),
        );
        Secured { node, tls, folder }
    }

    fn settings(&self, scheme: &str, port: u16) -> Settings {
        let url = format!("{scheme}://:hunter2@127.0.0.1:{port}");
        Settings { ca_file: self.folder.path().join("ca.pem"), ..Settings::for_tests(url) }
    }
}

fn authority() -> CertifiedIssuer<'static, KeyPair> {
    let mut params = CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap()
}

async fn refused(settings: &Settings) -> String {
    match open(settings, "a").await.err() {
        Some(StoreError::Unusable(why)) => {
            assert!(!why.contains("hunter2"), "{why}");
            why
        }
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn a_trusted_certificate_is_taken_and_no_other() {
    // Somebody else in this process may have been first.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let secured = Secured::start("127.0.0.1");
    let settings = secured.settings("rediss", secured.tls);
    let store = open(&settings, "a").await.unwrap();
    let mut listener = store.ledger().listen("me#1").await.unwrap();
    let waiting = tokio::spawn(super::cluster::next_claims(open(&settings, "b").await.unwrap()));
    store.submit(&job("x")).await.unwrap();
    let claim = soon("a claim", waiting).await.unwrap().remove(0);
    store.append(&claim.lease, 0, &[vec![b'x'; 300_000]], Some(b"p")).await.unwrap();
    assert_eq!(store.replay(&id("x")).await.unwrap().steps[0].len(), 300_000);
    store.ledger().say("llm", b"word").await.unwrap();
    assert_eq!(soon("a word", listener.next()).await.unwrap().words, b"word");

    let other = secured.folder.path().join("other.pem");
    std::fs::write(&other, authority().pem()).unwrap();
    // Another authority, and the system's own.
    for ca_file in [other, std::path::PathBuf::new()] {
        let why = refused(&Settings { ca_file, ..settings.clone() }).await;
        assert!(why.contains("queue.ca_file"), "{why}");
    }
    let missing = Settings { ca_file: secured.folder.path().join("none.pem"), ..settings.clone() };
    let why = refused(&missing).await;
    assert!(why.contains("none.pem") && why.contains("queue.ca_file"), "{why}");
    // TLS to who speaks none, and none to who speaks it.
    for (scheme, port, hint) in
        [("rediss", secured.node.port, "redis://"), ("redis", secured.tls, "rediss://")]
    {
        let connect_timeout = Duration::from_millis(300);
        let error = open(&Settings { connect_timeout, ..secured.settings(scheme, port) }, "a").await.err();
        match error {
            Some(StoreError::Unusable(why) | StoreError::Unavailable(why)) => {
                assert!(why.contains(hint), "{why}");
            }
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_certificate_of_another_host_is_refused() {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let secured = Secured::start("redis.example");
    let why = refused(&secured.settings("rediss", secured.tls)).await;
    assert!(why.contains("redis.example"), "{why}");
}
