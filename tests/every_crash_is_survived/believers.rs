//! The effects: each stands once, whatever became of the request's answer, however far GitHub's lists
//! are behind, and though two runners believe that they hold the job.

use std::time::Duration;

use super::line::{Blow, What};
use super::points::{BEFORE, UNHEARD, point};
use super::stage::{Place, Stage};
use super::{Play, Recorded, play_out, record_all, scenarios, tell_the_story};
use crate::support::in_process::paused;

/// How long a new comment or pull request is in no list.
const LAGS: [Duration; 3] = [Duration::ZERO, Duration::from_secs(3), Duration::from_secs(10)];
/// For lists that are behind by more than the default waits for.
const PATIENT: &str = "github.shown_after = \"12s\"";

/// What makes an effect: the request, or the push.
const WRITES: [&str; 4] = ["POST create_comment", "PATCH update_comment", "POST create_pull", "git push"];
/// What the journal says of it before and after.
const SAID: [&str; 8] = [
    "append effect_announced progress",
    "append effect_confirmed progress",
    "append effect_announced comment",
    "append effect_confirmed comment",
    "append effect_announced branch",
    "append effect_confirmed branch",
    "append effect_announced pull request",
    "append effect_confirmed pull request",
];

/// Each time that the scenario passes the point, struck so.
fn each_time<'a>(recorded: &'a Recorded, point: &str, what: What, lag: Duration) -> Vec<Play<'a>> {
    let times = *recorded.passed.get(point).unwrap_or_else(|| panic!("{point} is not passed"));
    let config = if lag > Duration::from_secs(5) { PATIENT } else { "" };
    let blow = |nth| Blow { point: point.to_owned(), nth, what };
    (1..=times).map(|nth| Play { recorded, blow: blow(nth), lag, config }).collect()
}

/// The scenario in which a job does all that it can do.
fn everything() -> Vec<Recorded> {
    tell_the_story();
    record_all(&[&scenarios::ALL[0]], &Place::Memory)
}

#[test]
fn an_effect_whose_answer_is_lost_stands_once() {
    let recorded = everything();
    let mut plays = Vec::new();
    for write in WRITES {
        for side in [BEFORE, UNHEARD] {
            for lag in LAGS {
                for what in [What::TimeOut, What::Reset, What::Panic, What::Kill] {
                    // Git has one way to say that it came to nothing, and is no actor's own.
                    let is_gits = matches!(what, What::Reset | What::Kill);
                    if is_gits || !write.starts_with("git ") {
                        plays.extend(each_time(&recorded[0], &point(write, side), what, lag));
                    }
                }
            }
        }
    }
    play_out(&mut plays, &Place::Memory);
}

#[test]
fn an_effect_of_two_who_believe_that_they_hold_the_job_stands_once() {
    let recorded = everything();
    let mut plays = Vec::new();
    let requests = WRITES.iter().filter(|write| !write.starts_with("git "));
    for passed in requests.chain(&SAID) {
        for side in [BEFORE, UNHEARD] {
            for what in [What::Freeze, What::Partition] {
                plays.extend(each_time(&recorded[0], &point(passed, side), what, LAGS[1]));
            }
        }
    }
    play_out(&mut plays, &Place::Memory);
}

/// Somebody else makes a branch of the same name, between the look at the remote and the push.
#[test]
fn a_branch_that_a_stranger_made_meanwhile_is_not_overwritten() {
    let recorded = everything();
    let branch = recorded[0].undisturbed.branch().to_owned();
    paused(async move {
        let mut stage = Stage::new(&Place::Memory, "", |_| {}).await;
        let remote = stage.world.git_root().join("acme/shell-tools.git");
        let make = format!(
            "unset GIT_DIR GIT_WORK_TREE\ngit --git-dir='{0}' update-ref 'refs/heads/{branch}' refs/heads/main\n",
            remote.display()
        );
        stage.meddle = Some(make);
        let world = std::sync::Arc::clone(&stage.world);
        let story = stage.play(&scenarios::ALL[0], None).await;
        assert_eq!(story.count, [0, 0, 0, 1]);
        let records = world.records();
        let strangers = records.branches.iter().find(|one| one.name == branch).unwrap();
        let main = std::fs::read_to_string(remote.join("refs/heads/main"));
        let packed = std::fs::read_to_string(remote.join("packed-refs")).unwrap_or_default();
        let main = main.unwrap_or(packed);
        assert!(
            main.contains(&strangers.sha),
            "the stranger's branch was overwritten: {:#?}",
            records.branches
        );
        assert_eq!(records.branches.len(), 2, "the job has another: {:#?}", records.branches);
    });
}
