-- What MySQL and MariaDB say differently from portable.sql.
--
-- A batch is a JSON_TABLE, which has no statistics: STRAIGHT_JOIN says that it comes first, so that
-- rows are found by their keys and locked in the batch's order. An update or delete by a batch is a
-- join, which locks what it reads: of a small table the server would read every row, and wait for
-- each that somebody else has locked, so FORCE INDEX says to read by the key. Assignments run from
-- left to right and see what those before them have set: a column that others depend on is assigned
-- last. VALUES() is deprecated on MySQL and the row alias of its upsert is unknown to MariaDB;
-- columns of the INSERT's SELECT serve both.
--
-- An update by a join keeps what it is to change in a temporary table, with keys as long as they may
-- be, and finds each row a second time: 20 us a row. An upsert has none of that. So rows that this
-- transaction has locked before, which are there, are changed by an upsert that inserts nothing; its
-- names, empty, are never written.

-- name: insert_executions
-- An id that is there already is an error, which `execute` counts as no row: the count of an upsert
-- cannot tell inserted rows from others.
INSERT INTO {executions} (id, task, queue, priority, input, run, seed, parent_id, parent_run, parent_step, created_at)
SELECT r.id, r.task, r.queue, r.priority, r.input, 1, r.seed, r.parent_id, r.parent_run, r.parent_step, {now}
FROM {rows entries: id text, task text, queue text, priority int, input text, seed int, parent_id text, parent_run int, parent_step text} AS r;

-- name: insert_tasks
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority, ready_at, due_at, pending, worker, epoch, started_at)
SELECT r.execution_id, r.run, '', r.queue, r.task, r.priority,
       CASE WHEN r.delay IS NULL AND r.due_at IS NULL AND r.worker IS NULL THEN {now} END,
       coalesce(r.due_at, {now} + r.delay),
       CASE WHEN r.delay IS NULL AND r.due_at IS NULL THEN 0 ELSE -1 END,
       r.worker, r.epoch, CASE WHEN r.worker IS NOT NULL THEN {now} END
FROM {rows entries: execution_id text, run int, queue text, task text, priority int, delay int, due_at int, worker text, epoch int} AS r
ON DUPLICATE KEY UPDATE {tasks}.epoch = {tasks}.epoch;

-- name: insert_distributed
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority, ready_at, input)
SELECT r.execution_id, r.run, r.step, r.queue, r.task, r.priority, {now}, r.input
FROM {rows entries: execution_id text, run int, step text, queue text, task text, priority int, input text} AS r
STRAIGHT_JOIN {steps} s ON s.execution_id = r.execution_id AND s.run = r.run AND s.name = r.step
WHERE s.outcome IS NULL
ON DUPLICATE KEY UPDATE {tasks}.epoch = {tasks}.epoch;

-- name: claim_tasks
-- Locked by `ready_tasks`.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority)
SELECT r.execution_id, r.run, r.step, '', '', 0
FROM {rows entries: execution_id text, run int, step text} AS r
ON DUPLICATE KEY UPDATE
    {tasks}.worker = :worker, {tasks}.epoch = {tasks}.epoch + :stride, {tasks}.ready_at = NULL,
    {tasks}.due_at = NULL, {tasks}.started_at = coalesce({tasks}.started_at, {now});

-- name: ready_names
-- Those of a worker's names that have something ready, with the head of each: the probes that
-- lock are made for these alone.
SELECT n.queue, n.task,
       (SELECT h.priority FROM {tasks} h WHERE h.queue = n.queue AND h.ready_task = n.task
        ORDER BY h.priority, h.ready_at LIMIT 1) AS priority,
       (SELECT h.ready_at FROM {tasks} h WHERE h.queue = n.queue AND h.ready_task = n.task
        ORDER BY h.priority, h.ready_at LIMIT 1) AS ready_at
FROM {rows names: queue text, task text} AS n
HAVING priority IS NOT NULL AND ready_at IS NOT NULL;

-- name: ready_tasks
-- One name: a locking read locks what it scans, so its order must be the index's, and MariaDB has
-- no lateral join to say that for several names.
SELECT execution_id, run, step, queue, task, priority, ready_at FROM {tasks}
WHERE queue = :queue AND ready_task = :task AND priority BETWEEN :low AND :high
ORDER BY priority, ready_at
LIMIT :amount {skip_locked};

-- name: ready_tasks_since
-- One priority, from a time on. Said with BETWEEN, MariaDB would sort what it has locked.
SELECT execution_id, run, step, queue, task, priority, ready_at FROM {tasks}
WHERE queue = :queue AND ready_task = :task AND priority = :low AND ready_at >= :since
ORDER BY priority, ready_at
LIMIT :amount {skip_locked};

-- name: lock_executions
SELECT t.execution_id, t.run, t.wake_seq
FROM {rows entries: execution_id text} AS r
STRAIGHT_JOIN {tasks} t FORCE INDEX (PRIMARY) ON t.execution_id = r.execution_id AND t.step = ''
  AND t.run = (SELECT m.run FROM {tasks} m FORCE INDEX (PRIMARY) WHERE m.execution_id = r.execution_id ORDER BY m.run, m.step LIMIT 1)
ORDER BY t.execution_id, t.run
{for_update};

-- name: touch_tasks
-- What the fence has locked and nothing else of its flush changes is changed here: Galera replicates
-- changes and not locks, so this is what a claim on another node collides with.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority)
SELECT r.execution_id, r.run, r.step, '', '', 0
FROM {rows entries: execution_id text, run int, step text} AS r
ON DUPLICATE KEY UPDATE
    {tasks}.touched = {tasks}.touched + 1;

-- name: fence
SELECT t.execution_id, t.run, t.step, t.epoch, t.wake_seq
FROM {rows entries: execution_id text, run int, step text, epoch int} AS r
STRAIGHT_JOIN {tasks} t FORCE INDEX (PRIMARY) ON t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step
{for_update};

-- name: record_steps
-- The outcome is assigned last: it decides whether the others change.
INSERT INTO {steps} (execution_id, run, name, kind, position, outcome, value, due_at, started_at, finished_at)
SELECT r.execution_id, r.run, r.name, r.kind, r.position, r.outcome, r.value, r.due_at, r.started_at,
       CASE WHEN r.outcome IS NOT NULL THEN {now} END
FROM {rows entries: execution_id text, run int, name text, kind text, position int, outcome text, value text, due_at int, started_at int} AS r
ON DUPLICATE KEY UPDATE
    {steps}.value = IF({steps}.outcome IS NULL, r.value, {steps}.value),
    {steps}.started_at = IF({steps}.outcome IS NULL, coalesce({steps}.started_at, r.started_at), {steps}.started_at),
    {steps}.finished_at = IF({steps}.outcome IS NULL AND r.outcome IS NOT NULL, {now}, {steps}.finished_at),
    {steps}.outcome = coalesce({steps}.outcome, r.outcome);

-- name: end_steps
UPDATE {rows entries: execution_id text, run int, name text, kind text, position int, outcome text, value text, due_at int, started_at int} AS r
STRAIGHT_JOIN {steps} s FORCE INDEX (PRIMARY) ON s.execution_id = r.execution_id AND s.run = r.run AND s.name = r.name
SET s.outcome = r.outcome, s.value = r.value, s.finished_at = {now},
    s.started_at = coalesce(s.started_at, r.started_at)
WHERE s.outcome IS NULL;

-- name: record_attempts
INSERT INTO {step_attempts} (execution_id, run, step, run_attempt, attempt, error, retry_at, deadline_at, started_at, failed_at)
SELECT r.execution_id, r.run, r.step, r.run_attempt, r.attempt, r.error, r.retry_at, r.deadline_at, r.started_at, {now}
FROM {rows entries: execution_id text, run int, step text, run_attempt int, attempt int, error text, retry_at int, deadline_at int, started_at int} AS r
ON DUPLICATE KEY UPDATE {step_attempts}.attempt = {step_attempts}.attempt;

-- name: take_events
UPDATE {rows entries: execution_id text, sequence int, taken_by text} AS r
STRAIGHT_JOIN {events} v FORCE INDEX (PRIMARY) ON v.execution_id = r.execution_id AND v.sequence = r.sequence
SET v.taken_by = r.taken_by;

-- name: erase_steps
DELETE s FROM {rows entries: execution_id text, run int, name text} AS r
STRAIGHT_JOIN {steps} AS s FORCE INDEX (PRIMARY) ON s.execution_id = r.execution_id AND s.run = r.run AND s.name = r.name;

-- name: erase_attempts
DELETE a FROM {rows entries: execution_id text, run int, name text} AS r
STRAIGHT_JOIN {step_attempts} AS a FORCE INDEX (PRIMARY) ON a.execution_id = r.execution_id AND a.run = r.run AND a.step = r.name;

-- name: erase_taken_events
DELETE v FROM {rows entries: execution_id text, run int, name text} AS r
STRAIGHT_JOIN {events} AS v FORCE INDEX (PRIMARY) ON v.execution_id = r.execution_id AND v.taken_by = r.name;

-- name: park_tasks
-- Locked by the fence.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority)
SELECT r.execution_id, r.run, r.step, '', '', 0
FROM {rows entries: execution_id text, run int, step text, wake_seq int, ready int, due_at int, pending int, attempt int} AS r
ON DUPLICATE KEY UPDATE
    {tasks}.worker = NULL, {tasks}.pending = r.pending, {tasks}.attempt = r.attempt,
    {tasks}.ready_at = CASE WHEN r.ready = 1 OR (r.pending >= 0 AND {tasks}.wake_seq <> r.wake_seq) THEN {now} END,
    {tasks}.due_at = CASE WHEN r.ready = 1 OR (r.pending >= 0 AND {tasks}.wake_seq <> r.wake_seq) THEN NULL ELSE r.due_at END;

-- name: finish_executions
-- Not locked before: the join is for one that was deleted by hand, which is not to be there again.
INSERT INTO {executions} (id, task, queue, priority, input, run, seed, created_at)
SELECT e.id, '', '', 0, '', 1, 0, 0
FROM {rows entries: execution_id text, status text, output text, failure text, attempt int, crashes int, started_at int} AS r
STRAIGHT_JOIN {executions} e FORCE INDEX (PRIMARY) ON e.id = r.execution_id
ON DUPLICATE KEY UPDATE
    {executions}.status = r.status, {executions}.output = r.output, {executions}.failure = r.failure,
    {executions}.attempt = r.attempt, {executions}.crashes = r.crashes,
    {executions}.started_at = r.started_at, {executions}.finished_at = {now};

-- name: delete_tasks
DELETE t FROM {rows entries: execution_id text, run int, step text} AS r
STRAIGHT_JOIN {tasks} AS t FORCE INDEX (PRIMARY) ON t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step;

-- name: delete_task_group
DELETE t FROM {rows entries: execution_id text} AS r
STRAIGHT_JOIN {tasks} AS t FORCE INDEX (PRIMARY) ON t.execution_id = r.execution_id;

-- name: delete_events
DELETE v FROM {rows entries: execution_id text} AS r
STRAIGHT_JOIN {events} AS v FORCE INDEX (PRIMARY) ON v.execution_id = r.execution_id;

-- name: cancel_open_steps
UPDATE {rows entries: execution_id text, run int} AS r
STRAIGHT_JOIN {steps} s FORCE INDEX (PRIMARY) ON s.execution_id = r.execution_id AND s.run = r.run
SET s.outcome = 'cancelled', s.finished_at = {now}
WHERE s.outcome IS NULL AND s.kind IN ('sleep', 'event', 'distributed');

-- name: count_down
UPDATE {rows entries: execution_id text, run int, step text, ended int, failed int} AS r
STRAIGHT_JOIN {tasks} t FORCE INDEX (PRIMARY) ON t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step
SET t.ready_at = CASE WHEN t.worker IS NULL AND t.pending >= 0 AND (t.pending <= r.ended OR r.failed = 1) THEN coalesce(t.ready_at, {now}) ELSE t.ready_at END,
    t.due_at = CASE WHEN t.worker IS NULL AND t.pending >= 0 AND (t.pending <= r.ended OR r.failed = 1) THEN NULL ELSE t.due_at END,
    t.wake_seq = t.wake_seq + r.ended, t.pending = t.pending - r.ended;

-- name: wake_tasks
-- Locked by `lock_executions`.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority)
SELECT r.execution_id, r.run, r.step, '', '', 0
FROM {rows entries: execution_id text, run int, step text, amount int} AS r
ON DUPLICATE KEY UPDATE
    {tasks}.wake_seq = {tasks}.wake_seq + r.amount,
    {tasks}.ready_at = CASE WHEN {tasks}.worker IS NULL AND {tasks}.pending >= 0 THEN coalesce({tasks}.ready_at, {now}) ELSE {tasks}.ready_at END,
    {tasks}.due_at = CASE WHEN {tasks}.pending >= 0 THEN NULL ELSE {tasks}.due_at END;

-- name: ready_due_tasks
-- Locked by `due_tasks`.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority)
SELECT r.execution_id, r.run, r.step, '', '', 0
FROM {rows entries: execution_id text, run int, step text} AS r
ON DUPLICATE KEY UPDATE
    {tasks}.ready_at = {now}, {tasks}.pending = 0, {tasks}.due_at = NULL;

-- name: look
-- The first of the index: over min() the server may read all that sleep.
SELECT {now}, (SELECT d.due_at FROM {tasks} d WHERE d.due_at IS NOT NULL ORDER BY d.due_at LIMIT 1),
       EXISTS (SELECT 1 FROM {rows wanted: queue text, task text} AS n
               STRAIGHT_JOIN {tasks} t ON t.queue = n.queue AND t.ready_task = n.task);

-- name: take_over_tasks
-- Locked by `some_worker_tasks`.
INSERT INTO {tasks} (execution_id, run, step, queue, task, priority)
SELECT r.execution_id, r.run, r.step, '', '', 0
FROM {rows entries: execution_id text, run int, step text} AS r
ON DUPLICATE KEY UPDATE
    {tasks}.worker = NULL, {tasks}.ready_at = {now}, {tasks}.epoch = {tasks}.epoch + 1,
    {tasks}.crashes = {tasks}.crashes + :crashed;

-- name: give_back_tasks
UPDATE {rows entries: execution_id text, run int, step text, epoch int} AS r
STRAIGHT_JOIN {tasks} t FORCE INDEX (PRIMARY) ON t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step
SET t.worker = NULL, t.ready_at = {now}, t.epoch = t.epoch + 1
WHERE t.epoch = r.epoch AND t.worker = :worker;
