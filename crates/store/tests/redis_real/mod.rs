//! Redis as it is run for real: behind Sentinel, as a cluster, behind TLS, with users of few rights,
//! full, loading, cut off, forgetful and under load.

mod clocks;
mod cluster;
mod failures;
pub mod fleet;
mod forgets;
mod gate;
mod limits;
mod rights;
mod sentinel;
mod tls;
mod together;
