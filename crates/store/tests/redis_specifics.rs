//! What only the store in Redis has to hold.
