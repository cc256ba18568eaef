-- What SQLite says differently from portable.sql, each with its reason.

-- name: take_over_tasks
-- The plus keeps the planner from the index of the worker, who has them all: for each of them it
-- would go through the whole batch. So each row of the batch finds its task by the key.
UPDATE {tasks} AS t
SET worker = NULL, ready_at = {now}, epoch = t.epoch + 1, crashes = t.crashes + :crashed
FROM {rows entries: execution_id text, run int, step text} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step AND +t.worker = :worker;

-- name: give_back_tasks
-- The plus: as in `take_over_tasks`.
UPDATE {tasks} AS t
SET worker = NULL, ready_at = {now}, epoch = t.epoch + 1
FROM {rows entries: execution_id text, run int, step text, epoch int} AS r
WHERE t.execution_id = r.execution_id AND t.run = r.run AND t.step = r.step AND t.epoch = r.epoch AND +t.worker = :worker;
