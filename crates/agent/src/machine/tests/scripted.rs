//! What the machine does with one model's behaviour each.

use super::script::*;
use super::*;

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
    agent.apply(&Event::ModelAnswered { answer: said("it did fit"), endpoint: None }).unwrap();
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
fn an_event_out_of_place_is_refused_with_its_reason() {
    let mut agent = Agent::new(Arc::new(settings()), Arc::new(job()));
    let error = agent.apply(&Event::NothingToPublish).unwrap_err().to_string();
    assert!(error.contains("nothing_to_publish cannot come before the start"), "{error}");
    agent.apply(&started()).unwrap();
    agent.apply(&Event::ModelAnswered { answer: calls(vec![read("a")]), endpoint: None }).unwrap();
    let other = Event::ToolFinished { call_id: "other".into(), output: String::new(), is_error: false };
    let error = agent.apply(&other).unwrap_err().to_string();
    assert!(error.contains(r#"for call "other", where "r" is due"#), "{error}");
    let outcome = EffectOutcome::Branch { name: "b".into(), sha: "s".into() };
    let error = agent.apply(&Event::EffectConfirmed { key: EffectKey::Branch, outcome }).unwrap_err();
    assert!(error.to_string().contains("branch was confirmed without being announced"), "{error}");
}
