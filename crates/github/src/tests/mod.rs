//! Tests against a GitHub in memory, with the clock paused.
