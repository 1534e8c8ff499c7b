//! The simulation as its users see it: strict, limited, faulty, and with a model that works.

#![allow(clippy::unwrap_used, reason = "helpers of tests are tests too")]

mod clients;
mod faults;
mod git;
mod github;
mod limits;
mod model;
mod openai;
mod program;
mod support;
