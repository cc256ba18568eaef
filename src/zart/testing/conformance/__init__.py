"""The contract of a backend, as tests: every guarantee of the design by its number.

To run it against a backend of your own, give a ``backend`` fixture and collect the classes::

    from zart.testing.conformance import *  # noqa: F403

    @pytest.fixture
    def backend(tmp_path): return MyBackend(tmp_path)
"""
