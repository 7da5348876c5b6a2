"""`holdfast job`: one job, its log and its artifacts."""

import json
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from holdfast_worker.terminal.options import as_json, connected, server
from holdfast_worker.terminal.output import say, write_facts, write_json, write_table
from holdfast_worker.terminal.text import escaped, moment

if TYPE_CHECKING:
    from holdfast_core.schemas import Artifact
    from holdfast_worker.client import Client

__all__ = ["job"]

#: How many names of artifacts stand in an error.
NAMES_SHOWN: Final = 10


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
    help="With --download: the file or folder; by default its name, here.",
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
        if not page.items:
            return
        if as_json:  # as it came: it may hold fields that are newer than this client
            for body in json.loads(client.last_answer)["items"]:
                click.echo(json.dumps(body))
        else:
            for event in page.items:
                click.echo(escaped(log_line(event)))
        after = page.next_after


def _follow_log(client: "Client", job_id: str, as_json: bool) -> None:
    from holdfast_core.schemas import Job, JobEvent
    from holdfast_worker.terminal.following import following
    from holdfast_worker.terminal.views import log_line

    client.job(job_id)  # a server that was never there is not waited for
    with closing(following(lambda after: client.follow_log(job_id, after=int(after or 0)))) as events:
        for event in events:
            if event.event == "end":
                say(f"The job has ended: {event.read(Job).status}.")
                return
            if event.event == "log":
                entry = event.read(JobEvent)
                click.echo(json.dumps(json.loads(event.data)) if as_json else escaped(log_line(entry)))


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
    from holdfast_worker.terminal.saving import save

    artifact = _chosen(client, job_id, wanted)
    target = save(client, artifact, output, over=force)
    say(f"Saved {artifact.size:,} bytes; their digest is right.")
    click.echo(escaped(target))


def _chosen(client: "Client", job_id: str, wanted: str) -> "Artifact":
    """The artifact of this id, or else the newest of this name. Raises ArtifactNotFound."""
    from holdfast_core.errors import ArtifactNotFound

    found = client.artifacts_of(job_id).items
    # A worker chooses the names: none may stand in for another artifact's id.
    for named in ([a for a in found if str(a.id) == wanted], [a for a in found if a.name == wanted]):
        if named:
            return named[-1]
    names = ", ".join(repr(artifact.name) for artifact in found[-NAMES_SHOWN:]) or "none"
    raise ArtifactNotFound(
        f"The job has no artifact {wanted[:255]!r}. It has {names}; `holdfast job {job_id} --artifacts` lists them."
    )
