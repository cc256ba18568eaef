"""zart's types as a user sees them: checked by mypy and pyright, never run."""
