"""The loop of the tray icon: ask the worker each second, show what it says, do what the menu was asked for."""

import signal
import threading
import webbrowser
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Final

from holdfast_worker.tray.desktop import best_place
from holdfast_worker.tray.model import TrayModel, TrayView
from holdfast_worker.tray.place import Entry, Place

__all__ = ["Tray", "open_tray"]

LOOK_SECONDS: Final = 1.0


def open_tray(worker_id: str) -> "Tray":
    """A place for the icon of a worker, which `run` shows.

    Raises NoDesktop where there is none, and ModuleNotFoundError where its libraries are missing.
    """
    return Tray(best_place(), TrayModel(worker_id))


class Tray:
    """One icon."""

    def __init__(self, place: Place, model: TrayModel) -> None:
        self._place = place
        self._model = model
        #: What is to be done besides looking; None: the end. Filled by the menu and by signals, which must not wait.
        self._wishes: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._failure: Exception | None = None

    def run(self) -> None:
        """Show it until somebody quits it, by its menu or by a signal.

        Raises NoDesktop where the desktop goes away, and ConfigurationError where the folder in which workers are found
        is not ours alone.
        """
        for sign in (signal.SIGINT, signal.SIGTERM):
            signal.signal(sign, lambda number, frame: self._quit())
        entries = (
            Entry(
                lambda view: view.switch_label,
                lambda: self._wishes.put(self._model.turn),
                lambda view: view.alive,
            ),
            Entry(
                lambda view: "Open status page", lambda: self._wishes.put(self._open), lambda view: view.alive
            ),
            Entry(lambda view: "Quit", self._quit),
        )
        self._place.run(entries, self._model.look(), self._follow)
        if self._failure is not None:
            raise self._failure

    def _follow(self) -> None:
        shown: TrayView | None = None
        try:
            while True:
                view = self._model.look()
                if view != shown:
                    self._place.show(view)
                    shown = view
                try:
                    wish = self._wishes.get(timeout=LOOK_SECONDS)
                except Empty:
                    continue
                if wish is None:
                    return
                wish()
        except Exception as error:
            self._failure = error
        finally:
            self._place.end()

    def _quit(self) -> None:
        self._wishes.put(None)

    def _open(self) -> None:
        url = self._model.page()
        if url is not None:
            # A browser that is started rather than told may take its time.
            threading.Thread(target=webbrowser.open, args=(url,), daemon=True).start()
