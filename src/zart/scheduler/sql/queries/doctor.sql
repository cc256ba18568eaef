-- What an examination asks of every database. It is asked by hand, and may read what there is.

-- name: doctor_now
SELECT {now};

-- name: doctor_migrations
SELECT number FROM {migrations};

-- name: doctor_live
SELECT count(*) FROM {tasks} WHERE step = '';

-- name: doctor_ready
-- What can be claimed, by name, with the time of the oldest.
SELECT queue, task, count(*), min(ready_at) FROM {tasks}
WHERE ready_at IS NOT NULL
GROUP BY queue, task
ORDER BY min(ready_at)
LIMIT :amount;

-- name: doctor_running
SELECT worker, queue, task, count(*) FROM {tasks}
WHERE worker IS NOT NULL
GROUP BY worker, queue, task;
