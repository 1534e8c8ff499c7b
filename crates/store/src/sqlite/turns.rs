//! Whose turn it is: the lines in which jobs stand, the lanes of owners, and the foremost job of each
//! repository. Kept in step with every change, so that a claim looks at those alone, however many wait.

use std::collections::BTreeSet;

use rusqlite::{Connection, OptionalExtension, params};
use steadfast_core::job::Job;
use steadfast_core::time::Timestamp;

use crate::Whom;
use crate::record::{LONGEST_LEASE, Line};

/// Most jobs that take their places in one claim when their time has come: of more that come due at
/// once the rest follow in the next claims, earliest first.
const PROMOTED: usize = 1000;

/// Where a job stands, as its row says.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Place {
    pub line: Option<Line>,
    pub priority: i8,
    pub owner: String,
    pub repo: String,
    pub due: Timestamp,
    pub seq: u64,
}

impl Place {
    /// Of a job that is just taken in.
    pub fn of(job: &Job) -> Self {
        Place {
            line: None,
            priority: job.priority(),
            owner: job.owner_key(),
            repo: job.repository_key(),
            due: Timestamp::EPOCH,
            seq: 0,
        }
    }
}

/// The word of a line.
pub(super) fn line_word(line: Line) -> &'static str {
    match line {
        Line::Due => "due",
        Line::Ready => "ready",
        Line::Urgent => "urgent",
    }
}

/// The line of a word.
pub(super) fn line_of(word: &str) -> Option<Line> {
    [Line::Due, Line::Ready, Line::Urgent].into_iter().find(|line| line_word(*line) == word)
}

/// Moves a job whose row was just changed from one place to another.
pub(super) fn moved(conn: &Connection, from: &Place, to: &Place) -> rusqlite::Result<()> {
    if from == to {
        return Ok(());
    }
    if from.line == Some(Line::Ready) {
        leave(conn, from)?;
    }
    if to.line == Some(Line::Ready) {
        enter(conn, to)?;
    }
    Ok(())
}

/// Lets a job wait for its turn. Who has none yet gets one, after all others.
fn enter(conn: &Connection, place: &Place) -> rusqlite::Result<()> {
    let Place { priority, owner, repo, due, seq, .. } = place;
    let mut lane = conn.prepare_cached(
        "INSERT INTO lanes (priority, owner, turn) \
         VALUES (?1, ?2, (SELECT coalesce(max(turn), 0) + 1 FROM lanes WHERE priority = ?1)) \
         ON CONFLICT DO NOTHING",
    )?;
    lane.execute(params![priority, owner])?;
    let mut head = conn.prepare_cached(
        "INSERT INTO heads (priority, repo, owner, due, seq) VALUES (?, ?, ?, ?, ?) \
         ON CONFLICT DO UPDATE SET due = excluded.due, seq = excluded.seq \
         WHERE (excluded.due, excluded.seq) < (heads.due, heads.seq)",
    )?;
    head.execute(params![priority, repo, owner, due.millis(), seq]).map(|_| ())
}

/// Takes a job out that waited for its turn. An owner without any is forgotten.
fn leave(conn: &Connection, place: &Place) -> rusqlite::Result<()> {
    let Place { priority, owner, repo, seq, .. } = place;
    let mut drop = conn.prepare_cached("DELETE FROM heads WHERE priority = ? AND repo = ? AND seq = ?")?;
    if drop.execute(params![priority, repo, seq])? == 0 {
        // Another one is before it, and stays.
        return Ok(());
    }
    let mut next = conn.prepare_cached(
        "INSERT INTO heads (priority, repo, owner, due, seq) \
         SELECT priority, repo, ?3, due, seq FROM jobs INDEXED BY jobs_ready \
         WHERE line = 'ready' AND priority = ?1 AND repo = ?2 ORDER BY due, seq LIMIT 1",
    )?;
    if next.execute(params![priority, repo, owner])? == 0 {
        let mut forget = conn.prepare_cached(
            "DELETE FROM lanes WHERE priority = ?1 AND owner = ?2 \
             AND NOT EXISTS (SELECT 1 FROM heads WHERE priority = ?1 AND owner = ?2)",
        )?;
        forget.execute(params![priority, owner])?;
    }
    Ok(())
}

/// Lets those whose time has come wait for their turn, in order of due time and admission.
pub(super) fn promote(conn: &Connection, now: Timestamp) -> rusqlite::Result<()> {
    for place in coming(conn, now)? {
        conn.prepare_cached("UPDATE jobs SET line = 'ready' WHERE seq = ?")?.execute([place.seq])?;
        enter(conn, &place)?;
    }
    Ok(())
}

/// Those whose time has come and that have not taken their places yet.
fn coming(conn: &Connection, now: Timestamp) -> rusqlite::Result<Vec<Place>> {
    let mut due = conn.prepare_cached(
        "SELECT priority, owner, repo, due, seq FROM jobs INDEXED BY jobs_due \
         WHERE line = 'due' AND due <= ? ORDER BY due, seq LIMIT ?",
    )?;
    let rows = due.query_map(params![now.millis(), PROMOTED], |row| {
        Ok(Place {
            line: Some(Line::Due),
            priority: row.get(0)?,
            owner: row.get(1)?,
            repo: row.get(2)?,
            due: Timestamp::from_millis(row.get(3)?),
            seq: row.get(4)?,
        })
    })?;
    rows.collect()
}

/// What keeps jobs from being claimed: pauses, and repositories at their limit.
pub(super) struct Held {
    per_repo: u32,
    pub all: bool,
    owners: BTreeSet<String>,
}

impl Held {
    pub fn now(conn: &Connection, per_repo: u32) -> rusqlite::Result<Self> {
        let mut held = Held { per_repo, all: false, owners: BTreeSet::new() };
        for whom in paused(conn)? {
            match whom {
                Whom::All => held.all = true,
                Whom::Owner(owner) => {
                    held.owners.insert(owner);
                }
            }
        }
        Ok(held)
    }

    pub fn is_paused(&self, owner: &str) -> bool {
        self.owners.contains(owner)
    }

    /// Whether a repository may have another run.
    fn has_room(&self, conn: &Connection, repo: &str) -> rusqlite::Result<bool> {
        if self.per_repo == 0 {
            return Ok(true);
        }
        let mut count = conn.prepare_cached(
            "SELECT count(*) FROM (SELECT 1 FROM jobs INDEXED BY jobs_running_repo \
             WHERE state = 'running' AND repo = ? LIMIT ?)",
        )?;
        let running: u32 = count.query_row(params![repo, self.per_repo], |row| row.get(0))?;
        Ok(running < self.per_repo)
    }

    /// The next of those that wait for their turn, and its lane's priority and owner.
    pub fn first_ready(&self, conn: &Connection) -> rusqlite::Result<Option<(u64, i8, String)>> {
        let mut lanes = conn.prepare_cached(
            "SELECT priority, owner FROM lanes INDEXED BY lanes_turn ORDER BY priority DESC, turn",
        )?;
        let mut lanes = lanes.query([])?;
        while let Some(lane) = lanes.next()? {
            let (priority, owner): (i8, String) = (lane.get(0)?, lane.get(1)?);
            if self.is_paused(&owner) {
                continue;
            }
            let mut heads = conn.prepare_cached(
                "SELECT seq, repo FROM heads INDEXED BY heads_lane \
                 WHERE priority = ? AND owner = ? ORDER BY due, seq",
            )?;
            let mut heads = heads.query(params![priority, owner])?;
            while let Some(head) = heads.next()? {
                if self.has_room(conn, &head.get::<_, String>(1)?)? {
                    return Ok(Some((head.get(0)?, priority, owner)));
                }
            }
        }
        Ok(None)
    }

    /// The next instant at which a claim does something, as far as it is known.
    pub fn next(&self, conn: &Connection, now: Timestamp) -> rusqlite::Result<Option<Timestamp>> {
        if first_urgent(conn)?.is_some() {
            return Ok(Some(now));
        }
        if self.all {
            return Ok(None);
        }
        if self.first_ready(conn)?.is_some() {
            return Ok(Some(now));
        }
        let coming = coming(conn, now)?;
        for place in &coming {
            if !self.is_paused(&place.owner) && self.has_room(conn, &place.repo)? {
                return Ok(Some(now));
            }
        }
        if coming.len() == PROMOTED {
            return Ok(Some(now));
        }
        let mut next = conn.prepare_cached(
            "SELECT min(at) FROM ( \
             SELECT min(due) AS at FROM jobs INDEXED BY jobs_due WHERE line = 'due' AND due > ? UNION ALL \
             SELECT min(lease_end) FROM jobs INDEXED BY jobs_running WHERE state = 'running' UNION ALL \
             SELECT 0 FROM jobs INDEXED BY jobs_running WHERE state = 'running' AND lease_end > ?)",
        )?;
        let late = now + LONGEST_LEASE;
        let at: Option<i64> = next.query_row([now.millis(), late.millis()], |row| row.get(0))?;
        Ok(at.map(Timestamp::from_millis))
    }
}

/// The first of those that only wait to be called off.
pub(super) fn first_urgent(conn: &Connection) -> rusqlite::Result<Option<u64>> {
    let mut first = conn.prepare_cached(
        "SELECT seq FROM jobs INDEXED BY jobs_urgent WHERE line = 'urgent' ORDER BY due, seq LIMIT 1",
    )?;
    first.query_row([], |row| row.get(0)).optional()
}

/// Those whose leases are over, or were given while the clock was wrong; and their owners.
pub(super) fn expired(
    conn: &Connection,
    now: Timestamp,
    most: usize,
) -> rusqlite::Result<Vec<(u64, String, String)>> {
    let mut found = Vec::new();
    for (when, than) in [("<=", now), (">", now + LONGEST_LEASE)] {
        let mut expired = conn.prepare_cached(&format!(
            "SELECT seq, id, owner FROM jobs INDEXED BY jobs_running \
             WHERE state = 'running' AND lease_end {when} ? ORDER BY lease_end, id LIMIT ?"
        ))?;
        let rows = expired
            .query_map(params![than.millis(), most], |row| Ok((row.get(0)?, row.get(1)?, row.get(2)?)))?;
        found.extend(rows.collect::<rusqlite::Result<Vec<_>>>()?);
    }
    Ok(found)
}

/// An owner was served: all others of this priority are before it now.
pub(super) fn served(conn: &Connection, priority: i8, owner: &str) -> rusqlite::Result<()> {
    let mut served = conn.prepare_cached(
        "UPDATE lanes SET turn = (SELECT max(turn) + 1 FROM lanes WHERE priority = ?1) \
         WHERE priority = ?1 AND owner = ?2",
    )?;
    served.execute(params![priority, owner]).map(|_| ())
}

/// Begins a pause.
pub(super) fn pause(conn: &Connection, whom: &Whom) -> rusqlite::Result<()> {
    let mut pause =
        conn.prepare_cached("INSERT INTO paused (scope, owner) VALUES (?, ?) ON CONFLICT DO NOTHING")?;
    pause.execute(scope(whom)).map(|_| ())
}

/// Ends a pause.
pub(super) fn resume(conn: &Connection, whom: &Whom) -> rusqlite::Result<()> {
    let mut resume = conn.prepare_cached("DELETE FROM paused WHERE scope = ? AND owner = ?")?;
    resume.execute(scope(whom)).map(|_| ())
}

/// Whose jobs are not claimed, in order.
pub(super) fn paused(conn: &Connection) -> rusqlite::Result<Vec<Whom>> {
    let mut paused = conn.prepare_cached("SELECT scope, owner FROM paused ORDER BY scope, owner")?;
    let rows = paused.query_map([], |row| {
        let scope: String = row.get(0)?;
        Ok(if scope == "all" { Whom::All } else { Whom::Owner(row.get(1)?) })
    })?;
    rows.collect()
}

fn scope(whom: &Whom) -> (&'static str, &str) {
    match whom {
        Whom::All => ("all", ""),
        Whom::Owner(owner) => ("owner", owner),
    }
}
