"""Database servers for the tests, each on its own: private folder, private port, loopback only.

    with PostgresServer() as server:
        ...  # server.url
        server.kill()  # as a power cut would
        server.restart()  # same folder, same port

A server is stopped when its block ends. Should the test run itself die, a watchdog beside each
server removes it (see `watchdog.py`), so that nothing is ever left on the machine.
"""

from tests.servers.mariadb import MariadbServer
from tests.servers.pgbouncer import PgbouncerServer
from tests.servers.postgres import PostgresServer
from tests.servers.run import RunServers
from tests.servers.server import Server, ServerError

__all__ = [
    "MariadbServer",
    "PgbouncerServer",
    "PostgresServer",
    "RunServers",
    "Server",
    "ServerError",
]
