"""Listens in the network that it is started in, and hands the socket over: listener.py ADDRESS PATH

A socket stays in the network where it was made, whoever holds it. So the proxy of a test can stand
in another network than the test does.
"""

from __future__ import annotations

import socket
import sys


def main(address: str, path: str) -> None:
    listener = socket.create_server((address, 0))
    with socket.socket(socket.AF_UNIX) as test:
        test.connect(path)
        socket.send_fds(test, [b"here"], [listener.fileno()])


if __name__ == "__main__":
    main(*sys.argv[1:])
