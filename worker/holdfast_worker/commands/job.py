"""`holdfast job`: one job, its log and its artifacts."""

import json
from pathlib import Path
from typing import TYPE_CHECKING

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_facts, write_json, write_table
from holdfast_worker.terminal.text import escaped, moment

if TYPE_CHECKING:
    from holdfast_core.schemas import Artifact
    from holdfast_worker.client import Client

__all__ = ["job"]


@click.command()
@click.argument("job_id", metavar="ID")
@click.option("--log", "show_log", is_flag=True, help="Its log instead, oldest first.")
@click.option("--follow", is_flag=True, help="With --log: go on with what comes, until the job has ended.")
@click.option("--artifacts", is_flag=True, help="A list of its artifacts instead.")
@click.option("--download", metavar="ARTIFACT", help="Save the artifact of this id or name.")
@click.option(
    "-o",
    "--output",
    type=click.Path(path_type=Path),
    help="With --download: where; by default its name, here.",
)
@click.option("--force", is_flag=True, help="With --download: also over a file that is there.")
@server
@as_json
def job(
    job_id: str,
    show_log: bool,
    follow: bool,
    artifacts: bool,
    download: str | None,
    output: Path | None,
    force: bool,
    url: str | None,
    token: str | None,
    as_json: bool,
) -> None:
    """Show one job, its log (--log) or its artifacts."""
    if show_log + artifacts + (download is not None) > 1:
        raise click.UsageError("--log, --artifacts and --download exclude each other")
    if follow and not show_log:
        raise click.UsageError("--follow belongs to --log")
    if download is None and (output is not None or force):
        raise click.UsageError("--output and --force belong to --download")
    with connected(url, token) as client:
        if show_log:
            (_follow_log if follow else _write_log)(client, job_id, as_json)
        elif artifacts:
            _list_artifacts(client, job_id, as_json)
        elif download is not None:
            _download(client, job_id, download, output, force)
        else:
            _show(client, job_id, as_json)


def _show(client: "Client", job_id: str, as_json: bool) -> None:
    found = client.job(job_id)
    if as_json:
        write_json(client.last_answer)
        return
    from holdfast_worker.terminal.views import job_facts

    write_facts(job_facts(found))


def _write_log(client: "Client", job_id: str, as_json: bool) -> None:
    from holdfast_worker.terminal.views import log_line

    after = 0
    while True:
        page = client.log_of(job_id, after=after)
        for event in page.items:
            click.echo(event.model_dump_json() if as_json else escaped(log_line(event)))
        if not page.items:
            return
        after = page.next_after


def _follow_log(client: "Client", job_id: str, as_json: bool) -> None:
    from holdfast_core.schemas import Job, JobEvent
    from holdfast_worker.terminal.views import log_line

    for event in client.follow_log(job_id):
        if event.event == "log":
            click.echo(
                json.dumps(json.loads(event.data))
                if as_json
                else escaped(log_line(JobEvent.model_validate_json(event.data)))
            )
        elif event.event == "end":
            say(f"The job has ended: {Job.model_validate_json(event.data).status}.")


def _list_artifacts(client: "Client", job_id: str, as_json: bool) -> None:
    found = client.artifacts_of(job_id)
    if as_json:
        write_json(client.last_answer)
        return
    from holdfast_worker.terminal.views import ARTIFACT_COLUMNS

    if found.items:
        write_table(
            ARTIFACT_COLUMNS,
            [
                (str(a.id), a.name, str(a.size), a.content_type, a.worker_id, moment(a.created_at))
                for a in found.items
            ],
        )
    else:
        say("The job has no artifacts.")


def _download(client: "Client", job_id: str, wanted: str, output: Path | None, force: bool) -> None:
    artifact = _chosen(client, job_id, wanted)
    # A label is never a path: of one that looks like one, only its last part is used.
    name = artifact.name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1].strip(". ") or str(artifact.id)
    target = output or Path(name)
    if target.exists() and not force:
        raise click.UsageError(f"{target} is there already; --force writes over it, --output names another")
    unfinished = target.with_name(target.name + ".part")
    try:
        with unfinished.open("xb") as file:
            client.download(artifact, file)
        unfinished.replace(target)
    except OSError as error:
        unfinished.unlink(missing_ok=True)
        raise click.ClickException(f"{target} cannot be written: {error.strerror or error}") from None
    except BaseException:
        unfinished.unlink(missing_ok=True)
        raise
    say(f"Saved {artifact.size:,} bytes; their digest is right.")
    click.echo(escaped(target))


def _chosen(client: "Client", job_id: str, wanted: str) -> "Artifact":
    """The artifact of this id, or the newest of this name."""
    found = client.artifacts_of(job_id).items
    for artifact in reversed(found):
        if wanted in {str(artifact.id), artifact.name}:
            return artifact
    names = ", ".join(artifact.name for artifact in found) or "none"
    raise click.UsageError(f"the job has no artifact {wanted!r}; it has: {escaped(names)}")
