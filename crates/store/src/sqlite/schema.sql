-- The tables of the store in SQLite.
--
-- The queries name the index that they mean: without statistics SQLite would rather take the one by
-- state, and sort the whole queue at every look.
--
-- Tables are STRICT, so that a row that can be selected at all has the types that we expect. A job that
-- waits stands in a line, and no other does: what an older build would write beside that is refused.
CREATE TABLE jobs (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    data TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('queued', 'running', 'parked', 'ended')),
    line TEXT CHECK (line IN ('due', 'ready', 'urgent')),
    priority INTEGER NOT NULL,
    owner TEXT NOT NULL,
    repo TEXT NOT NULL,
    uniq TEXT,
    joined_to TEXT,
    retries INTEGER NOT NULL,
    token INTEGER NOT NULL,
    due INTEGER NOT NULL,
    lease_end INTEGER NOT NULL,
    runs INTEGER NOT NULL,
    attempts INTEGER NOT NULL,
    crashes INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    steps INTEGER NOT NULL,
    duplicates INTEGER NOT NULL,
    journal_bytes INTEGER NOT NULL,
    cancel INTEGER NOT NULL,
    closed TEXT NOT NULL,
    admitted_at INTEGER NOT NULL,
    started_at INTEGER,
    ended_at INTEGER,
    waiting_for TEXT,
    runner TEXT,
    last_error TEXT,
    end_status TEXT,
    result TEXT,
    fields TEXT,
    CHECK ((line IS NOT NULL) = (state IN ('queued', 'parked')))
) STRICT;
CREATE INDEX jobs_due ON jobs (due, seq) WHERE line = 'due';
CREATE INDEX jobs_ready ON jobs (priority, repo, due, seq) WHERE line = 'ready';
CREATE INDEX jobs_urgent ON jobs (due, seq) WHERE line = 'urgent';
CREATE INDEX jobs_running ON jobs (lease_end, id) WHERE state = 'running';
CREATE INDEX jobs_running_repo ON jobs (repo) WHERE state = 'running';
CREATE INDEX jobs_ended ON jobs (ended_at) WHERE state = 'ended';
CREATE INDEX jobs_state ON jobs (state, seq);
CREATE UNIQUE INDEX jobs_unique ON jobs (uniq) WHERE uniq IS NOT NULL AND state <> 'ended';
-- Owners who have jobs in the line 'ready', of each priority: the lowest turn is next.
CREATE TABLE lanes (
    priority INTEGER NOT NULL,
    owner TEXT NOT NULL,
    turn INTEGER NOT NULL,
    PRIMARY KEY (priority, owner)
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX lanes_turn ON lanes (priority DESC, turn);
-- The foremost job in the line 'ready' of each priority and repository.
CREATE TABLE heads (
    priority INTEGER NOT NULL,
    repo TEXT NOT NULL,
    owner TEXT NOT NULL,
    due INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    PRIMARY KEY (priority, repo)
) STRICT, WITHOUT ROWID;
CREATE INDEX heads_lane ON heads (priority, owner, due, seq);
CREATE TABLE paused (
    scope TEXT NOT NULL CHECK (scope IN ('all', 'owner')),
    owner TEXT NOT NULL,
    PRIMARY KEY (scope, owner)
) STRICT, WITHOUT ROWID;
-- As schema 1 has them too.
CREATE TABLE IF NOT EXISTS steps (
    job INTEGER NOT NULL,
    at INTEGER NOT NULL,
    body BLOB NOT NULL,
    PRIMARY KEY (job, at)
) STRICT;
CREATE TABLE IF NOT EXISTS patches (
    job INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;
