//! What the outside world sees of a job: comments, branch, pull request; and the checks before it.

use super::script::*;
use super::*;

#[test]
fn the_effects_are_the_same_whenever_asked_for() {
    let mut run = Run::new(settings(), job());
    let mut script = Script::new(vec![]);
    run.step(&mut script);
    run.step(&mut script);
    let push = run.agent.next();
    let Action::Push { branch, message } = &push else { panic!("{push:?}") };
    assert_eq!(branch, "steadfast/issue-42-3f2504e0");
    assert!(message.ends_with("\n\nSteadfast-Job: 3f2504e0-4f89-41d3-9a0c-0305e82c3301"), "{message}");
    run.journal(Event::EffectAnnounced { key: EffectKey::Branch });
    assert_eq!(run.agent.next(), push, "announced and cut off: the same again");
    assert_eq!(run.agent.effect(&EffectKey::Branch), Some(&Effect::Announced));
    let outcome = EffectOutcome::Branch { name: "other-name".into(), sha: "s".into() };
    run.journal(Event::EffectConfirmed { key: EffectKey::Branch, outcome });
    let Action::OpenPull { branch, base, title, body } = run.agent.next() else { panic!() };
    assert_eq!((branch.as_str(), base.as_str()), ("other-name", "trunk"), "the branch as it was pushed");
    assert_eq!(title, "Fixed the crash.");
    assert!(body.contains("Closes #42") && body.contains("effect=pull-request"), "{body}");
}

#[test]
fn a_comment_is_an_effect_and_bounded() {
    let comment = |n: usize| call("c", "comment_on_issue", &format!(r#"{{"message":"note {n}"}}"#));
    let (_, run, _) = play((0..7).map(|n| calls(vec![comment(n)])).collect());
    let keys: Vec<&EffectKey> = run
        .journal
        .iter()
        .filter_map(|event| match event {
            Event::EffectAnnounced { key: key @ EffectKey::Comment(_) } => Some(key),
            _ => None,
        })
        .collect();
    assert_eq!(keys, (0..5).map(EffectKey::Comment).collect::<Vec<_>>().iter().collect::<Vec<_>>());
    assert!(last_told(&run, 7).contains("at most 5 comments"));

    let mut without_issue = job();
    without_issue.task_params.issue_number = None;
    let mut script = Script::new(vec![calls(vec![comment(0)])]);
    let (_, run) = Run::new(settings(), without_issue).finish(&mut script);
    assert!(last_told(&run, 1).contains("no issue"));
    assert!(run.requests[0].tools.iter().all(|tool| tool.name != "comment_on_issue"));
}

#[test]
fn a_comment_that_stands_lacks_its_result_only() {
    let mut run = Run::new(settings(), job());
    let comment = call("c", "comment_on_issue", r#"{"message":"note"}"#);
    let mut script = Script::new(vec![calls(vec![comment])]);
    run.step(&mut script);
    run.step(&mut script);
    let Action::Comment { key, call_id, body } = run.agent.next() else { panic!() };
    assert!(body.contains("note") && body.contains("effect=comment-0"), "{body}");
    run.journal(Event::EffectAnnounced { key: key.clone() });
    let outcome = EffectOutcome::Comment { id: 1, url: "https://c/1".into() };
    run.journal(Event::EffectConfirmed { key: key.clone(), outcome: outcome.clone() });
    assert!(matches!(run.agent.next(), Action::Comment { .. }));
    assert_eq!(run.agent.effect(&key), Some(&Effect::Confirmed(outcome.clone())));
    let output = comment_output(&outcome);
    assert_eq!(output, "commented: https://c/1");
    run.journal(Event::ToolFinished { call_id, output, is_error: false });
    assert!(matches!(run.agent.next(), Action::CallModel(_)));
}

#[test]
fn a_comment_that_was_announced_does_not_stand_in_its_own_way() {
    let mut run = Run::new(AgentSettings { max_comments: 1, ..settings() }, job());
    run.journal(started());
    let comment = call("c", "comment_on_issue", r#"{"message":"note"}"#);
    run.journal(Event::ModelAnswered { answer: calls(vec![comment]), endpoint: None });
    let before = run.agent.next();
    run.journal(Event::EffectAnnounced { key: EffectKey::Comment(0) });
    assert_eq!(run.agent.next(), before);
}

#[test]
fn nothing_to_publish_is_a_good_end() {
    let mut script = Script { pushes: vec![Event::NothingToPublish], ..Script::new(vec![]) };
    let (end, _) = Run::new(settings(), job()).finish(&mut script);
    assert_eq!((end.status, end.reason), (EndStatus::Completed, EndReason::NoChanges));
    assert_eq!((end.summary.as_str(), end.branch), ("Fixed the crash.", None));
}

#[test]
fn a_refused_change_goes_back_to_the_model_a_few_times() {
    let refused = Event::ChangeRefused { why: "src/key.pem holds a private key".into() };
    let mut script = Script { pushes: vec![refused.clone()], ..Script::new(vec![calls(vec![write("a")])]) };
    let (end, run) = Run::new(settings(), job()).finish(&mut script);
    assert_eq!(end.reason, EndReason::PullRequest);
    assert!(last_told(&run, 2).contains("src/key.pem holds a private key"));
    let mut script = Script { pushes: vec![refused; 9], ..Script::new(vec![]) };
    let (end, run) = Run::new(settings(), job()).finish(&mut script);
    assert_eq!((end.reason, run.agent.spend().turns), (EndReason::ChangeRefused, 4));
    assert!(end.summary.contains("src/key.pem"));
}

#[test]
fn calls_after_a_finish_that_was_refused_are_answered_and_not_run() {
    let refused = Event::ChangeRefused { why: "too large".into() };
    let answers = vec![calls(vec![finish("one"), write("a"), finish("two")])];
    let mut script = Script { pushes: vec![refused], ..Script::new(answers) };
    let (end, run) = Run::new(settings(), job()).finish(&mut script);
    assert_eq!((script.calls.len(), end.summary.as_str()), (0, "Fixed the crash."));
    assert!(last_told(&run, 1).contains("finish came before it"), "{}", last_told(&run, 1));
}

#[test]
fn checks_run_before_the_first_change_and_before_the_pull_request() {
    let settings = AgentSettings { checks: vec!["make test".into()], ..settings() };
    // Passes before; fails after the first change, passes after the second.
    let output = |call: &ToolCall| {
        let code = u8::from(call.id.starts_with("check-after-"));
        (format!("exit code {code}\nlog"), false)
    };
    let answers = vec![calls(vec![read("a")]), calls(vec![write("a"), write("b")])];
    let mut script = Script { output, ..Script::new(answers) };
    let (end, run) = Run::new(settings, job()).finish(&mut script);
    let tools: Vec<&str> = script.calls.iter().map(|call| call.split(' ').next().unwrap()).collect();
    assert_eq!(tools, ["read_file", "run_command", "write_file", "write_file", "run_command", "run_command"]);
    assert!(last_told(&run, 3).contains("$ make test"), "{}", last_told(&run, 3));
    assert_eq!(
        (end.reason, run.agent.spend().turns),
        (EndReason::PullRequest, 4),
        "told once, then published"
    );
    let before = run.replayed(run.journal.len() - 3).next();
    let Action::OpenPull { body, .. } = before else { panic!("{before:?}") };
    assert!(body.contains("`make test`: **passed before, fails now**"), "{body}");
}

#[test]
fn a_refused_change_leaves_the_model_its_chance_with_the_checks() {
    let settings = AgentSettings { checks: vec!["make test".into()], ..settings() };
    let mut run = Run::new(settings, job());
    run.journal(started());
    let write_and_finish =
        || Event::ModelAnswered { answer: calls(vec![write("a"), finish("done")]), endpoint: None };
    let finished = |call_id: String, code: u8| {
        let output = format!("exit code {code}\nlog");
        Event::ToolFinished { call_id, output, is_error: false }
    };
    // Passes until the change was refused; fails once it was made anew.
    for code in [0, 1] {
        run.journal(write_and_finish());
        while let Action::RunTool { call, .. } = run.agent.next() {
            run.journal(finished(call.id, code));
        }
        if code == 0 {
            assert!(matches!(run.agent.next(), Action::Push { .. }));
            run.journal(Event::ChangeRefused { why: "too large".into() });
        }
    }
    let next = run.agent.next();
    assert!(matches!(&next, Action::Refuse { output, .. } if output.contains("$ make test")), "{next:?}");
}

#[test]
fn checks_that_were_configured_too_late_have_no_before() {
    let mut run = Run::new(settings(), job());
    run.journal(started());
    for id in ["1", "2"] {
        let write = call(id, "write_file", r#"{"path":"a","content":"x"}"#);
        run.journal(Event::ModelAnswered { answer: calls(vec![write]), endpoint: None });
        let finished = Event::ToolFinished { call_id: id.into(), output: "ok".into(), is_error: false };
        if id == "1" {
            run.journal(finished);
        }
    }
    run.settings = Arc::new(AgentSettings { checks: vec!["make test".into()], ..settings() });
    let next = run.replayed(run.journal.len()).next();
    assert!(matches!(&next, Action::RunTool { call, .. } if call.id == "2"), "{next:?}");
}

#[test]
fn a_job_that_changes_nothing_runs_no_checks() {
    let settings = AgentSettings { checks: vec!["make test".into()], ..settings() };
    let mut script = Script::new(vec![calls(vec![read("a")])]);
    Run::new(settings, job()).finish(&mut script);
    assert_eq!(script.calls.len(), 1);
}

#[test]
fn the_progress_comment_may_come_at_any_time() {
    let mut run = Run::new(settings(), job());
    assert_eq!(run.agent.progress_comment(), None);
    run.journal(Event::EffectAnnounced { key: EffectKey::Progress });
    let outcome = EffectOutcome::Comment { id: 77, url: "https://c/77".into() };
    run.journal(Event::EffectConfirmed { key: EffectKey::Progress, outcome: outcome.clone() });
    assert_eq!(run.agent.progress_comment(), Some(77));
    assert_eq!(run.agent.next(), Action::Prepare);
    let end = run.agent.failed(EndReason::Deadline, "too late");
    run.journal(Event::Ended { end: end.clone() });
    run.journal(Event::EffectConfirmed { key: EffectKey::Progress, outcome });
    assert_eq!(run.agent.next(), Action::Done(end));
}
