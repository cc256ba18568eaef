"""What a worker and a scheduler are told is checked as it is said, not when it is first used."""

from __future__ import annotations

from typing import Any

import pytest

import zart


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"queues": "mail"}, r"tuple of names, not 'mail': write queues=\('mail',\)"),
        ({"queues": ()}, "without queues has nothing to do"),
        ({"queues": None}, "tuple of names, not None"),
        ({"queues": ("mail", 7)}, "a queue's name must be a str"),
        ({"concurrency": 0}, "concurrency is a whole number from 1 on, not 0"),
        ({"concurrency": 2.5}, "not 2.5"),
        ({"concurrency": "10"}, "not '10'"),
        ({"concurrency": True}, "not True"),
        ({"concurrency": 2**31}, "not 2147483648"),
        ({"max_crashes": -1}, "max_crashes is a whole number from 0 on, not -1"),
        ({"max_crashes": None}, "not None"),
        ({"poll_interval": "soon"}, "poll_interval 'soon' cannot be read"),
        ({"poll_interval": 0}, "poll_interval 0 is no pause"),
        ({"poll_interval": "0s"}, "poll_interval '0s' is no pause"),
        ({"shutdown_timeout": "soon"}, "shutdown_timeout 'soon' cannot be read"),
        ({"shutdown_timeout": None}, "shutdown_timeout None cannot be read"),
        ({"beat": 0}, "beat 0 is no pause"),
        ({"lease": "9s"}, "lease '9s' with beat '5s'"),
        ({"beat": "100ms", "lease": "300ms"}, "lease '300ms' is out of bounds"),
        ({"lease": "2d"}, "at most a day"),
    ],
)
def test_a_worker_s_config_is_checked_as_it_is_made(settings: dict[str, Any], said: str) -> None:
    """A setting that cannot work names itself and what it takes."""
    with pytest.raises((TypeError, ValueError), match=said):
        zart.WorkerConfig(**settings)


def test_queues_may_be_any_collection_and_are_kept_as_a_tuple() -> None:
    """Each counts once, and the config stays hashable."""
    config = zart.WorkerConfig(queues=["mail", "default", "mail"])
    assert config.queues == ("mail", "default")
    assert hash(config) == hash(zart.WorkerConfig(queues=("mail", "default")))


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("sqlite:///:memory:", "is no file: each connection would have a database in memory"),
        ("sqlite:///file::memory:", "is no file"),
        ("sqlite:///file:shop.db", "a URL of SQLite's own"),
        ("sqlite:///shop.db?mode=ro", "has a [?], .* write it as %3F"),
        ("sqlite:///shop.db#1", "has a #, .* write it as %23"),
        ("sqlite://var/shop.db", "names no file"),
        ("sqlite:/var/shop.db", "names no file"),
        ("mysql://db/shop?ssl=maybe", "write ssl=true or ssl=false"),
        ("mysql://db/shop?charset=latin1", "zart speaks utf8mb4"),
        ("mysql://db/shop?connect_timeout=soon", "a number of seconds above 0"),
        ("mysql://db/shop?connect_timeout=0", "a number of seconds above 0"),
        ("mysql://db/shop?pasword=s3cret", "has pasword=, which zart does not know"),
    ],
)
async def test_a_url_with_what_zart_does_not_know_is_refused(url: str, said: str) -> None:
    """Nothing of it is passed over, and no value that may be a secret is shown."""
    with pytest.raises(ValueError, match=said) as refused:
        await zart.connect(url)
    assert "s3cret" not in str(refused.value)


async def test_a_mysql_url_may_say_what_is_so_anyway() -> None:
    """As other libraries want it said."""
    await (await zart.connect("mysql://db/shop?ssl=false&charset=utf8mb4")).close()


@pytest.mark.parametrize("url", ["postgresql://db/shop", "mysql://db/shop", "sqlite:///shop.db"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"max_payload": 0}, "max_payload is a whole number of bytes, not 0"),
        ({"max_payload": "1MB"}, "not '1MB'"),
        ({"serializer": {}}, r"serializer is a zart.Serializer\(codecs\), not {}"),
        ({"registry": [1]}, r"registry is a zart.TaskRegistry\(tasks\), not \[1\]"),
        ({"prefix": 3}, "prefix 3 cannot be part of a table name"),
        ({"conections": 3}, "there is no option 'conections': .* takes prefix, "),
    ],
)
async def test_an_option_of_connect_is_checked(url: str, option: Any, said: str) -> None:
    """Before anything is written that it would have to do with."""
    with pytest.raises((TypeError, ValueError), match=said):
        await zart.connect(url, **option)


@pytest.mark.parametrize("url", ["postgresql://db/shop", "mysql://db/shop"])
@pytest.mark.parametrize(
    ("option", "said"),
    [
        ({"connections": 0}, "connections is a whole number from 1 on, not 0"),
        ({"connections": "4"}, "not '4'"),
        ({"answer_timeout": 0}, "leaves no time for an answer"),
        ({"answer_timeout": "soon"}, "answer_timeout 'soon' cannot be read"),
        ({"options": 3}, "a dict of the driver's arguments, not 3"),
    ],
)
async def test_an_option_of_servers_is_checked(url: str, option: Any, said: str) -> None:
    """And where there is no server, the error tells who has the option."""
    with pytest.raises((TypeError, ValueError), match=said):
        await zart.connect(url, **option)
    with pytest.raises(TypeError, match=r"SqliteScheduler has no .* postgresql, .* mariadb"):
        zart.connect("sqlite:///shop.db", **option)


def test_a_url_is_text() -> None:
    """An environment variable that is not set is the usual reason."""
    url: Any = None
    with pytest.raises(TypeError, match="a database's URL is text, not None"):
        zart.connect(url)
