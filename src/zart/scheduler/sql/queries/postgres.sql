-- What PostgreSQL says differently from portable.sql, each with its reason.

-- name: schedule_at_once
-- New executions and their tasks in one statement: one round trip for five. What is there already is
-- left out by the snapshot; what another transaction inserts meanwhile is a unique violation, so that
-- no task is inserted for an execution that was not. Both inserts read the same few rows: a join of
-- one with what the other has inserted would be a loop over all of both.
WITH r AS (
    SELECT n.*
    FROM {rows entries: id text, task text, queue text, priority int, input text, seed int, delay int, due_at int, worker text, epoch int} AS n
    WHERE NOT EXISTS (SELECT 1 FROM {executions} e WHERE e.id = n.id)
), inserted AS (
    INSERT INTO {executions} (id, task, queue, priority, input, run, seed, created_at)
    SELECT r.id, r.task, r.queue, r.priority, r.input, 1, r.seed, {now} FROM r
), queued AS (
    INSERT INTO {tasks} (execution_id, run, step, queue, task, priority, ready_at, due_at, pending, worker, epoch, started_at)
    SELECT r.id, 1, '', r.queue, r.task, r.priority,
           CASE WHEN r.delay IS NULL AND r.due_at IS NULL AND r.worker IS NULL THEN {now} END,
           coalesce(r.due_at, {now} + r.delay),
           CASE WHEN r.delay IS NULL AND r.due_at IS NULL THEN 0 ELSE -1 END,
           r.worker, r.epoch, CASE WHEN r.worker IS NOT NULL THEN {now} END
    FROM r
)
SELECT id, CASE WHEN :message <> '' THEN pg_notify(:channel, :message)::text END FROM r;

-- name: ready_tasks
-- All names of a worker in one statement; each probes its own stretch of the index, so that ready
-- rows of other names are never read.
SELECT picked.execution_id, picked.run, picked.step, picked.queue, picked.task, picked.priority, picked.ready_at
FROM {rows names: queue text, task text, low int, high int, since int} AS n
CROSS JOIN LATERAL (
    SELECT t.execution_id, t.run, t.step, t.queue, t.task, t.priority, t.ready_at FROM {tasks} t
    WHERE t.queue = n.queue AND t.task = n.task AND t.ready_at IS NOT NULL
      AND t.priority >= n.low AND t.priority <= n.high AND t.ready_at >= n.since
    ORDER BY t.priority, t.ready_at
    LIMIT :amount
    {skip_locked}
) AS picked
ORDER BY picked.priority, picked.ready_at
LIMIT :amount;

-- name: claim_at_once
-- Pick, claim and read in one statement, which is its own transaction: one round trip for five.
-- The picked rows are locked, so the update meets what was picked. One more is looked for, to tell
-- whether any is left.
WITH found AS (
    SELECT found.*
    FROM {rows names: queue text, task text, low int, high int, since int} AS n
    CROSS JOIN LATERAL (
        SELECT t.execution_id, t.run, t.step, t.priority, t.ready_at FROM {tasks} t
        WHERE t.queue = n.queue AND t.task = n.task AND t.ready_at IS NOT NULL
          AND t.priority >= n.low AND t.priority <= n.high AND t.ready_at >= n.since
        ORDER BY t.priority, t.ready_at
        LIMIT :amount + 1
        {skip_locked}
    ) AS found
    ORDER BY found.priority, found.ready_at
    LIMIT :amount + 1
), picked AS (
    SELECT * FROM found ORDER BY priority, ready_at LIMIT :amount
), t AS (
    UPDATE {tasks} AS t
    SET worker = :worker, epoch = t.epoch + :stride, ready_at = NULL, due_at = NULL,
        started_at = coalesce(t.started_at, {now})
    FROM picked AS p
    WHERE t.execution_id = p.execution_id AND t.run = p.run AND t.step = p.step
    RETURNING t.*, p.ready_at AS found_at
)
SELECT t.execution_id, t.run, t.step, t.epoch, t.task, t.queue, coalesce(t.input, e.input), e.seed,
       t.attempt, t.crashes, t.wake_seq, t.started_at, {now}, e.parent_id, e.parent_run, e.parent_step,
       history.epoch, history.wake_seq, history.steps, history.attempts, history.events, t.priority, t.found_at,
       (SELECT count(*) FROM found)
FROM t JOIN {executions} e ON e.id = t.execution_id
-- A first claim has no history, and nothing is looked for. For others, the task as the statement's
-- snapshot has it, and so has the history: it is whole when nothing has changed in the task between
-- the snapshot and the lock. Otherwise it is read again.
LEFT JOIN LATERAL (
    SELECT was.epoch, was.wake_seq,
           (SELECT json_agg(json_build_array(s.name, s.kind, s.position, s.outcome, s.value, s.due_at, s.finished_at))
            FROM {steps} s WHERE t.step = '' AND s.execution_id = t.execution_id AND s.run = t.run) AS steps,
           (SELECT json_agg(json_build_array(a.step, a.attempt, a.retry_at, a.deadline_at, a.error) ORDER BY a.step, a.attempt)
            FROM {step_attempts} a
            WHERE a.execution_id = t.execution_id AND a.run = t.run
              AND a.run_attempt = CASE WHEN t.step = '' THEN t.attempt ELSE 0 END
              AND a.step <> '' AND (t.step = '' OR a.step = t.step)) AS attempts,
           (SELECT json_agg(json_build_array(v.sequence, v.name, v.payload) ORDER BY v.sequence)
            FROM {events} v WHERE t.step = '' AND v.execution_id = t.execution_id AND v.taken_by IS NULL) AS events
    FROM {tasks} was
    WHERE (t.epoch <> :stride OR t.wake_seq > 0 OR t.run > 1)
      AND was.execution_id = t.execution_id AND was.run = t.run AND was.step = t.step
    OFFSET 0
) AS history ON true;

-- name: look
-- A probe of the index for each name: as a plain join the planner, once it knows of many ready rows,
-- reads them from the start in the hope of one that fits; rows of names that no worker knows never do.
SELECT {now}, (SELECT min(d.due_at) FROM {tasks} d WHERE d.due_at IS NOT NULL),
       EXISTS (SELECT 1 FROM {rows wanted: queue text, task text, low int, high int, since int} AS n
               CROSS JOIN LATERAL (
                   SELECT 1 FROM {tasks} t
                   WHERE t.queue = n.queue AND t.task = n.task AND t.ready_at IS NOT NULL
                     AND t.priority >= n.low AND t.priority <= n.high AND t.ready_at >= n.since
                   LIMIT 1
               ) AS found);

-- name: record_at_once
-- `commit_at_once` for steps alone: the fence is where the rows come from. The number of rows tells
-- whether all were written: not those of a claim that is lost, nor those that have an outcome already.
INSERT INTO {steps} AS s (execution_id, run, name, kind, position, outcome, value, due_at, started_at, finished_at)
SELECT r.execution_id, r.run, r.name, r.kind, r.position, r.outcome, r.value, r.due_at, r.began_at,
       CASE WHEN r.outcome IS NOT NULL THEN {now} END
FROM {rows entries: epoch int, execution_id text, run int, name text, kind text, position int, outcome text, value text, due_at int, began_at int} AS r
CROSS JOIN LATERAL (
    SELECT 1 FROM {tasks} t
    WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = '' AND t.epoch = r.epoch
    {for_share}
) AS mine
ON CONFLICT (execution_id, run, name) DO UPDATE
SET outcome = excluded.outcome, value = excluded.value, finished_at = excluded.finished_at,
    started_at = coalesce(s.started_at, excluded.started_at)
WHERE s.outcome IS NULL;

-- name: finish_at_once
-- `commit_at_once` for ends alone, of executions that were never woken: the fence is the deletion of
-- their tasks, which tests the newest version of each.
WITH ended AS (
    DELETE FROM {tasks} AS t
    USING {rows entries: n int, execution_id text, run int, epoch int, status text, output text, failure text, attempt int, crashes int, started_at int} AS r
    WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = ''
      AND t.epoch = r.epoch AND t.wake_seq = 0
    RETURNING r.*
)
UPDATE {executions} AS e
SET status = h.status, output = h.output, failure = h.failure, attempt = h.attempt, crashes = h.crashes,
    started_at = h.started_at, finished_at = {now}
FROM ended h
WHERE e.id = h.execution_id
RETURNING h.n;

-- name: commit_at_once
-- The fence, the steps' rows, plain parks and ends of executions in one statement: one round trip
-- for six. One snapshot is enough here: the fence locks the newest version of each task's row and
-- compares its epoch, nobody but the epoch's owner writes these rows, and what the others write
-- meanwhile (a wake) a park reads from the newest version, too. An end that has not seen the last
-- wake is refused: it clears the mailbox, and what came after the snapshot it would leave there.
-- A row holds a step, a taken event, an end, a park or nothing, so that nothing is joined with what
-- passed the fence: the planner takes that for one row, and loops. The lateral subquery locks, so
-- it stays one probe of the key for each row, whatever the statistics say; as a plain join a cached
-- plan took every task for every row. The last SELECT runs first and to its end, so all is fenced
-- before anything is changed. The caller orders the rows.
WITH held AS (
    SELECT r.*, mine.step, mine.wake_seq
    FROM {rows entries: n int, execution_id text, run int, epoch int, ends int, seen int, name text, kind text, position int, outcome text, value text, due_at int, began_at int, taken int, status text, output text, failure text, attempt int, crashes int, started_at int, ready int, pending int} AS r
    CROSS JOIN LATERAL (
        SELECT t.step, t.wake_seq FROM {tasks} t
        WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = ''
          AND t.epoch = r.epoch AND (r.ends <> 1 OR t.wake_seq = r.seen)
        {for_share}
    ) AS mine
), recorded AS (
    INSERT INTO {steps} AS s (execution_id, run, name, kind, position, outcome, value, due_at, started_at, finished_at)
    SELECT h.execution_id, h.run, h.name, h.kind, h.position, h.outcome, h.value, h.due_at, h.began_at,
           CASE WHEN h.outcome IS NOT NULL THEN {now} END
    FROM held h WHERE h.kind IS NOT NULL
    ON CONFLICT (execution_id, run, name) DO UPDATE
    SET outcome = excluded.outcome, value = excluded.value, finished_at = excluded.finished_at,
        started_at = coalesce(s.started_at, excluded.started_at)
    WHERE s.outcome IS NULL
), received AS (
    UPDATE {events} AS v SET taken_by = h.name
    FROM held h
    WHERE h.taken IS NOT NULL AND v.execution_id = h.execution_id AND v.sequence = h.taken
), parked AS (
    UPDATE {tasks} AS t
    SET worker = NULL, pending = h.pending, attempt = h.attempt,
        ready_at = CASE WHEN h.ready = 1 OR (h.pending >= 0 AND t.wake_seq <> h.seen) THEN {now} END,
        due_at = CASE WHEN h.ready = 1 OR (h.pending >= 0 AND t.wake_seq <> h.seen) THEN NULL ELSE h.due_at END
    FROM held h
    WHERE h.pending IS NOT NULL AND t.execution_id = h.execution_id AND t.run = h.run AND t.step = h.step
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
), cleared AS (
    DELETE FROM {events} AS v
    USING held h
    WHERE h.status IS NOT NULL AND h.seen > 0 AND v.execution_id = h.execution_id
)
SELECT n, wake_seq FROM held;

-- part: first_task
-- An execution's own task is the first of its rows. Its key is taken from there: by the execution
-- alone all of its distributed steps would be read for it; and with a step that is written here as
-- empty, the planner looked by that alone, through all tasks that there are.
CROSS JOIN LATERAL (
        SELECT f.run, f.step FROM {tasks} f WHERE f.execution_id = r.execution_id
        ORDER BY f.run, f.step LIMIT 1
    ) AS m

-- name: lock_executions
-- The lateral subquery locks, so it is one probe of the key for each row. The caller orders them.
SELECT t.execution_id, t.run, t.wake_seq
FROM {rows entries: execution_id text} AS r
{first_task}
CROSS JOIN LATERAL (
    SELECT t.execution_id, t.run, t.wake_seq FROM {tasks} t
    WHERE t.execution_id = r.execution_id AND t.run = m.run AND t.step = m.step
    {for_update}
) AS t
WHERE length(m.step) = 0;

-- name: offer_at_once
-- One event for each execution: the wake sequence that it moves numbers the event.
WITH woken AS (
    UPDATE {tasks} AS t
    SET wake_seq = t.wake_seq + 1,
        ready_at = CASE WHEN t.worker IS NULL AND t.pending >= 0 THEN coalesce(t.ready_at, {now}) ELSE t.ready_at END,
        due_at = CASE WHEN t.pending >= 0 THEN NULL ELSE t.due_at END
    FROM {rows entries: execution_id text, delivery text, name text, payload text} AS r
    {first_task}
    WHERE length(m.step) = 0 AND t.execution_id = r.execution_id AND t.run = m.run AND t.step = m.step
    RETURNING t.execution_id, t.wake_seq, r.delivery, r.name, r.payload
), put AS (
    INSERT INTO {events} (execution_id, sequence, delivery, name, payload, created_at)
    SELECT w.execution_id, w.wake_seq, w.delivery, w.name, w.payload, {now} FROM woken w
)
SELECT execution_id, CASE WHEN :message <> '' THEN pg_notify(:channel, :message)::text END FROM woken;

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
