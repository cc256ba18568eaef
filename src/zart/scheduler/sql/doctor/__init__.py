"""An examination of the database: what works, what costs time, what may lose something.

`examination` has the order; `work` looks at workers and the queue, which are the same everywhere,
and each database has a module for what only it has. A check is a function of the database; it
gives findings and changes nothing.
"""

from zart.scheduler.sql.doctor.examination import examine

__all__ = ["examine"]
