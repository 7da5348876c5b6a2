"""The icon by pystray, which knows the desktops' own ways to show one."""

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import Any

from holdfast_worker.tray.icons import picture
from holdfast_worker.tray.model import TrayView
from holdfast_worker.tray.place import Entry, NoDesktop, Place

__all__ = ["DesktopIcon", "best_place"]


def best_place() -> Place:
    """The best that there is here. Raises NoDesktop, and ModuleNotFoundError where pystray is not installed."""
    pystray: Any = None
    try:
        pystray = import_module("pystray")
    except ModuleNotFoundError:
        raise
    except Exception as error:  # no display, or half of a toolkit: each has errors of its own
        if sys.platform != "linux":
            raise NoDesktop(str(error) or type(error).__name__) from error
    if pystray is None or str(pystray.Icon.__module__).endswith("._xorg"):
        from holdfast_worker.tray.xorg import XorgIcon

        return XorgIcon()
    return DesktopIcon(pystray)


class DesktopIcon:
    """An icon of pystray. Its default, for desktops where a click is no menu, is the status page."""

    def __init__(self, pystray: Any) -> None:
        self._pystray = pystray
        self._icon: Any = None
        self._view: TrayView | None = None

    def run(self, entries: Sequence[Entry], view: TrayView, follow: Callable[[], None]) -> None:
        """See Place."""
        self._view = view
        items = [self._item(entry, default=number == 1) for number, entry in enumerate(entries)]
        menu = self._pystray.Menu(*items)
        self._icon = self._pystray.Icon("holdfast", picture(view.variant), view.title, menu)

        def begin(icon: Any) -> None:
            icon.visible = True
            follow()

        self._icon.run(begin)

    def show(self, view: TrayView) -> None:
        """See Place."""
        before, self._view = self._view, view
        if before is None or before.variant != view.variant:
            self._icon.icon = picture(view.variant)
        self._icon.title = view.title
        self._icon.update_menu()

    def end(self) -> None:
        """See Place."""
        self._icon.stop()

    def _item(self, entry: Entry, *, default: bool) -> Any:
        def now() -> TrayView:
            assert self._view is not None
            return self._view

        def label(item: object) -> str:
            return entry.label(now())

        def choose(icon: object, item: object) -> None:
            entry.choose()

        def enabled(item: object) -> bool:
            return entry.enabled(now())

        return self._pystray.MenuItem(label, choose, default=default, enabled=enabled)
