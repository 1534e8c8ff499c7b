//! Tests against a GitHub in memory, with the clock paused.

mod calls;
mod fake;
mod lists;
mod redirects;
mod refusals;
mod tokens;
mod writes;
