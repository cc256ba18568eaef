-- What PostgreSQL says differently from portable.sql, each with its reason.

-- name: ready_tasks
-- All names of a worker in one statement; each probes its own stretch of the index, so that ready
-- rows of other names are never read.
SELECT picked.execution_id, picked.run, picked.step
FROM {rows names: queue text, task text} AS n
CROSS JOIN LATERAL (
    SELECT t.execution_id, t.run, t.step, t.priority, t.ready_at FROM {tasks} t
    WHERE t.queue = n.queue AND t.task = n.task AND t.ready_at IS NOT NULL
    ORDER BY t.priority, t.ready_at
    LIMIT :amount
    {skip_locked}
) AS picked
ORDER BY picked.priority, picked.ready_at
LIMIT :amount;

-- name: claim_at_once
-- Pick, claim and read in one statement, which is its own transaction: one round trip for five.
-- The picked rows are locked, so the update meets what was picked.
WITH picked AS (
    SELECT found.execution_id, found.run, found.step
    FROM {rows names: queue text, task text} AS n
    CROSS JOIN LATERAL (
        SELECT t.execution_id, t.run, t.step, t.priority, t.ready_at FROM {tasks} t
        WHERE t.queue = n.queue AND t.task = n.task AND t.ready_at IS NOT NULL
        ORDER BY t.priority, t.ready_at
        LIMIT :amount
        {skip_locked}
    ) AS found
    ORDER BY found.priority, found.ready_at
    LIMIT :amount
), t AS (
    UPDATE {tasks} AS t
    SET worker = :worker, epoch = t.epoch + 1, ready_at = NULL, due_at = NULL,
        started_at = coalesce(t.started_at, {now})
    FROM picked AS p
    WHERE t.execution_id = p.execution_id AND t.run = p.run AND t.step = p.step
    RETURNING t.*
)
SELECT t.execution_id, t.run, t.step, t.epoch, t.task, t.queue, coalesce(t.input, e.input), e.seed,
       t.attempt, t.crashes, t.wake_seq, t.started_at, {now}, e.parent_id, e.parent_run, e.parent_step
FROM t JOIN {executions} e ON e.id = t.execution_id;

-- name: commit_at_once
-- The fence, the steps' rows and the plain ends of executions in one statement: one round trip for
-- six. One snapshot is enough here: the fence locks the newest version of each task's row and
-- compares its epoch, nobody but the epoch's owner writes these rows, and what the others write
-- meanwhile (a wake) changes nothing in them. An end is refused once an event has come: its mailbox
-- is cleared by the longer way. A row holds a step, an end or neither, so that nothing is joined
-- with what passed the fence: the planner takes that for one row, and loops. The lateral subquery
-- locks, so it stays one probe of the key for each row, whatever the statistics say; as a plain join
-- a cached plan took every task for every row. The caller orders the rows.
WITH held AS (
    SELECT r.*, mine.step
    FROM {rows entries: n int, execution_id text, run int, epoch int, ends int, name text, kind text, position int, outcome text, value text, due_at int, began_at int, status text, output text, failure text, attempt int, crashes int, started_at int} AS r
    CROSS JOIN LATERAL (
        SELECT t.step FROM {tasks} t
        WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = ''
          AND t.epoch = r.epoch AND (r.ends = 0 OR t.wake_seq = 0)
        {for_share}
    ) AS mine
), recorded AS (
    INSERT INTO {steps} AS s (execution_id, run, name, kind, position, outcome, value, due_at, started_at, finished_at)
    SELECT h.execution_id, h.run, h.name, h.kind, h.position, h.outcome, h.value, h.due_at, h.began_at,
           CASE WHEN h.outcome IS NOT NULL THEN {now} END
    FROM held h WHERE h.name IS NOT NULL
    ON CONFLICT (execution_id, run, name) DO UPDATE
    SET outcome = excluded.outcome, value = excluded.value, finished_at = excluded.finished_at,
        started_at = coalesce(s.started_at, excluded.started_at)
    WHERE s.outcome IS NULL
), finished AS (
    UPDATE {executions} AS e
    SET status = h.status, output = h.output, failure = h.failure, attempt = h.attempt, crashes = h.crashes,
        started_at = h.started_at, finished_at = {now}
    FROM held h
    WHERE h.status IS NOT NULL AND e.id = h.execution_id
), ended AS (
    DELETE FROM {tasks} AS t
    USING held h
    WHERE h.status IS NOT NULL AND t.execution_id = h.execution_id AND t.run = h.run AND t.step = h.step
)
SELECT n FROM held;

-- name: delete_tasks
-- A join: the planner may answer a three-column IN over an array with a scan of the table.
DELETE FROM {tasks} AS t
USING {rows entries: execution_id text, run int, step text} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step;

-- name: erase_steps
DELETE FROM {steps} AS s
USING {rows entries: execution_id text, run int, name text} AS r
WHERE s.execution_id = r.execution_id AND s.run = r.run AND s.name = r.name;

-- name: erase_attempts
DELETE FROM {step_attempts} AS a
USING {rows entries: execution_id text, run int, name text} AS r
WHERE a.execution_id = r.execution_id AND a.run = r.run AND a.step = r.name;
