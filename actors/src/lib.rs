//! The actor system: one file an actor.
