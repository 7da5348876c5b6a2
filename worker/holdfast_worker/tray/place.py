"""What a place for icons does: the desktop's own, or plain X11's."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

from holdfast_worker.tray.model import TrayView

__all__ = ["Entry", "NoDesktop", "Place"]


class NoDesktop(Exception):
    """No icon can be shown here; the text says why."""


@dataclass(frozen=True)
class Entry:
    """An item of the menu, as it is for a view. `choose` returns at once."""

    label: Callable[[TrayView], str]
    choose: Callable[[], None]
    enabled: Callable[[TrayView], bool] = lambda _: True


class Place(Protocol):
    """One icon with its menu."""

    def run(self, entries: Sequence[Entry], view: TrayView, follow: Callable[[], None]) -> None:
        """Show the icon until `end`. Blocks the main thread; `follow` is run in a thread beside it meanwhile."""
        ...

    def show(self, view: TrayView) -> None:
        """From now on it looks like this. From any thread."""
        ...

    def end(self) -> None:
        """Take the icon away, and let `run` return. From any thread."""
        ...
