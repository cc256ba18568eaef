"""Helpers for tests: of workflows, and of backends."""

from zart.testing.time import pass_time

__all__ = ["pass_time"]
