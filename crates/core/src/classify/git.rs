//! From the words of the git program to a verdict. Its exit code says only that it failed, so here,
//! and only here, text decides. Git must be run with `LC_ALL=C` for its words to be these.

use std::time::Duration;

use super::clean::clean;
use crate::failure::{Failure, FatalReason, Provider, Verdict};

const RETRY: Verdict = Verdict::Retry { after: None };
const MISSING: Verdict = Verdict::Fatal { why: FatalReason::NotFound };
const FORBIDDEN: Verdict = Verdict::Fatal { why: FatalReason::Permission };
const REJECTED: Verdict = Verdict::Fatal { why: FatalReason::Rejected };

/// What git and GitHub's git server say, in lower case, and what it means. The first row that is
/// found counts: what is specific stands before what is general, since git adds general lines
/// ("the remote end hung up") to specific ones.
const ROWS: &[(&str, Verdict)] = &[
    // GitHub refuses by 403 or 429 with these words; the status alone would mean a permission.
    ("rate limit", RETRY),
    ("abuse detection", RETRY),
    ("too many requests", RETRY),
    // Pushes that the remote's state refuses: whose is the branch that stands there?
    ("(non-fast-forward)", Verdict::Verify),
    ("(fetch first)", Verdict::Verify),
    ("(stale info)", Verdict::Verify),
    ("(already exists)", Verdict::Verify),
    ("reference already exists", Verdict::Verify),
    ("cannot lock ref", Verdict::Verify),
    ("failed to update ref", Verdict::Verify),
    // Pushes that the remote's rules refuse.
    ("without `workflow", FORBIDDEN),
    ("without workflow", FORBIDDEN),
    ("repository was archived", FORBIDDEN),
    ("protected branch", FORBIDDEN),
    ("repository rule violations", REJECTED),
    ("pre-receive hook declined", REJECTED),
    ("push declined", REJECTED),
    ("shallow update not allowed", REJECTED),
    ("exceeds github's file size limit", REJECTED),
    // A remote that failed while it took the push.
    ("internal server error", RETRY),
    // The credential.
    ("authentication failed", Verdict::Refresh),
    ("invalid username or", Verdict::Refresh),
    ("could not read username", Verdict::Refresh),
    ("could not read password", Verdict::Refresh),
    ("terminal prompts disabled", Verdict::Refresh),
    ("bad credentials", Verdict::Refresh),
    ("write access to repository not granted", FORBIDDEN),
    ("resource not accessible", FORBIDDEN),
    ("saml sso", FORBIDDEN),
    ("permission denied to", FORBIDDEN),
    // What is not there.
    ("repository not found", MISSING),
    ("couldn't find remote ref", MISSING),
    ("could not find remote branch", MISSING),
    ("not our ref", MISSING),
    ("unknown revision", MISSING),
];

/// Further words: the network's, all of which another try may mend.
const NETWORK: &[&str] = &[
    "early eof",
    "connection reset",
    "connection refused",
    "connection timed out",
    "operation timed out",
    "operation too slow",
    "timeout was reached",
    "could not resolve host",
    "failed to connect",
    "couldn't connect to server",
    "empty reply from server",
    "remote end hung up unexpectedly",
    "unexpected disconnect",
    "rpc failed",
    "transfer closed",
    "broken pipe",
    "ssl_read",
    "ssl_connect",
    "tls connect",
    "gnutls",
    "http/2 stream",
    "invalid index-pack output",
    "bad line length character",
    "expected flush after ref listing",
];

/// What git says, not the remote by its mouth, where this machine has no room left.
const FULL: &[&str] = &["no space left on device", "out of diskspace", "disk quota exceeded"];

/// How long a full disk is left alone: longer than a layer sits, so that the job parks and no attempt is
/// spent on what a person has to mend.
pub const FULL_DISK: Duration = Duration::from_secs(60);

/// What a person can do about it.
pub const FULL_DISK_HINT: &str = "this machine's disk is full: make room in agent.workspaces";

/// Whether it is this machine that has no room: what the remote says stands behind its name.
fn is_disk_full(words: &str) -> bool {
    let own = words.split(['\n', '\r']).filter(|line| !line.trim_start().starts_with("remote:"));
    own.into_iter().any(|line| FULL.iter().any(|full| line.contains(full)))
}

/// What git's failure means. `exit` is `None` where it was killed, at its time limit say. A push
/// that was cut off by us may have arrived, so one looks; one that failed of itself may be repeated
/// as it is, since pushing the same commit twice leaves what pushing it once leaves.
pub fn classify(operation: &'static str, exit: Option<i32>, stderr: &str, is_push: bool) -> Failure {
    let words = stderr.to_ascii_lowercase();
    let status = http_status(&words);
    let network = NETWORK.iter().any(|word| words.contains(word));
    let by_words = ROWS.iter().find(|(word, _)| words.contains(word)).map(|(_, verdict)| *verdict);
    let not_found = words.contains("repository '") && words.contains("' not found");
    let remote_branch = words.contains("remote branch") && words.contains("not found");
    // Another try may mend what git does not explain; the layer's attempts bound it.
    let unexplained = if is_push { Verdict::Verify } else { RETRY };
    let full = exit.is_some() && is_disk_full(&words);
    let verdict = match (exit, by_words) {
        (None, _) => unexplained,
        (Some(_), _) if full => Verdict::Retry { after: Some(FULL_DISK) },
        (Some(_), Some(Verdict::Verify)) if !is_push => RETRY,
        (Some(_), Some(verdict)) => verdict,
        (Some(_), None) if not_found || remote_branch => MISSING,
        (Some(_), None) => match status {
            Some(401) => Verdict::Refresh,
            Some(403) => FORBIDDEN,
            Some(404 | 410 | 451) => MISSING,
            Some(408 | 429 | 500..=599) => RETRY,
            Some(_) => REJECTED,
            None if network => RETRY,
            None => unexplained,
        },
    };
    let mut message = match exit {
        None => format!("stopped before it ended: {}", last_words(stderr)),
        Some(code) => format!("git ended with {code}: {}", last_words(stderr)),
    };
    if full {
        message = format!("{FULL_DISK_HINT}; {message}");
    }
    if words.contains("couldn't find remote ref") {
        message.push_str("; there is no such branch, or the repository is empty");
    }
    let server_failed = matches!(status, Some(408 | 500..=599)) || words.contains("internal server error");
    Failure {
        verdict,
        provider: Provider::Git,
        operation,
        status,
        message: clean(&message),
        request_id: None,
        maybe_charged: false,
        unhealthy: exit.is_none()
            || server_failed
            || (status.is_none() && by_words.is_none() && network && !full),
    }
}

/// The HTTP status that git names: `The requested URL returned error: 503`, `RPC failed; HTTP 502`.
fn http_status(words: &str) -> Option<u16> {
    ["returned error: ", "rpc failed; http ", "http code = "].into_iter().find_map(|before| {
        let after = &words[words.find(before)? + before.len()..];
        let digits = after.find(|c: char| !c.is_ascii_digit()).unwrap_or(after.len());
        after[..digits].parse().ok().filter(|status| (100..600).contains(status))
    })
}

/// Lines that say why, newest kept: git's progress, which rewrites its line by carriage returns,
/// and its advice say nothing.
fn last_words(stderr: &str) -> String {
    let says_why = |line: &&str| {
        let line = line.trim();
        !line.is_empty() && !line.starts_with("hint:") && !line.ends_with('%') && !line.contains("% (")
    };
    let mut lines: Vec<&str> = stderr.split(['\n', '\r']).filter(says_why).collect();
    let keep = lines.len().saturating_sub(6);
    lines.drain(..keep);
    lines.join(" | ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_repository_is_named_as_a_likely_cause() {
        let failure =
            classify("fetch", Some(128), "fatal: couldn't find remote ref refs/heads/main\n", false);
        assert_eq!(
            failure.message,
            "git ended with 128: fatal: couldn't find remote ref refs/heads/main; there is no such branch, \
             or the repository is empty"
        );
    }

    const VERIFY: Verdict = Verdict::Verify;
    const REFRESH: Verdict = Verdict::Refresh;

    /// What git 2.x prints, the operation being a fetch (`false`) or a push.
    const TABLE: &[(&str, bool, Verdict, bool)] = &[
        // git: HTTP 429, 403 rate limit, 5xx, early EOF, connection reset
        (
            "fatal: unable to access 'https://h/o/r/': The requested URL returned error: 429",
            false,
            RETRY,
            false,
        ),
        (
            "remote: You have exceeded a secondary rate limit.\nfatal: unable to access 'https://h/o/r/': \
             The requested URL returned error: 403",
            true,
            RETRY,
            false,
        ),
        (
            "fatal: unable to access 'https://h/o/r/': The requested URL returned error: 503",
            false,
            RETRY,
            true,
        ),
        (
            "error: RPC failed; HTTP 502 curl 22 The requested URL returned error: 502\n\
             send-pack: unexpected disconnect while reading sideband packet\n\
             fatal: the remote end hung up unexpectedly\nEverything up-to-date",
            true,
            RETRY,
            true,
        ),
        (
            "fetch-pack: unexpected disconnect\nfatal: early EOF\nfatal: invalid index-pack output",
            false,
            RETRY,
            true,
        ),
        (
            "fatal: unable to access 'https://h/o/r/': Recv failure: Connection reset by peer",
            false,
            RETRY,
            true,
        ),
        ("fatal: unable to access 'https://h/o/r/': Could not resolve host: h", true, RETRY, true),
        (
            "remote: Internal Server Error\n! [remote rejected] b -> b (Internal Server Error)",
            true,
            RETRY,
            true,
        ),
        // A limit is no reason to burn a credential.
        (
            "remote: API rate limit exceeded.\nfatal: Authentication failed for 'https://h/o/r/'",
            false,
            RETRY,
            false,
        ),
        // git: authentication failed
        (
            "remote: Invalid username or token.\nfatal: Authentication failed for 'https://h/o/r/'",
            false,
            REFRESH,
            false,
        ),
        ("fatal: could not read Username for 'https://h': terminal prompts disabled", true, REFRESH, false),
        (
            "fatal: unable to access 'https://h/o/r/': The requested URL returned error: 401",
            false,
            REFRESH,
            false,
        ),
        // git: push rejected, non-fast-forward
        (
            " ! [rejected]  b -> b (non-fast-forward)\nerror: failed to push some refs to 'https://h'",
            true,
            VERIFY,
            false,
        ),
        (" ! [rejected]  b -> b (fetch first)\nhint: Updates were rejected", true, VERIFY, false),
        (" ! [rejected]  b -> b (stale info)", true, VERIFY, false),
        (
            " ! [remote rejected] b -> b (cannot lock ref 'refs/heads/b': is at 1 but expected 2)",
            true,
            VERIFY,
            false,
        ),
        // git: "repository not found"
        (
            "remote: Repository not found.\nfatal: repository 'https://h/o/r/' not found",
            false,
            MISSING,
            false,
        ),
        ("fatal: repository 'https://h/o/r/' not found", false, MISSING, false),
        (
            "fatal: unable to access 'https://h/o/r/': The requested URL returned error: 404",
            false,
            MISSING,
            false,
        ),
        // What the table leaves open.
        ("fatal: Remote branch nope not found in upstream origin", false, MISSING, false),
        ("fatal: couldn't find remote ref refs/heads/nope", false, MISSING, false),
        (
            "remote: Write access to repository not granted.\nfatal: unable to access 'https://h/o/r/': \
             The requested URL returned error: 403",
            true,
            FORBIDDEN,
            false,
        ),
        (
            "fatal: unable to access 'https://h/o/r/': The requested URL returned error: 403",
            true,
            FORBIDDEN,
            false,
        ),
        (
            " ! [remote rejected] b -> b (refusing to allow a GitHub App to create or update workflow \
             `.github/workflows/x.yml` without `workflows` permission)",
            true,
            FORBIDDEN,
            false,
        ),
        (" ! [remote rejected] b -> b (pre-receive hook declined)", true, REJECTED, false),
        ("remote: error: GH013: Repository rule violations found for refs/heads/b.", true, REJECTED, false),
        // A full disk: this machine's, and the remote's.
        (
            "fatal: sha1 file '/w/index.lock' write error. Out of diskspace",
            false,
            Verdict::Retry { after: Some(FULL_DISK) },
            false,
        ),
        (
            "fatal: write error: No space left on device\nfetch-pack: unexpected disconnect while reading \
             sideband packet\nfatal: early EOF",
            false,
            Verdict::Retry { after: Some(FULL_DISK) },
            false,
        ),
        (
            "remote: fatal: write error: No space left on device\n ! [remote rejected] b -> b (unpacker error)",
            true,
            VERIFY,
            false,
        ),
        ("fatal: something nobody has seen", false, RETRY, false),
        ("fatal: something nobody has seen", true, VERIFY, false),
        ("error: cannot lock ref 'refs/remotes/origin/b'", false, RETRY, false),
    ];

    #[test]
    fn every_row_has_its_verdict() {
        for (stderr, is_push, verdict, unhealthy) in TABLE {
            let failure = classify("push", Some(128), stderr, *is_push);
            assert_eq!((failure.verdict, failure.unhealthy), (*verdict, *unhealthy), "{stderr}");
            assert_eq!(failure.provider, Provider::Git);
        }
    }

    proptest::proptest! {
        #[test]
        fn any_words_have_a_verdict_and_a_fit_message(
            stderr in "([ -~]|\\n|\\r|returned error: |é){0,200}",
            exit in proptest::option::of(0..256),
            is_push: bool,
        ) {
            let failure = classify("push", exit, &stderr, is_push);
            assert!(failure.message.chars().count() <= super::super::clean::MAX_MESSAGE);
            assert!(!failure.message.contains(char::is_control));
            assert!(is_push || failure.verdict != VERIFY, "only a push has an outcome to look for");
        }
    }

    #[test]
    fn git_that_was_stopped_leaves_a_push_in_doubt_and_a_fetch_not() {
        let push = classify("push", None, "remote: Repository not found.", true);
        assert_eq!((push.verdict, push.unhealthy), (VERIFY, true));
        assert_eq!(classify("fetch", None, "", false).verdict, RETRY);
    }

    #[test]
    fn the_message_is_short_and_says_why_without_secrets() {
        let stderr = "Receiving objects:  10% (1/10)\rReceiving objects:  20% (2/10)\n\
                      fatal: unable to access 'https://x-access-token:ghs_secretsecretsecret@h/o/r/': \
                      The requested URL returned error: 503\nhint: try again";
        let failure = classify("fetch", Some(128), stderr, false);
        assert_eq!(
            failure.to_string(),
            "git fetch: 503 git ended with 128: fatal: unable to access 'https://***@h/o/r/': The requested \
             URL returned error: 503"
        );
        let long = classify("fetch", Some(1), &"x".repeat(5_000), false);
        assert_eq!(long.message.chars().count(), super::super::clean::MAX_MESSAGE);
    }

    #[test]
    fn a_status_is_read_only_where_git_names_one() {
        for (words, status) in [
            ("the requested url returned error: 500", Some(500)),
            ("rpc failed; http 413 curl 22", Some(413)),
            ("rpc failed; result=22, http code = 504", Some(504)),
            ("rpc failed; curl 56 recv failure", None),
            ("returned error: 99999", None),
            ("returned error: ", None),
        ] {
            assert_eq!(http_status(words), status, "{words}");
        }
    }
}
