"""`holdfast demo`: a real server, real workers and real work on this machine, paused in the middle.

The demo is a client like any other: it starts the server as a child process and from then on speaks
REST to it, as its workers do. What it claims at the end it has read from the server's own data.
"""

from typing import Final

__all__ = ["JOB_TYPE", "LEASE_SECONDS", "POLL_INTERVAL_SECONDS"]

JOB_TYPE: Final = "demo.compile"
#: Short, so that a worker that dies shows up as stale while one still watches.
LEASE_SECONDS: Final = 10
#: How long a paused worker sleeps between two claims. A real one sleeps five seconds.
POLL_INTERVAL_SECONDS: Final = 0.25
