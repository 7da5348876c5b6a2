"""Jobs as child processes: one command for each job (`holdfast worker run --exec`).

command        the handler: starts the command, stops it, says what it came to
child          the process and its group: begun together, ended together
output         stdout and stderr on their way into the job's log
files          the job's own folder: its payload, and what the command leaves as a result
ending         what an exit code means
guard          the dead man's switch, as the worker sees it
guard_process  ... and the process that it is: ends the commands of a worker that cannot do so itself
"""

from holdfast_worker.runtime.execution.command import CommandHandler, command_handler
from holdfast_worker.runtime.execution.ending import CommandFailed

__all__ = ["CommandFailed", "CommandHandler", "command_handler"]
