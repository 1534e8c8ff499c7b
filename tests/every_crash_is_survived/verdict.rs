//! What must be true at a story's end, seen from outside: the servers' own records and the store,
//! held against the same story undisturbed.

use std::collections::BTreeSet;
use std::sync::Arc;

use steadfast_agent::machine::{Action, Agent, interrupted_output};
use steadfast_core::journal::{Event, Step};
use steadfast_sim::{Operation, Records};
use steadfast_store::State;

use super::line::{Blow, What};
use super::scenarios::Ends;
use super::stage::Story;
use crate::support::in_process::field;

/// What the world shows of a job, without what may differ from play to play.
#[derive(Debug, PartialEq, Eq)]
struct Shown {
    comments: Vec<String>,
    pulls: Vec<(String, String, bool)>,
    branches: Vec<String>,
}

/// The story undisturbed.
pub struct Undisturbed {
    shown: Shown,
    trees: Vec<String>,
    billed: usize,
}

impl Undisturbed {
    pub fn of(story: &Story) -> Undisturbed {
        let records = story.world.records();
        Undisturbed { shown: shown(&records), trees: trees(story, &records), billed: records.chats_with(200) }
    }
}

impl Undisturbed {
    /// The branch that the job made.
    pub fn branch(&self) -> &str {
        &self.shown.branches[0]
    }
}

/// What each branch holds, by git's own name for it.
fn trees(story: &Story, records: &Records) -> Vec<String> {
    let tree = |branch: &steadfast_sim::BranchRecord| {
        let repository = story.world.git_root().join(format!("{}.git", branch.repository));
        let tree = format!("{}^{{tree}}", branch.sha);
        let git =
            std::process::Command::new("git").arg("-C").arg(repository).args(["rev-parse", &tree]).output();
        String::from_utf8(git.unwrap().stdout).unwrap()
    };
    records.branches.iter().map(tree).collect()
}

/// Each comment by its first line and its marker; the rest may tell of runs and waits.
fn shown(records: &Records) -> Shown {
    let lines = |body: &str| {
        let (first, last) =
            (body.lines().next().unwrap_or_default(), body.lines().last().unwrap_or_default());
        format!("{first} {last}")
    };
    let mut comments: Vec<_> = records.comments.iter().map(|comment| lines(&comment.body)).collect();
    comments.sort();
    let pull = |pull: &steadfast_sim::PullRecord| (pull.head.clone(), pull.base.clone(), pull.open);
    Shown {
        comments,
        pulls: records.pulls.iter().map(pull).collect(),
        branches: records.branches.iter().map(|branch| branch.name.clone()).collect(),
    }
}

/// Judges a story; a panic is the verdict.
pub fn judge(story: &Story, ends: Ends, as_it_was: Option<(&Undisturbed, &Blow)>) {
    let records = story.world.records();
    let wanted = match ends {
        Ends::Completed => "completed",
        Ends::Failed => "failed",
        Ends::Cancelled => "cancelled",
        Ends::Swept => "",
    };
    match &story.ended {
        None => assert_eq!(story.count, [0, 0, 0, 0], "it is gone"),
        Some(ended) => {
            assert_eq!((ended.state, field(ended, "status").as_str()), (State::Ended, wanted), "{ended:#?}");
            assert_eq!(story.count, [0, 0, 0, 1], "the job is in exactly one state");
        }
    }
    each_effect_once(&records);
    nothing_wrong_was_sent(&records);
    journal_leads_to_the_end(story);
    let Some((undisturbed, blow)) = as_it_was else {
        assert_eq!(records.paid_twice(), 0, "nothing disturbed it");
        return;
    };
    assert!(story.struck, "nobody was struck there: {:#?}", story.passed);
    if is_untold(story) {
        return;
    }
    assert_eq!(shown(&records), undisturbed.shown, "{:#?}", records.comments);
    // What was cut off in the middle is not done again: the model is told, and here does without.
    let cut_off = ["append tool_started / done, unheard", "append tool_finished with the patch / before"];
    if !cut_off.contains(&blow.point.as_str()) {
        assert_eq!(trees(story, &records), undisturbed.trees, "the branch holds what it would have held");
    } else if blow.what == What::Kill {
        let told = |bytes: &Vec<u8>| match Step::decode(bytes).unwrap().event {
            Event::ToolFinished { output, .. } => output == interrupted_output(),
            _ => false,
        };
        assert!(story.replay.steps.iter().any(told), "a tool was run again that must not be");
    }
    billed(&records, undisturbed, blow);
    if blow.what == What::Kill {
        crashes(story, blow);
    }
}

/// A model call that was in flight is asked again; no other is.
fn billed(records: &Records, undisturbed: &Undisturbed, blow: &Blow) {
    let in_flight = match blow.point.as_str() {
        "POST chat / done, unheard" | "POST chat / heard" | "append model_answered / before" => 1,
        _ => 0,
    };
    let billed = records.chats_with(200);
    assert_eq!(
        billed,
        undisturbed.billed + in_flight,
        "model calls that were paid for: {:#?}",
        records.chats
    );
    assert!(records.paid_twice() <= in_flight, "{:#?}", records.chats);
}

/// A runner that died with the lease in its hands is one crash; one that died without is none.
fn crashes(story: &Story, blow: &Blow) {
    let Some(ended) = &story.ended else { return };
    let held = blow.point.starts_with("append ")
        || ["park / before", "requeue failed / before", "release / before"].contains(&blow.point.as_str())
        || blow.point.starts_with("git ");
    let not_held = ["submit", "cancel", "pause", "resume", "retry", "claim / before"]
        .iter()
        .any(|what| blow.point.starts_with(what));
    let given_back =
        ["park", "release", "settle", "requeue failed"].map(|what| format!("{what} / done, unheard"));
    let panics = u32::from(story.passed.keys().any(|point| point.starts_with("requeue crashed")));
    let crashes = ended.counts.crashes;
    assert!(crashes <= 1 + panics, "{ended:#?}");
    if held {
        assert!(crashes >= 1, "the crash is counted: {ended:#?}");
    }
    if not_held || given_back.contains(&blow.point) {
        assert_eq!(crashes, panics, "nobody crashed with it: {ended:#?}");
    }
}

fn each_effect_once(records: &Records) {
    let texts = records.comments.iter().map(|comment| &comment.body);
    let texts = texts.chain(records.pulls.iter().map(|pull| &pull.body));
    let mut markers = BTreeSet::new();
    for text in texts {
        let marker = text.lines().rfind(|line| line.starts_with("<!-- steadfast"));
        let marker = marker.unwrap_or_else(|| panic!("a text without a marker: {text}"));
        assert!(markers.insert(marker), "it stands twice: {marker}");
    }
    let branches: BTreeSet<_> = records.branches.iter().map(|branch| &branch.name).collect();
    assert_eq!(branches.len(), records.branches.len());
}

/// The servers refuse what is wrong in itself: nothing of that may have been sent.
fn nothing_wrong_was_sent(records: &Records) {
    let wrong: Vec<_> = records
        .rejections
        .iter()
        .filter(|one| one.why != "fault by script" && matches!(one.status, 400 | 401 | 404..=422))
        // A pull request that stands.
        .filter(|one| one.operation != Operation::PullCreate)
        .collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// Called off before anything of it was to be seen: nobody is told, and its end is the store's own.
fn is_untold(story: &Story) -> bool {
    let cancelled = story.ended.as_ref().is_some_and(|ended| field(ended, "status") == "cancelled");
    cancelled && story.replay.steps.is_empty()
}

/// The journal, replayed, ends as the store says.
fn journal_leads_to_the_end(story: &Story) {
    let Some(ended) = &story.ended else { return };
    let mut agent = Agent::new(Arc::new(story.config.agent.clone()), Arc::new(story.job.clone()));
    for bytes in &story.replay.steps {
        agent.apply(&Step::decode(bytes).unwrap().event).unwrap();
    }
    assert_eq!(story.replay.steps.len(), ended.counts.steps as usize);
    match agent.next() {
        Action::Done(end) => assert_eq!(field(ended, "status"), end.status.as_str()),
        _ if is_untold(story) => {}
        next => panic!("{next:?} is next, though it has ended"),
    }
}
