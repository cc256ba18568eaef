-- The statements that every database understands. Keys are (execution_id, run, step): a task's
-- step is empty for the execution itself. A statement that changes several rows gets its keys in
-- order, so that transactions lock in the same order. The whole key comes with the rows, an empty step
-- too: with a constant among them a planner may look by that alone.

-- name: existing_executions
SELECT e.id, e.task, e.input, e.parent_id, e.parent_run, e.parent_step
FROM {rows entries: id text} AS r {join} {executions} e ON e.id = r.id;

-- name: insert_executions
INSERT INTO {executions} (id, task, queue, priority, input, run, seed, parent_id, parent_run, parent_step, created_at)
SELECT r.id, r.task, r.queue, r.priority, r.input, 1, r.seed, r.parent_id, r.parent_run, r.parent_step, {now}
FROM {rows entries: id text, task text, queue text, priority int, input text, seed int, parent_id text, parent_run int, parent_step text} AS r
WHERE true
ON CONFLICT (id) DO NOTHING;

-- name: insert_tasks
-- delay and due_at are null for a task that is ready at once, or with a worker for one that begins
-- as claimed by it. Pending is -1 for one that only its
-- due time may start: an event that comes earlier waits in the mailbox.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority, ready_at, due_at, pending, worker, epoch, started_at)
SELECT r.execution_id, r.run, '', r.queue, r.task, r.priority,
       CASE WHEN r.delay IS NULL AND r.due_at IS NULL AND r.worker IS NULL THEN {now} END,
       coalesce(r.due_at, {now} + r.delay),
       CASE WHEN r.delay IS NULL AND r.due_at IS NULL THEN 0 ELSE -1 END,
       r.worker, r.epoch, CASE WHEN r.worker IS NOT NULL THEN {now} END
FROM {rows entries: execution_id text, run int, queue text, task text, priority int, delay int, due_at int, worker text, epoch int} AS r
WHERE true
ON CONFLICT (execution_id, run, step) DO NOTHING;

-- name: insert_distributed
-- Only where the step's row is still without an outcome: a commit whose answer was lost may have
-- been followed by the step's end already.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority, ready_at, input)
SELECT r.execution_id, r.run, r.step, r.queue, r.task, r.priority, {now}, r.input
FROM {rows entries: execution_id text, run int, step text, queue text, task text, priority int, input text} AS r
{join} {steps} s ON s.execution_id = r.execution_id AND s.run = r.run AND s.name = r.step
WHERE s.outcome IS NULL
ON CONFLICT (execution_id, run, step) DO NOTHING;

-- name: claimed_executions
SELECT t.execution_id, t.run, t.step, t.epoch, t.task, t.queue, coalesce(t.input, e.input), e.seed,
       t.attempt, t.crashes, t.wake_seq, t.started_at, {now}, e.parent_id, e.parent_run, e.parent_step
FROM {rows entries: execution_id text, run int, step text} AS r
{join} {tasks} t ON t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step
{join} {executions} e ON e.id = t.execution_id;

-- name: claim_tasks
UPDATE {tasks} AS t
SET worker = :worker, epoch = t.epoch + :stride, ready_at = NULL, due_at = NULL,
    started_at = coalesce(t.started_at, {now})
FROM {rows entries: execution_id text, run int, step text} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step;

-- name: ready_tasks
SELECT execution_id, run, step, queue, task, priority, ready_at FROM {tasks}
WHERE queue = :queue AND task = :task AND ready_at IS NOT NULL
ORDER BY priority, ready_at
LIMIT :amount {skip_locked};

-- name: history_steps
SELECT s.execution_id, s.name, s.kind, s.position, s.outcome, s.value, s.due_at, s.finished_at
FROM {rows entries: execution_id text, run int} AS r
{join} {steps} s ON s.execution_id = r.execution_id AND s.run = r.run;

-- name: history_attempts
-- In order, so that the last row of a step is its last attempt.
SELECT a.execution_id, a.step, a.attempt, a.retry_at, a.deadline_at, a.error
FROM {rows entries: execution_id text, run int, run_attempt int} AS r
{join} {step_attempts} a
  ON a.execution_id = r.execution_id AND a.run = r.run AND a.run_attempt = r.run_attempt
WHERE a.step <> ''
ORDER BY a.execution_id, a.step, a.attempt;

-- name: history_events
SELECT v.execution_id, v.sequence, v.name, v.payload
FROM {rows entries: execution_id text} AS r
{join} {events} v ON v.execution_id = r.execution_id
WHERE v.taken_by IS NULL
ORDER BY v.execution_id, v.sequence;

-- name: fence
-- The gate of every write: the rows stay locked until the transaction ends, so an epoch read
-- here is the epoch at commit. Id and key alone: a further condition has made planners scan. The
-- batch's epochs are for a fence that writes.
SELECT t.execution_id, t.run, t.step, t.epoch, t.wake_seq
FROM {rows entries: execution_id text, run int, step text, epoch int} AS r
{join} {tasks} t ON t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step
ORDER BY t.execution_id, t.run, t.step
{for_share};

-- name: record_steps
INSERT INTO {steps} AS s (execution_id, run, name, kind, position, outcome, value, due_at, started_at, finished_at)
SELECT r.execution_id, r.run, r.name, r.kind, r.position, r.outcome, r.value, r.due_at, r.started_at,
       CASE WHEN r.outcome IS NOT NULL THEN {now} END
FROM {rows entries: execution_id text, run int, name text, kind text, position int, outcome text, value text, due_at int, started_at int} AS r
WHERE true
ON CONFLICT (execution_id, run, name) DO UPDATE
SET outcome = excluded.outcome, value = excluded.value, finished_at = excluded.finished_at,
    started_at = coalesce(s.started_at, excluded.started_at)
WHERE s.outcome IS NULL;

-- name: end_steps
-- What has ended elsewhere, in rows as above: only where its record still is. A loop has dropped it
-- with its iteration when nobody waits for it any more.
UPDATE {steps} AS s
SET outcome = r.outcome, value = r.value, finished_at = {now},
    started_at = coalesce(s.started_at, r.started_at)
FROM {rows entries: execution_id text, run int, name text, kind text, position int, outcome text, value text, due_at int, started_at int} AS r
WHERE s.execution_id = r.execution_id AND s.run = r.run AND s.name = r.name AND s.outcome IS NULL;

-- name: recorded_steps
-- Those of the steps that have an outcome.
SELECT s.execution_id, s.run, s.name
FROM {rows entries: execution_id text, run int, name text} AS r
{join} {steps} s ON s.execution_id = r.execution_id AND s.run = r.run AND s.name = r.name
WHERE s.outcome IS NOT NULL;

-- name: record_attempts
INSERT INTO {step_attempts} (execution_id, run, step, run_attempt, attempt, error, retry_at, deadline_at, started_at, failed_at)
SELECT r.execution_id, r.run, r.step, r.run_attempt, r.attempt, r.error, r.retry_at, r.deadline_at, r.started_at, {now}
FROM {rows entries: execution_id text, run int, step text, run_attempt int, attempt int, error text, retry_at int, deadline_at int, started_at int} AS r
WHERE true
ON CONFLICT (execution_id, run, step, run_attempt, attempt) DO NOTHING;

-- name: take_events
UPDATE {events} AS v SET taken_by = r.taken_by
FROM {rows entries: execution_id text, sequence int, taken_by text} AS r
WHERE v.execution_id = r.execution_id AND v.sequence = r.sequence;

-- name: erase_steps
DELETE FROM {steps}
WHERE (execution_id, run, name) IN (SELECT r.execution_id, r.run, r.name FROM {rows entries: execution_id text, run int, name text} AS r);

-- name: erase_attempts
DELETE FROM {step_attempts}
WHERE (execution_id, run, step) IN (SELECT r.execution_id, r.run, r.name FROM {rows entries: execution_id text, run int, name text} AS r);

-- name: erase_taken_events
DELETE FROM {events}
WHERE (execution_id, taken_by) IN (SELECT r.execution_id, r.name FROM {rows entries: execution_id text, run int, name text} AS r);

-- name: park_tasks
-- A wake that came after the run's last look (its sequence has moved) makes the task ready at
-- once: that is why no wake is lost, whichever of park and wake commits first.
UPDATE {tasks} AS t
SET worker = NULL, pending = r.pending, attempt = r.attempt,
    ready_at = CASE WHEN r.ready = 1 OR (r.pending >= 0 AND t.wake_seq <> r.wake_seq) THEN {now} END,
    due_at = CASE WHEN r.ready = 1 OR (r.pending >= 0 AND t.wake_seq <> r.wake_seq) THEN NULL ELSE r.due_at END
FROM {rows entries: execution_id text, run int, step text, wake_seq int, ready int, due_at int, pending int, attempt int} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step;

-- name: finish_executions
UPDATE {executions} AS e
SET status = r.status, output = r.output, failure = r.failure, attempt = r.attempt, crashes = r.crashes,
    started_at = r.started_at, finished_at = {now}
FROM {rows entries: execution_id text, status text, output text, failure text, attempt int, crashes int, started_at int} AS r
WHERE e.id = r.execution_id;

-- name: delete_tasks
DELETE FROM {tasks}
WHERE (execution_id, run, step) IN (SELECT r.execution_id, r.run, r.step FROM {rows entries: execution_id text, run int, step text} AS r);

-- name: delete_task_group
-- An execution's own row and those of its distributed steps.
DELETE FROM {tasks} WHERE execution_id IN (SELECT r.execution_id FROM {rows entries: execution_id text} AS r);

-- name: delete_events
DELETE FROM {events} WHERE execution_id IN (SELECT r.execution_id FROM {rows entries: execution_id text} AS r);

-- name: cancel_open_steps
UPDATE {steps} AS s SET outcome = 'cancelled', finished_at = {now}
FROM {rows entries: execution_id text, run int} AS r
WHERE s.execution_id = r.execution_id AND s.run = r.run AND s.outcome IS NULL
  AND s.kind IN ('sleep', 'event', 'distributed');

-- name: count_down
-- Children that ended: a parked parent becomes ready when none is left to wait for, or at once
-- when one of them failed.
UPDATE {tasks} AS t
SET wake_seq = t.wake_seq + r.ended, pending = t.pending - r.ended,
    ready_at = CASE WHEN t.worker IS NULL AND t.pending >= 0 AND (t.pending <= r.ended OR r.failed = 1) THEN coalesce(t.ready_at, {now}) ELSE t.ready_at END,
    due_at = CASE WHEN t.worker IS NULL AND t.pending >= 0 AND (t.pending <= r.ended OR r.failed = 1) THEN NULL ELSE t.due_at END
FROM {rows entries: execution_id text, run int, step text, ended int, failed int} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step;

-- name: lock_executions
-- With the run, that of its first row, so that the row is found by its whole key: by the execution
-- alone all of its distributed steps would be read for it, at the end of each of them.
SELECT t.execution_id, t.run, t.wake_seq
FROM {rows entries: execution_id text} AS r
{join} {tasks} t ON t.execution_id = r.execution_id AND t.step = ''
  AND t.run = (SELECT m.run FROM {tasks} m WHERE m.execution_id = r.execution_id ORDER BY m.run, m.step LIMIT 1)
ORDER BY t.execution_id, t.run
{for_update};

-- name: statuses
SELECT e.id, e.status
FROM {rows entries: id text} AS r {join} {executions} e ON e.id = r.id;

-- name: delivered
SELECT v.delivery
FROM {rows entries: execution_id text, delivery text} AS r
{join} {events} v ON v.execution_id = r.execution_id AND v.delivery = r.delivery;

-- name: insert_events
INSERT INTO {events} (execution_id, sequence, delivery, name, payload, created_at)
SELECT r.execution_id, r.sequence, r.delivery, r.name, r.payload, {now}
FROM {rows entries: execution_id text, sequence int, delivery text, name text, payload text} AS r
WHERE true;

-- name: wake_tasks
UPDATE {tasks} AS t
SET wake_seq = t.wake_seq + r.amount,
    ready_at = CASE WHEN t.worker IS NULL AND t.pending >= 0 THEN coalesce(t.ready_at, {now}) ELSE t.ready_at END,
    due_at = CASE WHEN t.pending >= 0 THEN NULL ELSE t.due_at END
FROM {rows entries: execution_id text, run int, step text, amount int} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step;

-- name: due_tasks
SELECT execution_id, run, step FROM {tasks}
WHERE due_at IS NOT NULL AND due_at <= {now}
ORDER BY due_at LIMIT :amount {skip_locked};

-- name: ready_due_tasks
-- Ready from now on, not since they were due: claims go on from where the last one ended.
UPDATE {tasks} AS t SET ready_at = {now}, due_at = NULL, pending = 0
FROM {rows entries: execution_id text, run int, step text} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step AND t.due_at IS NOT NULL;

-- name: look
-- All that an idle worker asks: the time, the next sleeper, and whether there is work for it.
SELECT {now}, (SELECT min(d.due_at) FROM {tasks} d WHERE d.due_at IS NOT NULL),
       EXISTS (SELECT 1 FROM {rows wanted: queue text, task text} AS n
               {join} {tasks} t ON t.queue = n.queue AND t.task = n.task
               WHERE t.ready_at IS NOT NULL);

-- name: register_worker
INSERT INTO {workers} (id, host, process, concurrency, session_lock, locked_at, started_at, beat_at, expires_at)
SELECT :id, :host, :process, :concurrency, :session_lock, {now}, {now}, {now}, {now} + :lease;

-- name: beat
UPDATE {workers} SET beat_at = {now}, expires_at = {now} + :lease,
    session_lock = :session_lock, locked_at = CASE WHEN :relocked = 1 THEN {now} ELSE locked_at END
WHERE id = :id AND expires_at > beat_at;

-- name: list_workers
SELECT id, host, process, concurrency, session_lock, locked_at, started_at, beat_at, expires_at, {now}
FROM {workers} ORDER BY id;

-- name: lock_worker
-- One that is locked beats just now, or is being taken over from: neither is waited for.
SELECT id, expires_at, {now}, beat_at FROM {workers} WHERE id = :id {skip_locked};

-- name: entered_worker
SELECT id FROM {workers} WHERE id = :id;

-- name: condemn_worker
-- Some of its tasks are taken over and some are left: from now on a beat comes too late.
UPDATE {workers} SET expires_at = beat_at WHERE id = :id;

-- name: delete_worker
DELETE FROM {workers} WHERE id = :id;

-- name: worker_tasks
SELECT execution_id, run, step, epoch, wake_seq FROM {tasks} WHERE worker = :worker
ORDER BY execution_id, run, step;

-- name: some_worker_tasks
-- In no order: with one, a planner may read the whole table by its key. The caller orders them.
-- One that is locked is left for later: who holds the lock may hold it for ever.
SELECT execution_id, run, step FROM {tasks} WHERE worker = :worker LIMIT :amount {skip_locked};

-- name: any_worker_task
SELECT 1 FROM {tasks} WHERE worker = :worker LIMIT 1;

-- name: orphaned_workers
-- Owners without a row: a claim that was committed after its worker had been declared dead.
SELECT DISTINCT t.worker FROM {tasks} t
WHERE t.worker IS NOT NULL AND NOT EXISTS (SELECT 1 FROM {workers} w WHERE w.id = t.worker);

-- name: take_over_tasks
-- The empty text keeps the planner from the index of the worker, who has them all: it would go
-- through the whole batch for each of them. So each row of the batch finds its task by the key.
UPDATE {tasks} AS t
SET worker = NULL, ready_at = {now}, epoch = t.epoch + 1, crashes = t.crashes + :crashed
FROM {rows entries: execution_id text, run int, step text} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step AND (t.worker || '') = :worker;

-- name: give_back_tasks
-- A worker's own return: it says which claims, and no crash is counted. By the key, as above.
UPDATE {tasks} AS t
SET worker = NULL, ready_at = {now}, epoch = t.epoch + 1
FROM {rows entries: execution_id text, run int, step text, epoch int} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step AND t.epoch = r.epoch AND (t.worker || '') = :worker;

-- part: execution_row
SELECT e.id, e.task, e.queue, e.status, e.input, e.output, e.failure, e.run,
       coalesce(t.attempt, e.attempt), coalesce(t.crashes, e.crashes), e.priority, t.worker,
       e.parent_id, e.created_at, coalesce(e.started_at, t.started_at), e.finished_at, t.due_at,
       t.ready_at

-- part: listed
(e.created_at < :before_at OR (e.created_at = :before_at AND e.id < :before_id))
  AND (:task = '' OR e.task = :task)

-- name: get_executions
{execution_row}
FROM {rows entries: id text} AS r
{join} {executions} e ON e.id = r.id
LEFT JOIN {tasks} t ON t.execution_id = e.id AND t.run = e.run AND t.step = '';

-- name: list_executions
-- Newest first, from before the given place. Empty text means any; no status is of those alive.
{execution_row}
FROM {executions} e
LEFT JOIN {tasks} t ON t.execution_id = e.id AND t.run = e.run AND t.step = ''
WHERE {listed} AND (:status = '' OR e.status = :status)
ORDER BY e.created_at DESC, e.id DESC
LIMIT :amount;

-- name: list_failed
-- The same of those that failed, which an index tells where there is one of a part of the rows.
{execution_row}
FROM {executions} e
LEFT JOIN {tasks} t ON t.execution_id = e.id AND t.run = e.run AND t.step = ''
WHERE {listed} AND e.failure IS NOT NULL
ORDER BY e.created_at DESC, e.id DESC
LIMIT :amount;

-- name: list_alive
-- The same of a status of those alive: by their tasks, however many have ended. The sum keeps a
-- planner from going through all that has ended, in order, in the hope of meeting enough soon.
{execution_row}
FROM {tasks} t
{join} {executions} e ON e.id = t.execution_id AND e.run = t.run AND e.status IS NULL
WHERE t.step = '' AND {listed}
  AND ((:status = 'pending' AND t.ready_at IS NOT NULL)
       OR (:status = 'running' AND t.worker IS NOT NULL)
       OR (:status = 'waiting' AND t.ready_at IS NULL AND t.worker IS NULL))
ORDER BY e.created_at + 0 DESC, e.id DESC
LIMIT :amount;

-- name: open_waits
SELECT s.execution_id, s.kind, s.name
FROM {rows entries: id text, run int} AS r
{join} {steps} s ON s.execution_id = r.id AND s.run = r.run
WHERE s.outcome IS NULL AND s.kind <> 'loop'
ORDER BY s.execution_id, s.position;

-- name: open_retries
-- What is to be tried again, at a later time: steps, and with an empty name the run itself.
SELECT a.execution_id, a.step
FROM {rows entries: id text, run int} AS r
{join} {step_attempts} a ON a.execution_id = r.id AND a.run = r.run
WHERE a.retry_at > {now}
ORDER BY a.execution_id, a.step;

-- name: timeline_steps
SELECT name, kind, run, position, outcome, value, started_at, finished_at, due_at
FROM {steps} WHERE execution_id = :execution_id AND run = :run
ORDER BY position, name;

-- name: timeline_attempts
SELECT step, run_attempt, attempt, error, started_at, failed_at, retry_at
FROM {step_attempts} WHERE execution_id = :execution_id AND run = :run AND step <> ''
ORDER BY step, run_attempt, attempt;

-- name: run_attempts
SELECT step, run_attempt, attempt, error, started_at, failed_at, retry_at
FROM {step_attempts} WHERE execution_id = :execution_id AND run = :run AND step = ''
ORDER BY run_attempt, attempt;

-- name: results
SELECT e.id, e.status, e.output, e.failure
FROM {rows entries: id text} AS r
{join} {executions} e ON e.id = r.id;

-- name: lock_execution_row
SELECT id, task, queue, priority, status, output, failure, run, attempt, started_at, finished_at, input,
       parent_id, parent_run, parent_step
FROM {executions} AS t WHERE id = :id {for_update};

-- name: keep_run
INSERT INTO {runs} (execution_id, run, status, output, failure, attempt, started_at, finished_at)
SELECT e.id, e.run, coalesce(e.status, 'cancelled'), e.output, e.failure, e.attempt, e.started_at, coalesce(e.finished_at, {now})
FROM {executions} e WHERE e.id = :id;

-- name: begin_run
UPDATE {executions}
SET run = run + 1, status = NULL, output = NULL, failure = NULL, attempt = 1, crashes = 0,
    started_at = NULL, finished_at = NULL, seed = :seed
WHERE id = :id;

-- name: applied_migrations
SELECT number, name FROM {migrations};

-- name: lock_children
SELECT t.id, t.parent_id, t.parent_run, t.parent_step
FROM {rows entries: id text} AS r {join} {executions} t ON t.id = r.id
ORDER BY t.id
{for_update};

-- name: adopt_child
UPDATE {executions} SET parent_run = :run, parent_step = :step WHERE id = :id;

-- name: shift_tasks
-- For tests: what waits becomes due that much earlier.
UPDATE {tasks} SET due_at = due_at - :shift, started_at = started_at - :shift WHERE worker IS NULL;

-- name: shift_steps
UPDATE {steps} SET due_at = due_at - :shift WHERE outcome IS NULL;

-- name: shift_attempts
UPDATE {step_attempts} SET retry_at = retry_at - :shift, deadline_at = deadline_at - :shift;
