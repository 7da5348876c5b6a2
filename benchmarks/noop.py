"""The yardstick: a bare FastAPI route that does nothing, served as Holdfast is."""

import socket

import uvicorn
from fastapi import FastAPI

app = FastAPI()


@app.post("/noop")
async def noop() -> dict[str, bool]:
    """Nothing, as fast as FastAPI does it."""
    return {"ok": True}


if __name__ == "__main__":
    listening = socket.create_server(("127.0.0.1", 0))
    print(f"The no-op is ready at http://127.0.0.1:{listening.getsockname()[1]}", flush=True)
    config = uvicorn.Config(app, loop="uvloop", http="httptools", access_log=False, log_level="warning")
    uvicorn.Server(config).run(sockets=[listening])
