"""A handler in Python: it asks an agent one thing after the other, and keeps the answers with the job.

    holdfast worker run --types interview --handler handler:handle
    holdfast enqueue --type interview --payload '{"prompts": ["What is in this folder?", "Is anything missing?"]}'

While workers are quiesced it waits before each stage and each step. The agent is told of the job by its environment, so
that its hook (see README.md) waits between two tool calls as well.
"""

import os
import shlex
import sys

import anyio

from holdfast import Job, JobFailed

#: What is run for each prompt; the prompt comes on its stdin.
AGENT = shlex.split(os.environ.get("AGENT", "claude --print"))


async def handle(job: Job) -> dict[str, int]:
    """Ask for each of the payload's `prompts`. The answers become the artifact answers.md."""
    prompts = job.payload.get("prompts")
    if not isinstance(prompts, list) or not prompts:
        raise JobFailed("the payload has no list of `prompts`")  # to try again would not help

    await job.stage("ask")
    answers: list[str] = []
    async for prompt in job.steps(prompts):
        answers.append(await ask(job, str(prompt)))
        await job.progress({"answered": len(answers), "of": len(prompts)})

    await job.stage("report")
    report = "\n".join(f"## {prompt}\n\n{answer}\n" for prompt, answer in zip(prompts, answers, strict=True))
    await job.upload("answers.md", report, content_type="text/markdown")
    return {"answers": len(answers)}


async def ask(job: Job, prompt: str) -> str:
    """One run of the agent. Where it fails, the job is tried again; where the job is stopped, it is killed."""
    environment = os.environ | job.environment()
    environment.pop("HOLDFAST_TOKEN", None)  # the worker's own: an agent needs none
    answer = await anyio.run_process(AGENT, input=prompt.encode(), stderr=sys.stderr, env=environment)
    return answer.stdout.decode().strip()
