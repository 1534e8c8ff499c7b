-- What schema 1 held, after its jobs were set aside as `old_jobs` and the tables of today were made. A
-- job whose JSON is damaged has no owner, and ends when it is claimed. All that wait take their places
-- in order of due time, as if they had come due just now.
INSERT INTO jobs (
    seq, id, data, state, line, priority, owner, repo, retries, token, due, lease_end, runs, attempts,
    crashes, waits, steps, duplicates, journal_bytes, cancel, closed, admitted_at, started_at, ended_at,
    waiting_for, runner, last_error, end_status, result, fields
)
SELECT
    seq, id, data, state, CASE WHEN state IN ('queued', 'parked') THEN 'due' END, 0, owner,
    owner || '/' || name, 0, token, due, lease_end, runs, attempts, crashes, waits, steps, duplicates,
    journal_bytes, cancel, closed, admitted_at, started_at, ended_at, waiting_for, runner, last_error,
    end_status, result, fields
FROM (
    SELECT *,
        lower(CASE WHEN json_valid(data) THEN coalesce(data ->> '$.repoOwner', '') ELSE '' END) AS owner,
        lower(CASE WHEN json_valid(data) THEN coalesce(data ->> '$.repoName', '') ELSE '' END) AS name
    FROM old_jobs
);
-- No number is given twice, whatever was purged.
DELETE FROM sqlite_sequence WHERE name = 'jobs';
UPDATE sqlite_sequence SET name = 'jobs' WHERE name = 'old_jobs';
DROP TABLE old_jobs;
