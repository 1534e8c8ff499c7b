//! The vocabulary and the arithmetic of Steadfast: job, step, verdict, backoff, retry, budget.
//!
//! Pure: no I/O, no runtime, no clock. Time comes in as an argument, or through [`time::Clock`].
//! This crate knows none of the others; every other crate speaks its words.

pub mod breaker;
pub mod budget;
pub mod chat;
pub mod classify;
pub mod effect;
pub mod end;
pub mod failure;
pub mod fleet;
pub mod headers;
pub mod job;
pub mod journal;
pub mod retry;
pub mod retry_budget;
pub mod time;
