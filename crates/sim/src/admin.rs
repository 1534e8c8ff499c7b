//! The simulation's own pages under `/_sim`: what happened, and what shall go wrong.

use std::sync::Arc;

use http::{Method, StatusCode};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::config::Weather;
use crate::faults::FaultRule;
use crate::fixture;
use crate::model::{ScriptFor, ScriptedAnswer};
use crate::reply::Reply;
use crate::world::World;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Script {
    whose: ScriptFor,
    answers: Vec<ScriptedAnswer>,
}

fn parse<T: DeserializeOwned>(body: &[u8]) -> Result<T, Reply> {
    serde_json::from_slice(body).map_err(|error| {
        let message = format!("not what is expected here: {error}");
        Reply::json(StatusCode::BAD_REQUEST, &json!({"error": message}))
    })
}

fn done() -> Reply {
    Reply::empty(StatusCode::NO_CONTENT)
}

/// Answers one of them. No fault, no limit and no latency applies.
pub(crate) async fn answer(world: &Arc<World>, method: &Method, segments: &[String], body: &[u8]) -> Reply {
    match handle(world, method, segments, body).await {
        Ok(reply) | Err(reply) => reply,
    }
}

async fn handle(
    world: &Arc<World>,
    method: &Method,
    segments: &[String],
    body: &[u8],
) -> Result<Reply, Reply> {
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    match (method.as_str(), segments.as_slice()) {
        ("GET", ["records"]) => {
            let world = Arc::clone(world);
            let records = tokio::task::spawn_blocking(move || world.records()).await;
            let value = records.ok().and_then(|records| serde_json::to_value(records).ok());
            let value = value.unwrap_or_else(|| json!({"error": "the records cannot be written"}));
            Ok(Reply::json(StatusCode::OK, &value))
        }
        ("GET", ["issues"]) => {
            let issues: Vec<Value> = fixture::issues()
                .iter()
                .map(|issue| json!({"number": issue.number, "title": issue.title, "body": issue.body}))
                .collect();
            Ok(Reply::json(StatusCode::OK, &Value::Array(issues)))
        }
        ("POST", ["faults"]) => {
            let rules: Vec<FaultRule> = match body.first() {
                Some(b'[') => parse(body)?,
                _ => vec![parse(body)?],
            };
            for rule in rules {
                world.fault(rule);
            }
            Ok(done())
        }
        ("DELETE", ["faults"]) => {
            world.clear_faults();
            Ok(done())
        }
        ("POST", ["weather"]) => {
            world.set_weather(parse::<Weather>(body)?);
            Ok(done())
        }
        ("POST", ["scripts"]) => {
            let script: Script = parse(body)?;
            world.script_model(script.whose, script.answers);
            Ok(done())
        }
        _ => Err(Reply::json(
            StatusCode::NOT_FOUND,
            &json!({"error": "unknown page of the simulation", "pages": [
                "GET /_sim/records", "GET /_sim/issues", "POST /_sim/faults", "DELETE /_sim/faults",
                "POST /_sim/weather", "POST /_sim/scripts",
            ]}),
        )),
    }
}
