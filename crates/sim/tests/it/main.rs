//! The simulation as its users see it: strict, limited, faulty, and with a model that works.

mod faults;
mod git;
mod github;
mod limits;
mod model;
mod openai;
mod support;
