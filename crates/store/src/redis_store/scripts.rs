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

const NAMES: &str = include_str!("lua/names.lua");
const PRELUDE: &str = include_str!("lua/prelude.lua");
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
        let made = |flags: &str, rest: &str| Script::new(&format!("#!lua{flags}\n{NAMES}{rest}"));
        let script = |flags: &str, pieces: &[&str]| made(flags, &[&[PRELUDE], pieces].concat().concat());
        let (frees, takes) = (" flags=allow-oom", "");
        // What these two seldom do is in a function of its own, made when it is needed: every function
        // of a script is made anew in each call, which takes longer than most calls do.
        let whole = [PRELUDE, LANES, JOBS, include_str!("lua/leave_whole.lua")].concat();
        let ends = include_str!("lua/leaves.lua").replace(WHOLE, &whole);
        let leave = include_str!("lua/leave.lua").replace(ENDS, &ends);
        let whole = [PRELUDE, LANES, JOBS, RUNNING, LOOK, include_str!("lua/claim_whole.lua")].concat();
        let claim = include_str!("lua/claim.lua").replace(WHOLE, &whole).replace(ENDS, &ends);
        Scripts {
            submit: script(takes, &[LANES, ADMISSION, include_str!("lua/submit.lua")]),
            admit: script(takes, &[LANES, ADMISSION, include_str!("lua/admit.lua")]),
            claim: made(takes, &claim),
            renew: script(frees, &[include_str!("lua/renew.lua")]),
            told: script(frees, &[include_str!("lua/told.lua")]),
            append: script(takes, &[include_str!("lua/append.lua")]),
            leave: made(frees, &leave),
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
