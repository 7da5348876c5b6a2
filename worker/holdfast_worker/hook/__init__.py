"""The hook of agent CLIs: what Claude Code and Codex run before each tool call, so that an agent parks between two of
them while workers are quiesced, and what installs it.

`call` reads what the CLI says, `answers` writes what it understands. Inside a job of a worker, `jobs` asks the worker;
an agent that pulls jobs by itself asks the server: `pulled`, which keeps its leases with `leases`. The rest installs.
"""
