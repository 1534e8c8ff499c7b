//! Workspaces over real git remotes.
