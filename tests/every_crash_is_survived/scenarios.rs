//! Jobs that between them pass every crash point: one that does all that a job can do, and one for
//! each other way that a job can go.

use serde_json::json;
use steadfast_sim::{Fault, FaultRule, Operation, ScriptFor, ScriptedAnswer, Target, World};
use steadfast_store::State;

/// One job's story.
pub struct Scenario {
    pub name: &'static str,
    /// Further lines of the configuration.
    pub config: &'static str,
    /// What the model says and what goes wrong.
    pub prepare: fn(&World),
    /// What is done to the job, and when, in order.
    pub acts: &'static [(When, Act)],
    /// The actor that passes this point first panics.
    pub panic: Option<&'static str>,
    pub ends: Ends,
    /// Whether it takes minutes, and so is played where time is real only if all is.
    pub is_long: bool,
}

/// When somebody does something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum When {
    /// Before the job is submitted.
    First,
    /// When its journal holds so many steps.
    Steps(u32),
    /// When it is there.
    In(State),
    /// When it is put away with so many steps in its journal. (A process whose budgets another kept that
    /// has died may put it away before.)
    Parked(u32),
}

/// What somebody does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// The job is called off.
    Cancel,
    /// The process that runs it drains.
    Drain,
    /// Its end is taken back: it goes on from where it stands.
    Retry,
    /// Nobody's jobs are claimed.
    Pause,
    /// They are again.
    Resume,
}

/// How the story ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ends {
    Completed,
    Failed,
    Cancelled,
    /// It is swept away some time after it completed.
    Swept,
}

const PLAIN: Scenario = Scenario {
    name: "plain",
    config: "",
    prepare: |_| {},
    acts: &[],
    panic: None,
    ends: Ends::Completed,
    is_long: false,
};

fn call(tool: &str, arguments: serde_json::Value) -> (String, String) {
    (tool.to_owned(), arguments.to_string())
}

fn says(world: &World, turns: Vec<Vec<(String, String)>>) {
    let answers = turns.into_iter().map(ScriptedAnswer::Calls).collect();
    world.script_model(ScriptFor::Issue(1), answers);
}

fn goes_wrong(world: &World, operation: Operation, skip: u64, times: u64, fault: Fault) {
    world.fault(FaultRule::next(Target::Operation(operation), times, fault).after(skip));
}

/// What no repeating helps.
fn refusal() -> Fault {
    let body = r#"{"error":{"message":"no","type":"invalid_request_error"}}"#.to_owned();
    Fault::Status { code: 400, headers: Vec::new(), body }
}

fn edit(new: &str) -> Vec<(String, String)> {
    vec![call("write_file", json!({"path": "NOTES.md", "content": new}))]
}

fn finish() -> Vec<(String, String)> {
    vec![call("finish", json!({"summary": "The notes say it."}))]
}

/// Everything a job can do: it reads, changes, runs what must not be repeated, asks, is refused, and
/// publishes.
fn does_all(world: &World) {
    let run = "printf 'ran\\n' >> ran.txt";
    says(
        world,
        vec![
            vec![
                call("list_directory", json!({"path": "."})),
                call("read_file", json!({"path": "README.md"})),
            ],
            edit("one\n"),
            vec![call("run_command", json!({"command": run}))],
            vec![call("comment_on_issue", json!({"message": "Which dash is meant?"}))],
            vec![call("no_such_tool", json!({}))],
            edit("one\ntwo\n"),
            finish(),
        ],
    );
}

fn just_finishes(world: &World) {
    says(world, vec![vec![call("list_directory", json!({"path": "."}))], finish()]);
}

fn edits_and_finishes(world: &World) {
    says(world, vec![edit("one\n"), edit("one\ntwo\n"), finish()]);
}

/// The model's answer takes so long that the lease is renewed meanwhile, on every store.
pub const WAITS: &str = "waits for an answer";
/// No work is claimed while the model's door is shut: the job is claimed only to be called off.
pub const CALLED_OFF_AWAY: &str = "is called off while it is put away";

pub const ALL: &[Scenario] = &[
    Scenario { name: "does all", prepare: does_all, ..PLAIN },
    Scenario {
        name: "waits for a limit",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 1, 1, Fault::rate_limited_retry_after(600));
        },
        is_long: true,
        ..PLAIN
    },
    Scenario {
        name: "waits for a limit a while",
        config: "llm.retry.max = \"1s\"",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 1, 1, Fault::rate_limited_retry_after(2));
        },
        ..PLAIN
    },
    Scenario {
        name: "meets an outage",
        config: "llm.retry.max_attempts = 2",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 1, 2, Fault::html_502());
        },
        ..PLAIN
    },
    Scenario {
        name: "an actor dies",
        prepare: edits_and_finishes,
        panic: Some("append tool_finished with the patch / before"),
        ..PLAIN
    },
    Scenario {
        name: "is called off",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 2, 1000, Fault::Hang);
        },
        acts: &[(When::Steps(9), Act::Cancel)],
        ends: Ends::Cancelled,
        ..PLAIN
    },
    Scenario {
        name: CALLED_OFF_AWAY,
        prepare: |world| {
            edits_and_finishes(world);
            // From the first call on: how far a runner came before it was killed makes no difference.
            goes_wrong(world, Operation::Chat, 0, 1000, Fault::rate_limited_retry_after(600));
        },
        acts: &[(When::Parked(3), Act::Cancel)],
        ends: Ends::Cancelled,
        ..PLAIN
    },
    Scenario {
        name: WAITS,
        config: "llm.timeout = \"15s\"",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 1, 1, Fault::Hang);
        },
        ..PLAIN
    },
    Scenario {
        name: "is paused",
        prepare: edits_and_finishes,
        acts: &[(When::First, Act::Pause), (When::In(State::Queued), Act::Resume)],
        ..PLAIN
    },
    Scenario {
        name: "is retried",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 1, 1, refusal());
        },
        acts: &[(When::In(State::Ended), Act::Retry)],
        ..PLAIN
    },
    Scenario {
        name: "is drained",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 1, 1, Fault::SlowStream { pause_ms: 50, piece: 40 });
        },
        acts: &[(When::Steps(6), Act::Drain)],
        ..PLAIN
    },
    Scenario {
        name: "is refused",
        prepare: |world| {
            edits_and_finishes(world);
            goes_wrong(world, Operation::Chat, 1, 1000, refusal());
        },
        ends: Ends::Failed,
        ..PLAIN
    },
    Scenario { name: "has nothing to publish", prepare: just_finishes, ..PLAIN },
    Scenario {
        name: "changes what it must not",
        prepare: |world| {
            let path = ".github/workflows/ci.yml";
            let forbidden = call("write_file", json!({"path": path, "content": "on: push\n"}));
            let taken_back = call("delete_file", json!({"path": path}));
            says(world, vec![edit("one\n"), vec![forbidden], finish(), vec![taken_back], finish()]);
        },
        ..PLAIN
    },
    Scenario {
        name: "says too much",
        prepare: |world| {
            let read = |function: &str| call("read_file", json!({"path": format!("lib/{function}.sh")}));
            let all = ["trim", "roman", "repeat", "percent", "slugify", "pad_left", "join_by", "leap_year"];
            says(world, vec![all.map(read).to_vec(), edit("one\n"), finish()]);
            goes_wrong(world, Operation::Chat, 1, 1, Fault::context_length_exceeded());
        },
        ..PLAIN
    },
    Scenario {
        name: "is swept away",
        config: "queue.keep_ended = \"1m\"",
        prepare: just_finishes,
        ends: Ends::Swept,
        is_long: true,
        ..PLAIN
    },
];
