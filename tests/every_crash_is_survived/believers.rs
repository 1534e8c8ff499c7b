//! The effects: each stands once, whatever became of the request's answer, however far GitHub's lists
//! are behind, and though two runners believe that they hold the job.

use std::time::Duration;

use super::line::{Blow, What};
use super::points::{BEFORE, UNHEARD, point};
use super::stage::Place;
use super::{Play, Recorded, play_out, record_all, scenarios, tell_the_story};

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
