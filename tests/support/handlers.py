"""Handlers for the workers of the tests (see support/workers.py)."""

import json
import os
import time

import anyio

from holdfast import Job, JobFailed


def note(job: Job, what: str, step: int = 0) -> None:
    """One line, in one write, so that those of several processes do not mix."""
    line = {
        "job": str(job.id),
        "attempt": job.attempt,
        "worker": job.worker_id,
        "what": what,
        "step": step,
        "at": time.monotonic(),
    }
    file = os.open(job.payload["ledger"], os.O_WRONLY | os.O_APPEND)
    try:
        os.write(file, json.dumps(line).encode() + b"\n")
    finally:
        os.close(file)


async def steps(job: Job) -> dict[str, int]:
    """`steps` steps of `seconds` each, with a checkpoint before each."""
    note(job, "begin")
    try:
        for step in range(1, job.payload.get("steps", 3) + 1):
            note(job, "at", step)
            await job.checkpoint(f"step {step}")
            note(job, "past", step)
            await anyio.sleep(job.payload.get("seconds", 0.05))
    except BaseException:
        note(job, "stopped")
        raise
    note(job, "end")
    return {"steps": job.payload.get("steps", 3)}


async def busy(job: Job) -> str:
    """Works for `seconds` without a checkpoint."""
    note(job, "begin")
    try:
        await anyio.sleep(job.payload.get("seconds", 60))
    except BaseException:
        note(job, "stopped")
        raise
    note(job, "end")
    return "done"


async def brief(job: Job) -> str:
    """Works for a moment, and notes nothing."""
    await job.checkpoint("at once")
    await anyio.sleep(0.05)
    return "done"


async def varied(job: Job) -> object:
    """Ends as the payload says."""
    match job.payload.get("how"):
        case "nothing":
            return None
        case "text":
            return "a text"
        case "json":
            return {"a": [1, 2]}
        case "unwritable":
            return {"a": object()}
        case "long":
            return "x" * 9_000
        case "final":
            raise JobFailed("the input is bad")
        case "exit":
            raise SystemExit(3)
        case _:
            raise ValueError("it broke")


async def stages(job: Job) -> str:
    """Two stages with steps in them, a word in the log, progress, an artifact."""
    await job.stage("fetch")
    async for part in job.steps(["a", "b"], "part"):
        await job.log(f"part {part}", payload={"part": part})
    await job.progress({"done": 2})
    await job.stage("report")
    await job.checkpoint()
    artifact = await job.upload("report.txt", "two parts", content_type="text/plain")
    return artifact.digest


def plain(job: Job) -> None:
    """Not a coroutine function: refused."""


async def boundaries(job: Job) -> None:
    """Waits for the quiesce, then goes by a stage and two steps to a checkpoint without a kind."""
    await job.checkpoint("go")
    run = job._run
    while not run._hold.quiesced:
        await anyio.sleep(0.02)
    await job.stage("stage")
    async for _ in job.steps([1, 2]):
        pass
    await job.checkpoint("explicit")
