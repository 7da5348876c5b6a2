"""The slim FastAPI shim: REST and the page at `/tasks`. Each route calls one service and has no rule of its own."""
