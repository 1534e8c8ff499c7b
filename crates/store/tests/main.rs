//! What a store promises, held by all three; and what only Redis and SQLite have to hold.

// Everything here is a test or serves one: a panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod bad_input;
mod conformance;
mod ledger;
mod lives;
mod lost_replies;
mod model;
mod model_rules;
mod pauses;
mod redis_older;
mod redis_real;
mod redis_refusals;
mod redis_specifics;
mod sqlite_power;
mod sqlite_schema;
mod sqlite_specifics;
mod turns;
mod unique;
mod waiting;
mod world;
