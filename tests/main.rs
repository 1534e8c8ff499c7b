//! End to end: real processes, real Redis, real git, real HTTP, on loopback only. Each module is
//! named for the promise it holds.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test that cannot go on says why")]

mod support;

mod a_dead_actor_loses_no_job;
mod a_drain_keeps_every_place;
mod a_fleet_shares_its_limits;
mod a_full_disk_is_waited_out;
mod a_killed_runner_loses_nothing;
mod a_person_is_told;
mod another_endpoint_takes_over;
mod any_weather_ends_well;
mod bad_input_harms_nobody;
mod command_line;
mod dependencies;
mod every_bound_holds;
mod every_crash_is_survived;
mod every_mutant_applies;
mod guarantees_are_tested;
mod hours_pass_in_a_second;
mod no_secret_leaks;
mod redis_goes_and_comes_back;
mod refusals_are_explained;
mod the_queue_is_steered;
mod the_seeds_scenarios_end_well;
mod unreadable_entries_harm_nobody;
