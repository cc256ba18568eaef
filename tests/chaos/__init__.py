"""Faults in real processes and real servers, under load, with an oracle outside the system.

In `make test` each of these runs for a few seconds; `make chaos MINUTES=n SEED=s` gives them n
minutes together and repeats the choices of an earlier run.
"""
