-- What an examination asks of SQLite alone.

-- name: doctor_server
SELECT sqlite_version();

-- name: doctor_journal
PRAGMA journal_mode;

-- name: doctor_synchronous
PRAGMA synchronous;
