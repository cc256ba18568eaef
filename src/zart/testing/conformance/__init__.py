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
            "branches",
            "fanout",
            "loops",
            "ownership",
            "refusals",
            "retries",
            "scheduling",
            "steps",
            "waiting",
        )
    )
)

from zart.testing.conformance.branches import *  # noqa: E402, F403
from zart.testing.conformance.branches import __all__ as _branches  # noqa: E402
from zart.testing.conformance.fanout import *  # noqa: E402, F403
from zart.testing.conformance.fanout import __all__ as _fanout  # noqa: E402
from zart.testing.conformance.loops import *  # noqa: E402, F403
from zart.testing.conformance.loops import __all__ as _loops  # noqa: E402
from zart.testing.conformance.ownership import *  # noqa: E402, F403
from zart.testing.conformance.ownership import __all__ as _ownership  # noqa: E402
from zart.testing.conformance.refusals import *  # noqa: E402, F403
from zart.testing.conformance.refusals import __all__ as _refusals  # noqa: E402
from zart.testing.conformance.retries import *  # noqa: E402, F403
from zart.testing.conformance.retries import __all__ as _retries  # noqa: E402
from zart.testing.conformance.scheduling import *  # noqa: E402, F403
from zart.testing.conformance.scheduling import __all__ as _scheduling  # noqa: E402
from zart.testing.conformance.steps import *  # noqa: E402, F403
from zart.testing.conformance.steps import __all__ as _steps  # noqa: E402
from zart.testing.conformance.waiting import *  # noqa: E402, F403
from zart.testing.conformance.waiting import __all__ as _waiting  # noqa: E402

__all__ = [  # noqa: PLE0604
    *_branches,
    *_fanout,
    *_loops,
    *_ownership,
    *_refusals,
    *_retries,
    *_scheduling,
    *_steps,
    *_waiting,
]
