"""A MySQL URL as the arguments of `asyncmy.connect`."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

__all__ = ["arguments"]

_FORM = "mysql://user:password@host:3306/database"


def arguments(url: str) -> dict[str, Any]:
    """What the URL says; every part may be percent-encoded. Raises ValueError with the mend.

    After a ``?`` it may say ``unix_socket``, ``connect_timeout`` in seconds, and ``ssl=true`` or
    ``ssl_ca`` with a file's path.
    """
    parts = urlsplit(url)
    database = unquote(parts.path.strip("/"))
    if not database:
        raise ValueError(f"the MySQL URL names no database: write {_FORM}")
    return {
        "host": parts.hostname or "127.0.0.1",
        "port": parts.port or 3306,
        "user": unquote(parts.username or "root"),
        "password": unquote(parts.password or "").encode(),
        "database": database,
        **_extras(parts.query),
    }


def _extras(query: str) -> dict[str, Any]:
    extras: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        match name:
            case "unix_socket":
                extras["unix_socket"] = value
            case "connect_timeout":
                extras["connect_timeout"] = float(value)
            case "ssl" if value.lower() in ("true", "1"):
                extras.setdefault("ssl", True)
            case "ssl_ca":
                extras["ssl"] = {"ca": value}
            case _:
                raise ValueError(
                    f"the MySQL URL has {name}={value}, which zart does not know: it takes"
                    " unix_socket, connect_timeout, ssl=true and ssl_ca; give anything else in"
                    " options="
                )
    return extras
