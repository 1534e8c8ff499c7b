//! GitHub App authentication and the REST calls that an agent's effects need.
