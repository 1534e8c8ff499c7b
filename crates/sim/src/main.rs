//! The simulation on its own: any client can be pointed at it.
fn main() {}
