//! What a store promises, held by all three; and what only Redis and SQLite have to hold.

mod conformance;
mod model;
mod redis_specifics;
mod sqlite_specifics;
mod waiting;
mod world;
