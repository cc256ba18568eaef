"""Benchmarks: ``make bench``, or ``python -m benchmarks --help``.

Every figure is measured in a process of its own, through the public API, on private servers with
their durable defaults. Rounds are interleaved, so that what disturbs the machine disturbs all.
"""
