-- What an examination asks of MySQL and MariaDB alone.

-- name: doctor_server
SELECT VERSION(), @@GLOBAL.read_only;

-- name: doctor_settings
SHOW GLOBAL VARIABLES WHERE Variable_name IN
('innodb_doublewrite', 'innodb_flush_log_at_trx_commit', 'innodb_flush_method', 'log_bin', 'sync_binlog', 'transaction_isolation', 'tx_isolation', 'wsrep_on');

-- name: doctor_snapshots
-- Open transactions: whatever was changed since the oldest began is kept as history.
SELECT trx_mysql_thread_id, trx_state, TIMESTAMPDIFF(SECOND, trx_started, NOW())
FROM information_schema.innodb_trx
WHERE trx_mysql_thread_id <> CONNECTION_ID()
ORDER BY trx_started
LIMIT 20;

-- name: doctor_history
-- Changes that are kept for transactions that may still look at what was before.
SELECT `COUNT` FROM information_schema.innodb_metrics WHERE name = 'trx_rseg_history_len';
