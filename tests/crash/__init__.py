"""Real worker processes, real signals, and a ledger outside the database that tells what ran."""
