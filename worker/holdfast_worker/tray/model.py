"""What the tray icon shows and offers, for what the worker says."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from holdfast_worker.runtime.control.asking import WorkerGone, open_page, parsed, read_status, switch
from holdfast_worker.runtime.discovery import Found, running_workers
from holdfast_worker.runtime.status import WorkerStatus, WorkerVariant

__all__ = ["TrayModel", "TrayView", "view_of"]

#: What Windows shows of a title.
MAX_TITLE: Final = 127


@dataclass(frozen=True)
class TrayView:
    """What is to be seen: the icon, the words beside it, and the menu's first item."""

    variant: WorkerVariant
    title: str
    switch: Literal["pause", "resume"] = "pause"
    #: Whether there is a worker that the menu could pause, or whose page it could open.
    alive: bool = False

    @property
    def switch_label(self) -> str:
        """The menu's word for what its first item does."""
        return self.switch.capitalize()


def view_of(worker_id: str, status: WorkerStatus | None) -> TrayView:
    """The view of a worker; `status` None: it does not answer."""
    if status is None:
        return TrayView("disconnected", _title(worker_id, "disconnected, the worker does not answer"))
    return TrayView(
        status.variant,
        _title(worker_id, _words(status)),
        "resume" if status.locally_paused else "pause",
        alive=True,
    )


class TrayModel:
    """Follows one worker by its id, also through its restarts."""

    def __init__(self, worker_id: str, *, find: Callable[[], list[Found]] = running_workers) -> None:
        self._worker_id = worker_id
        self._find = find
        self._found: Found | None = None
        self.view = view_of(worker_id, None)

    def look(self) -> TrayView:
        """Ask the worker how it is; one that has come back is found again."""
        try:
            self.view = view_of(self._worker_id, parsed(read_status(self._worker())))
        except WorkerGone:
            self._lose()
        return self.view

    def turn(self) -> TrayView:
        """Do what the menu's first item says."""
        try:
            self.view = view_of(self._worker_id, parsed(switch(self._worker(), self.view.switch)))
        except WorkerGone:
            self._lose()
        return self.view

    def page(self) -> str | None:
        """An address that opens the status page once; None where the worker does not answer."""
        try:
            return open_page(self._worker())
        except WorkerGone:
            self._lose()
            return None

    def _worker(self) -> Found:
        if self._found is None:
            self._found = next((one for one in self._find() if one.worker_id == self._worker_id), None)
        if self._found is None:
            raise WorkerGone("it does not run")
        return self._found

    def _lose(self) -> None:
        self._found = None
        self.view = view_of(self._worker_id, None)


def _title(worker_id: str, words: str) -> str:
    title = f"Holdfast {worker_id}: {words}"
    return title if len(title) <= MAX_TITLE else f"{title[: MAX_TITLE - 1]}…"


def _words(status: WorkerStatus) -> str:
    count = len(status.jobs)
    jobs = "" if not count else f", {count} {'job' if count == 1 else 'jobs'}"
    if status.variant == "disconnected":
        return f"disconnected, the server does not answer{jobs}"
    if status.stopping:
        return f"stopping{jobs}"
    if status.variant != "paused":
        return f"{status.variant}{jobs}"
    system = status.system
    by: list[str] = ["by its operator"] if status.locally_paused else []
    if system is not None and system.workers_paused:
        by.append(f"by the system ({system.mode})" if system.mode else "by the system")
    return f"paused {' and '.join(by)}{jobs}"
