"""The contract of a backend, as tests: every guarantee of the design by its number.

To run it against a backend of your own, give a ``backend`` fixture (`harness.Backend`) and collect
the classes::

    from zart.testing.conformance import *  # noqa: F403

    @pytest.fixture
    def backend(tmp_path): return MyBackend(tmp_path)

It needs pytest and pytest-asyncio. With ``--strict-markers``, register ``guarantee(*numbers)``.
"""

import pytest

# Before the imports, so that a failed assert shows what was compared.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{part}"
        for part in (
            "beginning",
            "branches",
            "fanout",
            "loops",
            "ownership",
            "refusals",
            "retries",
            "scheduling",
            "steps",
            "transactions",
            "waiting",
        )
    )
)

from zart.testing.conformance import (  # noqa: E402
    beginning,
    branches,
    fanout,
    loops,
    ownership,
    refusals,
    retries,
    scheduling,
    steps,
    transactions,
    waiting,
)
from zart.testing.conformance.beginning import *  # noqa: E402, F403
from zart.testing.conformance.branches import *  # noqa: E402, F403
from zart.testing.conformance.fanout import *  # noqa: E402, F403
from zart.testing.conformance.loops import *  # noqa: E402, F403
from zart.testing.conformance.ownership import *  # noqa: E402, F403
from zart.testing.conformance.refusals import *  # noqa: E402, F403
from zart.testing.conformance.retries import *  # noqa: E402, F403
from zart.testing.conformance.scheduling import *  # noqa: E402, F403
from zart.testing.conformance.steps import *  # noqa: E402, F403
from zart.testing.conformance.transactions import *  # noqa: E402, F403
from zart.testing.conformance.waiting import *  # noqa: E402, F403

__all__: list[str] = []
__all__ += beginning.__all__
__all__ += branches.__all__
__all__ += fanout.__all__
__all__ += loops.__all__
__all__ += ownership.__all__
__all__ += refusals.__all__
__all__ += retries.__all__
__all__ += scheduling.__all__
__all__ += steps.__all__
__all__ += transactions.__all__
__all__ += waiting.__all__
