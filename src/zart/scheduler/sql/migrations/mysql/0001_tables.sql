-- Every statement is safe to repeat: a change of tables commits by itself here, so a migration
-- that was interrupted is begun again from its first statement. Names compare by code point.
CREATE TABLE IF NOT EXISTS {executions} (
    id           varchar(200) NOT NULL PRIMARY KEY,
    task         varchar(200) NOT NULL,
    queue        varchar(200) NOT NULL,
    priority     integer NOT NULL,
    input        longtext NOT NULL,
    status       varchar(20),         -- null while the execution is alive
    output       longtext,
    failure      longtext,
    run          integer NOT NULL,
    seed         bigint NOT NULL,
    attempt      integer NOT NULL DEFAULT 1,
    crashes      integer NOT NULL DEFAULT 0,
    parent_id    varchar(200),
    parent_run   integer,
    parent_step  varchar(500),
    created_at   bigint NOT NULL,
    started_at   bigint,
    finished_at  bigint,
    INDEX {executions}_created (created_at, id)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- The runs that a restart has superseded; the current one is the execution's own row.
CREATE TABLE IF NOT EXISTS {runs} (
    execution_id varchar(200) NOT NULL,
    run          integer NOT NULL,
    status       varchar(20) NOT NULL,
    output       longtext,
    failure      longtext,
    attempt      integer NOT NULL,
    started_at   bigint,
    finished_at  bigint,
    PRIMARY KEY (execution_id, run)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {steps} (
    execution_id varchar(200) NOT NULL,
    run          integer NOT NULL,
    name         varchar(500) NOT NULL,
    kind         varchar(20) NOT NULL,
    position     integer NOT NULL,
    outcome      varchar(20),         -- null until it ends
    value        longtext,
    due_at       bigint,
    started_at   bigint,
    finished_at  bigint,
    PRIMARY KEY (execution_id, run, name)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Failed attempts only; step is empty for an attempt at the whole run.
CREATE TABLE IF NOT EXISTS {step_attempts} (
    execution_id varchar(200) NOT NULL,
    run          integer NOT NULL,
    step         varchar(500) NOT NULL,
    run_attempt  integer NOT NULL,
    attempt      integer NOT NULL,
    error        longtext NOT NULL,
    retry_at     bigint NOT NULL,
    deadline_at  bigint,
    started_at   bigint,
    failed_at    bigint NOT NULL,
    PRIMARY KEY (execution_id, run, step, run_attempt, attempt)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

-- Hot: one row for each live execution (step is empty) or distributed step. At most one of
-- worker (claimed), ready_at (can be claimed) and due_at (sleeps) is set, or none (waits).
-- pending counts the children that a parked task waits for; -1: only due_at may wake it.
--
-- There are no partial indexes here: ready_task is null unless the row is ready, so that a million
-- waiting rows stand apart in the index that claims read. touched is changed by a fence whose flush
-- changes nothing else of the row.
CREATE TABLE IF NOT EXISTS {tasks} (
    execution_id varchar(200) NOT NULL,
    run          integer NOT NULL,
    step         varchar(500) NOT NULL,
    queue        varchar(200) NOT NULL,
    task         varchar(200) NOT NULL,
    priority     integer NOT NULL,
    ready_at     bigint,
    due_at       bigint,
    worker       varchar(200),
    epoch        bigint NOT NULL DEFAULT 0,
    wake_seq     bigint NOT NULL DEFAULT 0,
    pending      integer NOT NULL DEFAULT 0,
    attempt      integer NOT NULL DEFAULT 1,
    crashes      integer NOT NULL DEFAULT 0,
    started_at   bigint,
    input        longtext,
    touched      bigint NOT NULL DEFAULT 0,
    ready_task   varchar(200) AS (CASE WHEN ready_at IS NOT NULL THEN task END) STORED,
    PRIMARY KEY (execution_id, run, step),
    INDEX {tasks}_ready (queue, ready_task, priority, ready_at),
    INDEX {tasks}_due (due_at),
    INDEX {tasks}_worker (worker)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {events} (
    execution_id varchar(200) NOT NULL,
    sequence     bigint NOT NULL,     -- the task's wake sequence when it was delivered
    delivery     varchar(200) NOT NULL, -- tells a repeated delivery from a second event
    name         varchar(200) NOT NULL,
    payload      longtext NOT NULL,
    taken_by     varchar(500),
    created_at   bigint NOT NULL,
    PRIMARY KEY (execution_id, sequence)
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;

CREATE TABLE IF NOT EXISTS {workers} (
    id           varchar(200) NOT NULL PRIMARY KEY,
    host         varchar(255) NOT NULL,
    process      integer NOT NULL,
    concurrency  integer NOT NULL,
    session_lock bigint,              -- held by the heartbeat's session; null where none tells
    locked_at    bigint,
    started_at   bigint NOT NULL,
    beat_at      bigint NOT NULL,
    expires_at   bigint NOT NULL
) ENGINE = InnoDB ROW_FORMAT = DYNAMIC CHARACTER SET utf8mb4 COLLATE utf8mb4_bin;
