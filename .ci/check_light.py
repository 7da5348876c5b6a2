"""A worker host installs without the server: run by the Python of an environment that holds the base alone."""

import importlib
import importlib.util
import sys

SERVER_ONLY = ("alembic", "asyncpg", "fastapi", "mcp", "sqlalchemy", "starlette", "uvicorn")

present = [name for name in SERVER_ONLY if importlib.util.find_spec(name) is not None]
if present:
    sys.exit(f"the base distribution brings {', '.join(present)}")

for name in ("holdfast", "holdfast_worker", "holdfast_worker.cli"):
    module = importlib.import_module(name)
    for public in getattr(module, "__all__", ()):
        getattr(module, public)
    print(f"{name}: imported from {module.__file__}")
