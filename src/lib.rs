//! The binary's parts: command line, configuration, logging, and the wiring of a run.

pub mod cli;
pub mod clock;
pub mod config;
pub mod exit;
pub mod logs;
pub mod run;
