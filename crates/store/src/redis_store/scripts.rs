//! The scripts, each one transition, made of pieces; named to the server by the hash of their content,
//! so that two versions of the program can work on one queue.

use redis::Script;

/// All scripts.
pub(super) struct Scripts {
    pub submit: Script,
    pub admit: Script,
    pub claim: Script,
    pub renew: Script,
    pub told: Script,
    pub append: Script,
    pub leave: Script,
    pub cancel: Script,
    pub retry: Script,
    pub pause: Script,
    pub purge: Script,
    pub peek: Script,
    pub tidy: Script,
}

/// What every script begins with, but for those that run most.
const BEGIN: &str =
    concat!(include_str!("lua/names.lua"), include_str!("lua/iso.lua"), include_str!("lua/prelude.lua"));
const HOT: &str = concat!(include_str!("lua/hot.lua"), include_str!("lua/iso.lua"));
const LANES: &str = include_str!("lua/lanes.lua");
const JOBS: &str = include_str!("lua/jobs.lua");
const ADMISSION: &str = include_str!("lua/admission.lua");
const RUNNING: &str = include_str!("lua/running.lua");
const LOOK: &str = include_str!("lua/look.lua");

/// Where a script has its seldom part.
const WHOLE: &str = "--WHOLE--";

/// Where runs end in a script.
const ENDS: &str = "--ENDS--";

impl Scripts {
    pub fn new() -> Self {
        // The flags (Redis 7) decide before anything is written: what takes memory is refused whole
        // if there is none left; what keeps or ends a run is not.
        let (frees, takes) = (" flags=allow-oom", "");
        let head = |flags: &str| format!("#!lua{flags}\n");
        let script = |flags, pieces: &[&str]| Script::new(&(head(flags) + BEGIN + &pieces.concat()));
        // What the commonest seldom do is in functions, each a script in itself.
        let hot = |flags, common: &str, ends: &str, whole: &[&str]| {
            let whole = [&[BEGIN], whole].concat().concat();
            Script::new(&(head(flags) + HOT + &common.replace(WHOLE, &whole).replace(ENDS, ends)))
        };
        let end = [BEGIN, LANES, JOBS, include_str!("lua/leave_whole.lua")].concat();
        let ends = include_str!("lua/leaves.lua").replace(WHOLE, &end);
        let claim = [LANES, JOBS, RUNNING, LOOK, include_str!("lua/claim_whole.lua")];
        Scripts {
            submit: hot(takes, include_str!("lua/submit.lua"), "", &[LANES, ADMISSION]),
            admit: script(takes, &[LANES, ADMISSION, include_str!("lua/admit.lua")]),
            claim: hot(takes, include_str!("lua/claim.lua"), &ends, &claim),
            renew: script(frees, &[include_str!("lua/renew.lua")]),
            told: script(frees, &[include_str!("lua/told.lua")]),
            append: script(takes, &[include_str!("lua/append.lua")]),
            leave: hot(frees, include_str!("lua/leave.lua"), &ends, &[]),
            cancel: script(frees, &[LANES, JOBS, include_str!("lua/cancel.lua")]),
            retry: script(takes, &[LANES, ADMISSION, include_str!("lua/retry.lua")]),
            pause: script(frees, &[LANES, include_str!("lua/pause.lua")]),
            purge: script(frees, &[include_str!("lua/purge.lua")]),
            peek: script(frees, &[LANES, RUNNING, LOOK, include_str!("lua/peek.lua")]),
            tidy: script(frees, &[LANES, RUNNING, include_str!("lua/tidy.lua")]),
        }
    }

    /// A script that does nothing, of the form that all have.
    pub fn sample(&self) -> &'static str {
        "#!lua flags=no-writes\nreturn 1"
    }
}
