//! End to end: real processes, real Redis, real git, real HTTP, on loopback only. Each module is
//! named for the promise it holds.

mod support;

mod a_killed_runner_loses_nothing;
mod hours_pass_in_a_second;
mod the_seeds_scenarios_end_well;
