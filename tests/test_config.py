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
        ({"lease": 1e300}, "at most a day"),
    ],
)
def test_a_worker_s_config_is_checked_as_it_is_made(settings: dict[str, Any], said: str) -> None:
    """A setting that cannot work names itself and what it takes."""
    with pytest.raises((TypeError, ValueError), match=said):
        zart.WorkerConfig(**settings)


def test_queues_may_be_any_collection_and_are_kept_as_a_tuple() -> None:
    """Each counts once, and the config stays hashable."""
    queues: Any = ["mail", "default", "mail"]
    config = zart.WorkerConfig(queues=queues)
    assert config.queues == ("mail", "default")
    assert hash(config) == hash(zart.WorkerConfig(queues=("mail", "default")))
