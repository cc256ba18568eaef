"""Marks that say on which databases a test runs."""

import pytest

from tests.databases import selected_kinds

__all__ = ["servers_only"]

servers_only = pytest.mark.parametrize(
    "database",
    [
        pytest.param(kind, marks=getattr(pytest.mark, kind))
        for kind in selected_kinds()
        if kind != "sqlite"
    ],
    indirect=True,
)
"""For a test of what a file cannot do: its `database` is on a server."""
