"""The worker's control port: a small HTTP server on loopback, inside the worker's event loop.

routes     what is answered at which address, and to whom
guards     who may ask at all: Host, Origin, tokens
exchange   one request and its answer, bounded in size and in time
server     the listener, and its beginning and end
asking     the other side: how the command line and the tray icon ask
page/      the status page's files
"""

from holdfast_worker.runtime.control.controlled import Controlled
from holdfast_worker.runtime.control.server import Control, running_control

__all__ = ["Control", "Controlled", "running_control"]
