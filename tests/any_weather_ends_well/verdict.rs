//! What must be true of a story's end, seen from outside: the world's records and the store.

use std::sync::Arc;
use std::time::Duration;

use steadfast_agent::machine::{Action, Agent};
use steadfast_core::effect::{EffectKey, marker};
use steadfast_core::end::EndStatus;
use steadfast_core::job::Job;
use steadfast_core::journal::Step;
use steadfast_sim::{Operation, Records, Rejection};
use steadfast_store::{Inspection, State, Store};

use super::play::Story;
use crate::support::in_process::field;

/// Judges a story; a panic is the verdict.
pub async fn judge(story: &Story) {
    let fleet = &story.fleet;
    let records = fleet.world.records();
    for (job, first) in story.jobs.iter().zip(&story.ended) {
        let now = fleet.store.inspect(&job.id).await.unwrap().unwrap();
        assert_eq!(now.state, State::Ended);
        assert_eq!(now.status, first.status, "{} changed after its end", job.id);
        ended_as_it_may(story, &now);
        effects_once(&records, job, &now);
        journal_leads_to_the_end(story, job, &now).await;
    }
    branches_once(story, &records);
    nothing_wrong_was_sent(&records);
    assert_eq!(fleet.store.count().await.unwrap(), [0, 0, 0, story.jobs.len() as u64]);
    let took = fleet.drain().await;
    assert!(took < Duration::from_secs(1), "with nothing to do a drain took {took:?}: a slot is not free");
    for runner in fleet.living() {
        assert_eq!(*runner.running.escalation.borrow(), None, "{}", runner.line.name);
    }
}

/// The servers refuse what is wrong in itself: nothing of that may have been sent.
fn nothing_wrong_was_sent(records: &Records) {
    let by_fault = |rejection: &&Rejection| rejection.why != "fault by script";
    let wrong = |rejection: &&Rejection| matches!(rejection.status, 400 | 401 | 404..=422);
    // A branch that is not seen yet, or a pull request that stands.
    let pull = |rejection: &&Rejection| rejection.operation != Operation::PullCreate;
    let wrong: Vec<_> = records.rejections.iter().filter(by_fault).filter(wrong).filter(pull).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
}

fn ended_as_it_may(story: &Story, found: &Inspection) {
    let id = found.job.id.as_str();
    let (status, reason) = (field(found, "status"), field(found, "endReason"));
    let called_off = story.cancelled.iter().any(|cancelled| cancelled == id);
    let job = &story.fleet.config.actors.job;
    let gave_up = reason == "attempts_exhausted" && job.max_attempts < 100;
    let fine = match status.as_str() {
        "completed" => true,
        "cancelled" => called_off,
        _ => gave_up,
    };
    assert!(fine, "{id} ended as {status} for {reason}: {found:#?}");
    let unheard = story.fleet.ledger.lock().unwrap().unheard.get(&found.job.id).copied().unwrap_or_default();
    let most = story.incidents + u32::try_from(unheard).unwrap();
    assert!(found.counts.crashes <= most, "{id}: more than {most} crashes: {found:#?}");
    assert!(found.counts.attempts <= job.max_attempts, "{id}: {found:#?}");
}

/// How often each marker stands, in comments and pull requests.
fn standing(records: &Records, job: &Job, key: &EffectKey) -> usize {
    let marker = marker(&job.id, key);
    let comments = records.comments.iter().map(|comment| &comment.body);
    let pulls = records.pulls.iter().map(|pull| &pull.body);
    comments.chain(pulls).filter(|body| body.contains(&marker)).count()
}

fn effects_once(records: &Records, job: &Job, found: &Inspection) {
    let keys = [EffectKey::Progress, EffectKey::PullRequest];
    let comments = (0..200).map(EffectKey::Comment);
    for key in keys.into_iter().chain(comments) {
        let stands = standing(records, job, &key);
        assert!(stands <= 1, "{} has its {key:?} {stands} times: {:#?}", job.id, records.comments);
    }
    if field(found, "status") != EndStatus::Completed.as_str() {
        return;
    }
    assert_eq!(standing(records, job, &EffectKey::Progress), 1, "{}", job.id);
    let result: serde_json::Value = serde_json::from_str(&field(found, "result")).unwrap();
    let pulls = usize::from(result["prUrl"].is_string());
    assert_eq!(standing(records, job, &EffectKey::PullRequest), pulls, "{}: {result}", job.id);
    let branch = result["branchName"].as_str().unwrap_or_default();
    let branches = records.branches.iter().filter(|one| one.name == branch).count();
    assert_eq!(branches, pulls, "{}: {result}", job.id);
    // The comment tells of the end, not of a step before it.
    let marker = marker(&job.id, &EffectKey::Progress);
    let progress = records.comments.iter().find(|comment| comment.body.contains(&marker)).unwrap();
    assert!(progress.body.starts_with("Done"), "{}: {}", job.id, progress.body);
}

/// The journal, replayed, ends as the status hash says.
async fn journal_leads_to_the_end(story: &Story, job: &Job, found: &Inspection) {
    let replay = story.fleet.store.replay(&job.id).await.unwrap();
    let mut agent = Agent::new(Arc::new(story.fleet.config.agent.clone()), Arc::new(job.clone()));
    for bytes in &replay.steps {
        agent.apply(&Step::decode(bytes).unwrap().event).unwrap();
    }
    assert_eq!(replay.steps.len(), found.counts.steps as usize, "{}", job.id);
    let status = field(found, "status");
    match agent.next() {
        Action::Done(end) if end.status != EndStatus::Completed => {
            // One that was called off while it was put back has its end from the store.
            assert!(status == end.status.as_str() || status == "cancelled", "{}: {end:?}", job.id);
        }
        Action::Done(end) => assert!(status == "completed" || status == "cancelled", "{}: {end:?}", job.id),
        next => assert_ne!(status, "completed", "{}: {next:?} is next, though it has ended", job.id),
    }
}

/// What the witness cannot see as it happens: branches are pushed by git.
fn branches_once(story: &Story, records: &Records) {
    let repository = |name: &str| records.branches.iter().filter(|one| one.name == name).count();
    assert!(records.branches.iter().all(|one| repository(&one.name) == 1), "{:#?}", records.branches);
    assert!(records.branches.len() <= story.jobs.len(), "{:#?}", records.branches);
}
