"""A database that is away: each call says so by the same error, and which database it means."""

from __future__ import annotations

from pathlib import Path

import pytest

import zart
from zart.scheduler.sql.hosts import address


@pytest.mark.parametrize(
    ("url", "named"),
    [
        ("postgresql://ada:s3cret@127.0.0.1:1/shop", "127.0.0.1:1/shop"),
        ("mysql://ada:s3cret@127.0.0.1:1/shop", "127.0.0.1:1/shop"),
        ("sqlite:///{folder}/none/shop.db", "there is no folder {folder}/none"),
    ],
)
async def test_a_migration_says_which_database_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str, named: str
) -> None:
    """As every call does, with the driver's own error as its cause and without the password."""
    monkeypatch.setattr("zart.scheduler.sql.database.PATIENCE", 0.0)
    async with zart.connect(url.format(folder=tmp_path)) as scheduler:
        with pytest.raises(zart.DatabaseUnavailableError) as away:
            await scheduler.migrate()
    assert named.format(folder=tmp_path) in str(away.value)
    assert "s3cret" not in str(away.value)
    assert away.value.__cause__ is not None


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("postgresql://ada:pw@db-1:5432,db-2/shop?application_name=x", "db-1:5432,db-2/shop"),
        ("postgresql://db/shop?password=p@w", "db/shop"),
        ("mysql://ada:p/w#@q?r@db/shop", "db/shop"),
        ("postgresql:///shop?host=/run", "/shop"),
    ],
)
def test_an_address_has_no_secret(url: str, shown: str) -> None:
    """However badly the URL is written."""
    assert address(url) == shown
