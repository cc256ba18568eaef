"""A MySQL URL as the arguments of `asyncmy.connect`."""

from __future__ import annotations

import math
from typing import Any
from urllib.parse import parse_qsl, unquote, urlsplit

from zart.scheduler.sql.mysql_hosts import Host

__all__ = ["arguments", "hosts"]

_FORM = "mysql://user:password@host:3306/database"
PORT = 3306


def hosts(url: str) -> list[Host]:
    """The servers that the URL names, one or several with commas between them."""
    places = urlsplit(url).netloc.rpartition("@")[2].split(",")
    if len(places) > 1 and not all(places):
        raise ValueError(
            "the MySQL URL has an empty place among its hosts: write"
            " mysql://user:password@db-1:3306,db-2:3306/database"
        )
    return [_host(place) for place in places]


def _host(place: str) -> Host:
    parts = urlsplit(f"//{place}")
    return parts.hostname or "127.0.0.1", parts.port or PORT


def arguments(url: str) -> dict[str, Any]:
    """What the URL says besides its hosts; every part may be percent-encoded.

    Raises ValueError with the mend.

    After a ``?`` it may say ``unix_socket``, ``connect_timeout`` in seconds, ``ssl`` true or false,
    ``ssl_ca`` with a file's path, and ``charset=utf8mb4``, which it is anyway.
    """
    parts = urlsplit(url)
    database = unquote(parts.path.strip("/"))
    if not database:
        raise ValueError(f"the MySQL URL names no database: write {_FORM}")
    return {
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
                extras["connect_timeout"] = _seconds(value)
            case "ssl" if value.lower() in ("true", "1"):
                extras.setdefault("ssl", True)
            case "ssl" if value.lower() in ("false", "0"):
                pass
            case "ssl":
                raise ValueError(f"the MySQL URL has ssl={value}: write ssl=true or ssl=false")
            case "ssl_ca":
                extras["ssl"] = {"ca": value}
            case "charset" if value.lower() == "utf8mb4":
                pass  # what zart speaks anyway
            case "charset":
                raise ValueError(
                    f"the MySQL URL has charset={value}: zart speaks utf8mb4, so that every text"
                    " is stored as it is; leave it out"
                )
            case _:
                raise ValueError(
                    f"the MySQL URL has {name}=, which zart does not know: it takes unix_socket,"
                    " connect_timeout, ssl, ssl_ca and charset=utf8mb4; give anything else in"
                    " options="
                )
    return extras


def _seconds(value: str) -> float:
    try:
        length = float(value)
    except ValueError:
        length = 0.0
    if not 0 < length < math.inf:
        raise ValueError(
            f"the MySQL URL has connect_timeout={value}: write a number of seconds above 0"
        )
    return length
