-- What an examination asks of PostgreSQL alone.

-- name: doctor_server
SELECT current_setting('server_version_num')::int, current_setting('server_version'), pg_is_in_recovery();

-- name: doctor_settings
SELECT name, setting FROM pg_settings
WHERE name IN ('autovacuum', 'fsync', 'full_page_writes', 'synchronous_commit',
               'synchronous_standby_names', 'track_counts');

-- name: doctor_snapshots
-- Whatever keeps dead rows of this database's tables from being removed, the oldest first. A
-- transaction of another database does not; a replication slot has no time, only an age.
SELECT 'transaction', pid::text, concat_ws(', ', nullif(application_name, ''), usename::text, state),
       extract(epoch FROM clock_timestamp() - xact_start)::float8, age(coalesce(backend_xmin, backend_xid))::bigint
FROM pg_stat_activity
WHERE (backend_xmin IS NOT NULL OR backend_xid IS NOT NULL) AND pid <> pg_backend_pid()
  AND (datname = current_database() OR backend_type = 'walsender') AND backend_type <> 'autovacuum worker'
UNION ALL
SELECT 'prepared transaction', gid, owner::text, extract(epoch FROM clock_timestamp() - prepared)::float8,
       age(transaction)::bigint
FROM pg_prepared_xacts WHERE database = current_database()
UNION ALL
SELECT 'replication slot', slot_name::text, CASE WHEN active THEN 'active' ELSE 'inactive' END, NULL, age(xmin)::bigint
FROM pg_replication_slots WHERE xmin IS NOT NULL
ORDER BY 4 DESC NULLS LAST, 5 DESC
LIMIT 20;

-- name: doctor_dead_rows
SELECT c.relname::text, coalesce(s.n_live_tup, 0), coalesce(s.n_dead_tup, 0),
       coalesce(array_to_string(c.reloptions, ','), ''), pg_total_relation_size(c.oid)
FROM {rows tables: name text} AS r
JOIN pg_class c ON c.oid = to_regclass(r.name)
LEFT JOIN pg_stat_user_tables s ON s.relid = c.oid
ORDER BY 3 DESC;
