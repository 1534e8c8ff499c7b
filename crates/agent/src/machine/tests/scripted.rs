//! What the machine does with one model's behaviour each.

use super::*;

/// Plays a list of answers, then `finish`.
struct Script {
    answers: Vec<Event>,
    output: fn(&ToolCall) -> (String, bool),
    pushes: Vec<Event>,
    calls: Vec<String>,
}

impl Script {
    fn new(mut answers: Vec<ModelAnswer>) -> Script {
        answers.reverse();
        let answers = answers.into_iter().map(|answer| Event::ModelAnswered { answer }).collect();
        Script { answers, output: |_| ("ok".into(), false), pushes: Vec::new(), calls: Vec::new() }
    }
}

impl World for Script {
    fn model(&mut self, _: &ModelRequest) -> Event {
        let finish = || answer(None, vec![finish("Fixed the crash.")], FinishReason::ToolCalls);
        self.answers.pop().unwrap_or_else(|| Event::ModelAnswered { answer: finish() })
    }

    fn tool(&mut self, call: &ToolCall) -> (String, bool) {
        self.calls.push(format!("{} {}", call.name, call.arguments));
        (self.output)(call)
    }

    fn push(&mut self) -> Event {
        let outcome = EffectOutcome::Branch { name: "steadfast/issue-42-3f2504e0".into(), sha: "abc".into() };
        self.pushes.pop().unwrap_or(Event::EffectConfirmed { key: EffectKey::Branch, outcome })
    }
}

fn finish(summary: &str) -> ToolCall {
    call("f", "finish", &serde_json::json!({ "summary": summary }).to_string())
}

fn read(path: &str) -> ToolCall {
    call("r", "read_file", &serde_json::json!({ "path": path }).to_string())
}

fn write(path: &str) -> ToolCall {
    call("w", "write_file", &serde_json::json!({ "path": path, "content": "x" }).to_string())
}

fn calls(calls: Vec<ToolCall>) -> ModelAnswer {
    answer(None, calls, FinishReason::ToolCalls)
}

fn said(text: &str) -> ModelAnswer {
    answer(Some(text), Vec::new(), FinishReason::Stop)
}

/// Runs a script under the usual settings.
fn play(answers: Vec<ModelAnswer>) -> (End, Run, Script) {
    let mut script = Script::new(answers);
    let (end, run) = Run::new(settings(), job()).finish(&mut script);
    (end, run, script)
}

/// The last message of the request numbered `turn`, from 0.
fn last_told(run: &Run, turn: usize) -> &str {
    match run.requests[turn].messages.last().unwrap() {
        Message::User { content } | Message::Tool { content, .. } => content,
        other @ (Message::System { .. } | Message::Assistant { .. }) => panic!("{other:?}"),
    }
}

#[test]
fn a_job_that_goes_well() {
    let (end, run, script) = play(vec![calls(vec![read("a.rs"), write("a.rs")])]);
    assert_eq!((end.status, end.reason), (EndStatus::Completed, EndReason::PullRequest));
    assert_eq!(end.pr_url.as_deref(), Some("https://pr/9"));
    assert_eq!(end.branch.as_deref(), Some("steadfast/issue-42-3f2504e0"));
    assert_eq!(end.summary, "Fixed the crash.");
    assert_eq!(script.calls.len(), 2);
    let kinds: Vec<&str> = run.journal.iter().map(Event::kind).collect();
    let expected = [
        "started",
        "model_answered",
        "tool_finished",
        "tool_started",
        "tool_finished",
        "model_answered",
        "effect_announced",
        "effect_confirmed",
        "effect_announced",
        "effect_confirmed",
        "ended",
    ];
    assert_eq!(kinds, expected);
    assert_eq!(run.agent.started(), Some(("0".repeat(40).as_str(), "trunk")));
    assert_eq!(run.agent.finished_calls(), [read("a.rs"), write("a.rs")]);
}

#[test]
fn every_call_that_may_change_something_is_announced() {
    let (_, run, _) = play(vec![calls(vec![write("a"), write("b"), read("a"), write("c")])]);
    let announced = run.journal.iter().filter(|event| matches!(event, Event::ToolStarted { .. })).count();
    assert_eq!(announced, 3);
}

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
fn plain_words_are_never_a_success() {
    let (end, run, _) = play(vec![said("all done"); 9]);
    assert_eq!((end.status, end.reason), (EndStatus::Failed, EndReason::FormatErrors));
    assert!(end.summary.contains("all done"), "{}", end.summary);
    assert_eq!(run.agent.spend().turns, 4, "told once, then three errors");
    assert!(last_told(&run, 1).contains("call finish") && !last_told(&run, 1).contains("ends as failed"));
    assert!(last_told(&run, 3).contains("ends as failed"));
    let (end, ..) = play(vec![said("hm"), calls(vec![read("a")]), said("hm"), said("hm"), said("hm")]);
    assert_eq!(end.reason, EndReason::PullRequest, "a call begins the count again");
}

#[test]
fn empty_answers_are_counted_in_a_row() {
    let empty = |finish| answer(Some(" \n"), Vec::new(), finish);
    let (end, run, _) = play(vec![
        empty(FinishReason::Stop),
        empty(FinishReason::Length),
        empty(FinishReason::ContentFilter),
    ]);
    assert_eq!(end.reason, EndReason::FormatErrors);
    assert_eq!(run.agent.spend().turns, 3);
    let (end, ..) = play(vec![
        empty(FinishReason::Stop),
        empty(FinishReason::Stop),
        said("well"),
        empty(FinishReason::Stop),
    ]);
    assert_eq!(end.reason, EndReason::PullRequest);
}

#[test]
fn an_answer_that_was_cut_off_goes_on() {
    let cut = answer(Some("I will now"), Vec::new(), FinishReason::Length);
    let (end, run, _) = play(vec![cut.clone(); 3]);
    assert_eq!(end.reason, EndReason::PullRequest, "no format error");
    let (end, endless, _) = play(vec![cut; 20]);
    assert_eq!((end.reason, endless.agent.spend().turns), (EndReason::FormatErrors, 7), "not for ever");
    assert!(last_told(&run, 1).contains("cut off"));
    let half = call("w", "write_file", r#"{"path":"a","content":"fn ma"#);
    let (_, run, script) = play(vec![answer(None, vec![read("a"), half], FinishReason::Length)]);
    assert_eq!(script.calls.len(), 1, "the half call is not run");
    assert!(last_told(&run, 1).contains("put less into one call"), "{}", last_told(&run, 1));
}

#[test]
fn a_call_that_cannot_be_run_is_answered() {
    let (_, run, script) = play(vec![calls(vec![
        call("1", "reed_file", r#"{"path":"a"}"#),
        call("2", "read_file", r#"{"pth":"a"}"#),
        call("3", "read_file", "nonsense"),
        read("a"),
    ])]);
    assert_eq!(script.calls.len(), 1);
    assert_eq!(run.agent.finished_calls(), [read("a")]);
    let told: Vec<&str> = run.requests[1]
        .messages
        .iter()
        .filter_map(|message| match message {
            Message::Tool { content, .. } => Some(content.as_str()),
            Message::System { .. } | Message::User { .. } | Message::Assistant { .. } => None,
        })
        .collect();
    assert!(
        told[0].contains("read_file") && told[1].contains("path") && told[2].contains("JSON"),
        "{told:?}"
    );
    assert_eq!(told[3], "ok");
}

#[test]
fn calls_beyond_the_most_and_after_finish_are_not_run() {
    let many = (0..20).map(|n| read(&format!("{n}"))).collect();
    let (_, run, script) = play(vec![calls(many)]);
    assert_eq!(script.calls.len(), 16);
    assert!(last_told(&run, 1).contains("at most 16"));
    let (end, run, script) = play(vec![calls(vec![write("a"), finish("all"), write("b")])]);
    assert_eq!((end.summary.as_str(), script.calls.len()), ("all", 1));
    assert_eq!(run.requests.len(), 1);
}

#[test]
fn going_in_circles_is_told_once_and_then_ends() {
    let (end, run, _) = play(vec![calls(vec![read("a")]); 9]);
    assert_eq!(end.reason, EndReason::Stuck);
    assert!(end.summary.contains("read_file"), "{}", end.summary);
    assert_eq!(run.agent.spend().turns, 4);
    assert!(last_told(&run, 3).contains("repeating it will not help"));
    assert!(!last_told(&run, 2).contains("repeating"));
}

#[test]
fn the_last_turns_are_told_and_the_last_calls_still_run() {
    let answers = (0..40).map(|n| calls(vec![read(&n.to_string())])).collect();
    let (end, run, script) = play(answers);
    assert_eq!((end.reason, end.status), (EndReason::TurnLimit, EndStatus::Failed));
    assert_eq!((run.requests.len(), script.calls.len()), (30, 30));
    let told = |turn| last_told(&run, turn).contains("steadfast:");
    assert_eq!([26, 27, 28, 29].map(told), [false, true, false, true]);
    let mut answers: Vec<_> = (0..29).map(|n| calls(vec![read(&n.to_string())])).collect();
    answers.push(calls(vec![finish("in time")]));
    assert_eq!(play(answers).0.reason, EndReason::PullRequest, "finish in the last turn counts");
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
    run.journal(Event::ModelAnswered { answer: calls(vec![comment]) });
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
fn checks_that_were_configured_too_late_have_no_before() {
    let mut run = Run::new(settings(), job());
    run.journal(started());
    for id in ["1", "2"] {
        let write = call(id, "write_file", r#"{"path":"a","content":"x"}"#);
        run.journal(Event::ModelAnswered { answer: calls(vec![write]) });
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
fn too_long_compacts_and_in_the_end_gives_up() {
    let long = |_: &ToolCall| ("line\n".repeat(2_000), false);
    let mut script =
        Script { output: long, ..Script::new((0..8).map(|n| calls(vec![read(&n.to_string())])).collect()) };
    script.answers.insert(0, Event::ContextTooLong);
    let (end, run) = Run::new(settings(), job()).finish(&mut script);
    assert_eq!(end.reason, EndReason::PullRequest);
    let size = |request: &ModelRequest| format!("{:?}", request.messages).len();
    assert!(size(&run.requests[9]) < size(&run.requests[8]) / 2);
    assert_eq!(run.requests[9].messages.len(), run.requests[8].messages.len(), "nothing is taken out");

    let mut script = Script::new(vec![]);
    script.answers = vec![Event::ContextTooLong; 9];
    let (end, run) = Run::new(settings(), job()).finish(&mut script);
    assert_eq!(end.reason, EndReason::ContextTooLong);
    let mut agent = run.replayed(run.journal.len() - 1);
    agent.apply(&Event::ModelAnswered { answer: said("it did fit") }).unwrap();
    assert!(matches!(agent.next(), Action::CallModel(_)), "an answer proves that it fits");
}

#[test]
fn the_servers_count_decides_when_to_compact() {
    let long = |_: &ToolCall| ("line\n".repeat(2_000), false);
    let counted = |tokens| {
        let mut answers: Vec<_> = (0..9).map(|n| calls(vec![read(&n.to_string())])).collect();
        answers[8].usage = Some(Usage { prompt_tokens: tokens, ..Usage::default() });
        let (_, run) =
            Run::new(settings(), job()).finish(&mut Script { output: long, ..Script::new(answers) });
        format!("{:?}", run.requests[9].messages).contains("left out to save room")
    };
    assert!(!counted(90_000) && counted(110_000));
}

#[test]
fn a_conversation_that_was_taken_is_spared_the_hardest() {
    let long = |_: &ToolCall| ("line\n".repeat(2_000), false);
    let answers = (0..12).map(|n| calls(vec![read(&n.to_string())])).collect();
    let mut script = Script { output: long, ..Script::new(answers) };
    script.answers.insert(6, Event::ContextTooLong);
    script.answers.insert(0, Event::ContextTooLong);
    let (_, run) = Run::new(settings(), job()).finish(&mut script);
    let last = run.requests.last().unwrap();
    let whole = last
        .messages
        .iter()
        .filter(|message| matches!(message, Message::Tool { content, .. } if content.contains("line\nline")));
    assert!(whole.count() >= 2, "the newest outputs are kept");
}

#[test]
fn between_compactions_the_conversation_only_grows() {
    let long = |_: &ToolCall| ("line\n".repeat(1_000), false);
    let settings = AgentSettings { context_window: 20_000, max_answer_tokens: 1_000, ..settings() };
    let answers = (0..29).map(|n| calls(vec![read(&n.to_string())])).collect();
    let mut script = Script { output: long, ..Script::new(answers) };
    let (_, run) = Run::new(settings, job()).finish(&mut script);
    let kept = run.requests.windows(2).filter(|pair| pair[1].messages.starts_with(&pair[0].messages)).count();
    assert!((20..29).contains(&kept), "{kept} of 29 requests begin with the one before");
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

#[test]
fn an_event_out_of_place_is_refused_with_its_reason() {
    let mut agent = Agent::new(Arc::new(settings()), Arc::new(job()));
    let error = agent.apply(&Event::NothingToPublish).unwrap_err().to_string();
    assert!(error.contains("nothing_to_publish cannot come before the start"), "{error}");
    agent.apply(&started()).unwrap();
    agent.apply(&Event::ModelAnswered { answer: calls(vec![read("a")]) }).unwrap();
    let other = Event::ToolFinished { call_id: "other".into(), output: String::new(), is_error: false };
    let error = agent.apply(&other).unwrap_err().to_string();
    assert!(error.contains(r#"for call "other", where "r" is due"#), "{error}");
    let outcome = EffectOutcome::Branch { name: "b".into(), sha: "s".into() };
    let error = agent.apply(&Event::EffectConfirmed { key: EffectKey::Branch, outcome }).unwrap_err();
    assert!(error.to_string().contains("branch was confirmed without being announced"), "{error}");
}
