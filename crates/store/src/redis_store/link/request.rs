//! What is sent over a connection: commands, pipelines, transactions and scripts.

use redis::aio::MultiplexedConnection;
use redis::{Cmd, ErrorKind, Pipeline, RedisError, RedisResult, Script, Value, cmd, pipe};

use crate::redis_store::failure::is_no_script;

/// Most times that one call loads its script: somebody may flush them each time.
const LOADS: usize = 3;

/// What is sent.
#[derive(Clone, Copy)]
pub(super) enum Request<'a> {
    Command(&'a Cmd),
    Pipeline(&'a Pipeline),
    Script(&'a Script, &'a Cmd),
}

impl Request<'_> {
    /// Sends it, and reads the answer.
    pub async fn send(self, over: &mut MultiplexedConnection) -> RedisResult<Value> {
        match self {
            Request::Command(command) => command.query_async(over).await,
            Request::Pipeline(pipeline) if pipeline.is_transaction() => transaction(pipeline, over).await,
            Request::Pipeline(pipeline) => {
                let answers = pipeline.query_async(over).await?;
                refused_whole(&answers).map_or(Ok(answers), Err)
            }
            Request::Script(script, command) => {
                let mut answer = command.query_async(over).await;
                for _ in 0..LOADS {
                    if !answer.as_ref().is_err_and(is_no_script) {
                        break;
                    }
                    script.load_async(over).await?;
                    answer = command.query_async(over).await;
                }
                answer
            }
        }
    }
}

/// Commands that are done together. Not the client's own way: its connection breaks if the server
/// refuses the beginning itself.
async fn transaction(commands: &Pipeline, over: &mut MultiplexedConnection) -> RedisResult<Value> {
    let mut whole = pipe();
    whole.ignore_errors().cmd("MULTI");
    for command in commands.cmd_iter() {
        whole.add_command(command.clone());
    }
    whole.cmd("EXEC");
    let answers: Vec<Value> = whole.query_async(over).await?;
    let refused = answers.iter().find_map(|answer| match answer {
        Value::ServerError(error) => Some(error.clone().into()),
        _ => None,
    });
    match (refused, answers.into_iter().next_back()) {
        (Some(error), _) => Err(error),
        (None, Some(answers)) => Ok(answers),
        (None, None) => Err((ErrorKind::UnexpectedReturnType, "a transaction had no answer").into()),
    }
}

/// An answer among those of a pipeline whose errors are read one by one, that is not about the one
/// key: the queue has moved, or cannot be read now.
fn refused_whole(answers: &Value) -> Option<RedisError> {
    let Value::Array(answers) = answers else { return None };
    answers.iter().find_map(|answer| match answer {
        Value::ServerError(error) if error.code() != "WRONGTYPE" => Some(error.clone().into()),
        _ => None,
    })
}

/// The keys and arguments of a script.
pub(in crate::redis_store) struct Call {
    keys: Vec<String>,
    args: Vec<Vec<u8>>,
}

impl Call {
    /// With the keys and arguments that all scripts have.
    pub fn new(global: Vec<String>, args: [String; 2]) -> Self {
        Call { keys: global, args: args.into_iter().map(String::into_bytes).collect() }
    }

    /// With these keys alone.
    pub fn bare(keys: impl IntoIterator<Item = String>) -> Self {
        Call { keys: keys.into_iter().collect(), args: Vec::new() }
    }

    /// As it is sent. One more key is named, that is never there: while a cluster moves the slot, the
    /// server refuses what names keys that it lacks, so the whole script, before it did anything. By
    /// the names that a script makes itself it would break off in the middle.
    pub(super) fn command(&self, script: &Script) -> Cmd {
        let never = self.keys.first().map(|key| format!("{key}:never"));
        let mut command = cmd("EVALSHA");
        command.arg(script.get_hash()).arg(self.keys.len() + usize::from(never.is_some()));
        for key in self.keys.iter().chain(&never) {
            command.arg(key);
        }
        for arg in &self.args {
            command.arg(arg.as_slice());
        }
        command
    }

    /// Adds an argument.
    pub fn arg(mut self, arg: impl ToString) -> Self {
        self.args.push(arg.to_string().into_bytes());
        self
    }

    /// Adds an argument that need not be text.
    pub fn bytes(mut self, arg: &[u8]) -> Self {
        self.args.push(arg.to_vec());
        self
    }
}
