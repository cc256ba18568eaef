"""The contract of a backend, as tests: every guarantee of the design by its number.

To run it against a backend of your own, give a ``backend`` fixture and collect the classes::

    from zart.testing.conformance import *  # noqa: F403

    @pytest.fixture
    def backend(tmp_path): return MyBackend(tmp_path)

It needs pytest and pytest-asyncio. With ``--strict-markers``, register ``guarantee(*numbers)``.
"""

import pytest

# Before the import, so that a failed assert shows what was compared.
pytest.register_assert_rewrite(f"{__name__}.steps")

from zart.testing.conformance.steps import *  # noqa: E402, F403
from zart.testing.conformance.steps import __all__ as _steps  # noqa: E402

__all__ = [*_steps]  # noqa: PLE0604
