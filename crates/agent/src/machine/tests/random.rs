//! Random models, tools and remotes: whatever they do, the job ends, each request is valid, and the
//! journal replayed gives the state that wrote it.

use proptest::prelude::*;

use super::*;

fn any_arguments() -> impl Strategy<Value = String> {
    prop_oneof![
        4 => prop_oneof![
            Just(r#"{"path":"a.rs"}"#),
            Just(r#"{"path":"b.rs","content":"x"}"#),
            Just(r#"{"path":"a.rs","old_string":"a","new_string":"b"}"#),
            Just(r#"{"command":"make"}"#),
            Just(r#"{"pattern":"x"}"#),
            Just(r#"{"message":"hello"}"#),
            Just(r#"{"summary":"done it"}"#),
        ]
        .prop_map(str::to_owned),
        1 => Just(r#"{"path": "a.rs", "content": "cut of"#.to_owned()),
        1 => any::<String>(),
        1 => "[ -~]{1500}".prop_map(|text| serde_json::json!({"path": "w", "content": text}).to_string()),
    ]
}

fn any_call() -> impl Strategy<Value = ToolCall> {
    let name = prop_oneof![
        8 => prop_oneof![
            Just("read_file"), Just("write_file"), Just("edit_file"), Just("run_command"),
            Just("search_code"), Just("comment_on_issue"),
        ]
        .prop_map(str::to_owned),
        1 => Just("finish".to_owned()),
        1 => any::<String>(),
    ];
    // Some servers give the same id again and again.
    let id = prop_oneof![Just("call_0".to_owned()), "[a-z]{1,8}"];
    (id, name, any_arguments()).prop_map(|(id, name, arguments)| ToolCall { id, name, arguments })
}

fn any_answer() -> impl Strategy<Value = ModelAnswer> {
    let content = prop_oneof![Just(None), Just(Some(String::new())), any::<String>().prop_map(Some)];
    let calls = prop_oneof![
        1 => Just(Vec::new()),
        5 => prop::collection::vec(any_call(), 1..5),
    ];
    let finish = prop_oneof![
        Just(FinishReason::Stop),
        Just(FinishReason::ToolCalls),
        Just(FinishReason::Length),
        Just(FinishReason::ContentFilter),
        Just(FinishReason::Other("odd".into())),
    ];
    let usage = prop::option::of((0u64..9_000, 0u64..500).prop_map(|(prompt_tokens, completion_tokens)| {
        Usage { prompt_tokens, completion_tokens, cached_tokens: 0 }
    }));
    (content, calls, finish, usage).prop_map(|(content, tool_calls, finish, usage)| ModelAnswer {
        usage,
        ..answer(content.as_deref(), tool_calls, finish)
    })
}

/// Plays lists of answers, again from their beginning when they are used up.
#[derive(Debug, Clone)]
struct Random {
    answers: Vec<ModelAnswer>,
    too_long: Vec<bool>,
    outputs: Vec<(usize, bool)>,
    pushes: Vec<u8>,
    at: [usize; 4],
}

impl Random {
    fn turn(&mut self, list: usize, length: usize) -> usize {
        self.at[list] += 1;
        (self.at[list] - 1) % length
    }
}

impl World for Random {
    fn model(&mut self, _: &ModelRequest) -> Event {
        let turn = self.turn(0, self.too_long.len());
        if self.too_long[turn] {
            return Event::ContextTooLong;
        }
        let turn = self.turn(1, self.answers.len());
        Event::ModelAnswered { answer: self.answers[turn].clone(), endpoint: None }
    }

    fn tool(&mut self, _: &ToolCall) -> (String, bool) {
        let turn = self.turn(2, self.outputs.len());
        let (size, is_error) = self.outputs[turn];
        ("output line\n".repeat(size), is_error)
    }

    fn push(&mut self) -> Event {
        let turn = self.turn(3, self.pushes.len());
        match self.pushes[turn] {
            0 => Event::NothingToPublish,
            1 | 2 => Event::ChangeRefused { why: "it holds a key".into() },
            _ => {
                let outcome = EffectOutcome::Branch { name: "b".into(), sha: "s".into() };
                Event::EffectConfirmed { key: EffectKey::Branch, outcome }
            }
        }
    }
}

prop_compose! {
    fn any_world()(
        answers in prop::collection::vec(any_answer(), 1..12),
        too_long in prop::collection::vec(prop::bool::weighted(0.15), 2..9),
        outputs in prop::collection::vec((0usize..300, any::<bool>()), 1..9),
        pushes in prop::collection::vec(0u8..6, 1..4),
    ) -> Random {
        Random { answers, too_long, outputs, pushes, at: [0; 4] }
    }
}

fn tight() -> AgentSettings {
    AgentSettings {
        max_turns: 12,
        context_window: 6_000,
        max_answer_tokens: 500,
        keep_outputs: 2,
        max_calls_per_turn: 3,
        checks: vec!["make check".into(), "make lint".into()],
        ..settings()
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn any_prefix_replayed_gives_the_state_that_wrote_it(mut world in any_world()) {
        let (_, run) = Run { keep_states: true, ..Run::new(tight(), job()) }.finish(&mut world);
        let mut replayed = run.replayed(0);
        for (event, live) in run.journal.iter().zip(&run.states) {
            reread(&mut replayed, event);
            prop_assert_eq!(&replayed, live);
            prop_assert_eq!(replayed.next(), live.next());
        }
        prop_assert!(run.states.len() > 2 && run.agent.spend().turns <= 12);
    }

    /// A process dies after any event. The next one reads the journal, answers for a call that was
    /// cut off, and goes on to an end; nothing that the model was paid for is asked for again.
    #[test]
    fn a_job_cut_off_anywhere_ends(mut world in any_world(), cut in any::<prop::sample::Index>()) {
        let (_, whole) = Run::new(tight(), job()).finish(&mut world.clone());
        let steps = cut.index(whole.journal.len() + 1);
        let agent = whole.replayed(steps);
        let mut run = Run { agent, journal: whole.journal[..steps].to_vec(), ..Run::new(tight(), job()) };
        if let Some(call) = run.agent.interrupted_call() {
            let call_id = call.id.clone();
            run.journal(Event::ToolFinished { call_id, output: interrupted_output(), is_error: true });
        }
        let turns = run.agent.spend().turns;
        let asked = whole.journal[..steps].iter().filter(|e| matches!(e, Event::ModelAnswered { .. })).count();
        prop_assert_eq!(turns as usize, asked);
        run.finish(&mut world);
    }

    /// Other limits than those that a journal was written under refuse none of its events.
    #[test]
    fn changed_settings_refuse_no_journal(mut world in any_world(), turns in 1u32..30, errors in 0u32..3) {
        let (end, mut run) = Run::new(tight(), job()).finish(&mut world);
        run.settings = Arc::new(AgentSettings {
            max_turns: turns, max_format_errors: errors, max_empty_turns: errors, max_comments: errors,
            max_calls_per_turn: 1, max_refused_changes: errors, checks: vec!["other".into()], max_cost: 0.01,
            ..settings()
        });
        prop_assert_eq!(run.replayed(run.journal.len()).next(), Action::Done(end));
    }

    /// Events in any order are taken or refused; refused ones change nothing.
    #[test]
    fn a_foreign_journal_is_refused_and_never_panics(
        mut world in any_world(),
        order in prop::collection::vec(any::<prop::sample::Index>(), 0..60),
    ) {
        let (_, run) = Run::new(tight(), job()).finish(&mut world);
        let mut agent = run.replayed(0);
        for at in order {
            let before = agent.clone();
            if agent.apply(&run.journal[at.index(run.journal.len())]).is_err() {
                prop_assert_eq!(&agent, &before);
            }
            agent.next();
        }
    }
}
