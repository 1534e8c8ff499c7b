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
        let script = |body: &str| Script::new(&format!("{}{body}", include_str!("lua/prelude.lua")));
        Scripts {
            submit: script(include_str!("lua/submit.lua")),
            admit: script(include_str!("lua/admit.lua")),
            candidates: script(include_str!("lua/candidates.lua")),
            claim: script(include_str!("lua/claim.lua")),
            renew: script(include_str!("lua/renew.lua")),
            append: script(include_str!("lua/append.lua")),
            park: script(include_str!("lua/park.lua")),
            requeue: script(include_str!("lua/requeue.lua")),
            release: script(include_str!("lua/release.lua")),
            settle: script(include_str!("lua/settle.lua")),
            cancel: script(include_str!("lua/cancel.lua")),
            purge: script(include_str!("lua/purge.lua")),
            peek: script(include_str!("lua/peek.lua")),
            tidy: script(include_str!("lua/tidy.lua")),
        }
    }
}
