//! What only the store in SQLite has to hold.
