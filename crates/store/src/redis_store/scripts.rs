//! The scripts, each one transition; named to the server by the hash of their content, so that two
//! versions of the program can work on one queue.

use redis::Script;

/// All scripts.
pub(super) struct Scripts {
    pub submit: Script,
    pub admit: Script,
    pub candidates: Script,
    pub claim: Script,
    pub renew: Script,
    pub append: Script,
    pub park: Script,
    pub requeue: Script,
    pub release: Script,
    pub settle: Script,
    pub cancel: Script,
    pub purge: Script,
    pub peek: Script,
    pub tidy: Script,
}

impl Scripts {
    pub fn new() -> Self {
        // The flags (Redis 7) decide before anything is written: what takes memory is refused whole
        // if there is none left; what keeps or ends a run is not.
        let script = |flags: &str, body: &str| {
            Script::new(&format!("#!lua{flags}\n{}{body}", include_str!("lua/prelude.lua")))
        };
        let (reads, frees, takes) = (" flags=no-writes", " flags=allow-oom", "");
        Scripts {
            submit: script(takes, include_str!("lua/submit.lua")),
            admit: script(takes, include_str!("lua/admit.lua")),
            candidates: script(reads, include_str!("lua/candidates.lua")),
            claim: script(takes, include_str!("lua/claim.lua")),
            renew: script(frees, include_str!("lua/renew.lua")),
            append: script(takes, include_str!("lua/append.lua")),
            park: script(frees, include_str!("lua/park.lua")),
            requeue: script(frees, include_str!("lua/requeue.lua")),
            release: script(frees, include_str!("lua/release.lua")),
            settle: script(frees, include_str!("lua/settle.lua")),
            cancel: script(frees, include_str!("lua/cancel.lua")),
            purge: script(frees, include_str!("lua/purge.lua")),
            peek: script(reads, include_str!("lua/peek.lua")),
            tidy: script(frees, include_str!("lua/tidy.lua")),
        }
    }

    /// A script that does nothing, of the form that all have.
    pub fn sample(&self) -> &'static str {
        "#!lua flags=no-writes\nreturn 1"
    }
}
