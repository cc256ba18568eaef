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
