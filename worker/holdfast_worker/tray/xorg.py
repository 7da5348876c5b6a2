"""The icon on plain X11: docked into the panel's system tray (freedesktop.org's System Tray and XEMBED protocols).

pystray's own icon for X11 has no menu and never asks to hear of clicks, so this one stands in for it. Where there is no
panel, or it ends, the icon waits for the next.
"""

import os
import select
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from PIL import Image

from holdfast_worker.terminal.output import say
from holdfast_worker.tray.icons import PLATES, picture
from holdfast_worker.tray.model import TrayView
from holdfast_worker.tray.place import Entry, NoDesktop
from holdfast_worker.tray.xmenu import Choice, XMenu

__all__ = ["XorgIcon"]


#: python-xlib, which comes with pystray on Linux and has no types.
X: Any = import_module("Xlib.X")

#: What a panel is asked for at least, in pixels.
LEAST_SIZE: Final = 24
XEMBED_VERSION: Final = 0
XEMBED_MAPPED: Final = 1
REQUEST_DOCK: Final = 0
LEFT: Final = 1
RIGHT: Final = 3
#: How long the end waits for the thread beside.
JOIN_SECONDS: Final = 10.0


class XorgIcon:
    """An icon of the display in DISPLAY. Everything of X happens in the thread that runs it."""

    def __init__(self) -> None:
        try:
            self._display: Any = import_module("Xlib.display").Display()
        except Exception as error:  # python-xlib's own errors, or what its authentication meets
            raise NoDesktop(str(error) or type(error).__name__) from error
        # Errors come late, and of windows that have gone meanwhile.
        self._display.set_error_handler(_ignore)
        self._gone: Any = import_module("Xlib.error").ConnectionClosedError
        self._screen: Any = self._display.screen()
        self._atoms = {
            name: self._display.intern_atom(name)
            for name in (
                f"_NET_SYSTEM_TRAY_S{self._display.get_default_screen()}",
                "_NET_SYSTEM_TRAY_OPCODE",
                "MANAGER",
                "_XEMBED_INFO",
                "_NET_WM_NAME",
                "_NET_WM_PID",
                "UTF8_STRING",
            )
        }
        self._selection = self._atoms[f"_NET_SYSTEM_TRAY_S{self._display.get_default_screen()}"]
        self._window: Any = None
        self._gc: Any = None
        self._host: Any = None
        self._menu = XMenu(self._display)
        self._entries: Sequence[Entry] = ()
        self._wake_reader, self._wake_writer = os.pipe()
        os.set_blocking(self._wake_writer, False)
        self._view: TrayView
        self._ending = False

    def run(self, entries: Sequence[Entry], view: TrayView, follow: Callable[[], None]) -> None:
        """See Place. Raises NoDesktop where the display goes away."""
        self._entries = entries
        self._view = view
        beside = threading.Thread(target=follow, name="holdfast-tray", daemon=True)
        beside.start()
        try:
            # A panel that begins says so to the root window.
            self._screen.root.change_attributes(event_mask=X.StructureNotifyMask)
            if not self._dock():
                say("No panel with a system tray is on this display yet; the icon waits for one.")
            self._loop()
        except self._gone as error:
            raise NoDesktop("the display has gone") from error
        finally:
            self._ending = True
            with suppress(self._gone):
                self._display.close()
        beside.join(JOIN_SECONDS)

    def show(self, view: TrayView) -> None:
        """See Place."""
        self._view = view
        self._wake()

    def end(self) -> None:
        """See Place."""
        self._ending = True
        self._wake()

    def _wake(self) -> None:
        try:
            os.write(self._wake_writer, b".")
        except BlockingIOError:  # it is full of wakes
            return

    def _loop(self) -> None:
        shown = self._view
        while True:
            # All that was asked for is on its way then; python-xlib's flush leaves what a full socket does not take.
            self._display.sync()
            if self._display.pending_events():
                while self._display.pending_events():
                    self._on(self._display.next_event())
                continue
            if self._ending:
                return
            if shown != self._view:
                shown = self._view
                self._draw()
                continue
            ready, _, _ = select.select([self._display.fileno(), self._wake_reader], [], [])
            if self._wake_reader in ready:
                os.read(self._wake_reader, 4_096)

    def _on(self, event: Any) -> None:
        if self._menu.handle(event):
            return
        window = getattr(event, "window", None)
        ours = self._window is not None and window == self._window
        if event.type in {X.Expose, X.ConfigureNotify} and ours:
            self._draw()
        elif event.type == X.ButtonPress and ours and event.detail in {LEFT, RIGHT}:
            self._open_menu(event)
        elif event.type == X.DestroyNotify and (ours or (self._host is not None and window == self._host)):
            self._undock()
            self._dock()
        elif event.type == X.ClientMessage and self._host is None and self._is_new_panel(event):
            self._dock()

    def _is_new_panel(self, event: Any) -> bool:
        return bool(event.client_type == self._atoms["MANAGER"] and event.data[1][1] == self._selection)

    # The panel

    def _dock(self) -> bool:
        """Ask the panel to take the icon in; False where there is none."""
        self._display.grab_server()  # between the question and the watch it must not end
        try:
            host = self._display.get_selection_owner(self._selection)
            if host == X.NONE:
                return False
            self._host = self._display.create_resource_object("window", host.id)
            self._host.change_attributes(event_mask=X.StructureNotifyMask)
        finally:
            self._display.ungrab_server()
        self._window = self._new_window()
        self._gc = self._window.create_gc()
        message = import_module("Xlib.protocol.event").ClientMessage(
            window=self._host,
            client_type=self._atoms["_NET_SYSTEM_TRAY_OPCODE"],
            data=(32, [X.CurrentTime, REQUEST_DOCK, self._window.id, 0, 0]),
        )
        self._host.send_event(message, event_mask=X.NoEventMask)
        return True

    def _undock(self) -> None:
        """The panel has ended. What it gave back would stand on the desktop as a window: it goes."""
        if self._window is not None:
            self._window.destroy()
        self._window = self._gc = self._host = None
        self._menu.close()

    def _new_window(self) -> Any:
        window = self._screen.root.create_window(
            -1,
            -1,
            LEAST_SIZE,
            LEAST_SIZE,
            0,
            self._screen.root_depth,
            window_class=X.InputOutput,
            event_mask=X.ExposureMask | X.StructureNotifyMask | X.ButtonPressMask,
        )
        window.set_wm_class("holdfast", "Holdfast")
        window.set_wm_normal_hints(
            flags=import_module("Xlib.Xutil").PMinSize, min_width=LEAST_SIZE, min_height=LEAST_SIZE
        )
        info = self._atoms["_XEMBED_INFO"]
        window.change_property(info, info, 32, [XEMBED_VERSION, XEMBED_MAPPED])
        window.change_property(
            self._atoms["_NET_WM_PID"], import_module("Xlib.Xatom").CARDINAL, 32, [os.getpid()]
        )
        self._name(window)
        return window

    # What is seen

    def _name(self, window: Any) -> None:
        title = self._view.title
        window.set_wm_name(title.encode("ascii", "replace").decode())
        window.change_property(self._atoms["_NET_WM_NAME"], self._atoms["UTF8_STRING"], 8, title.encode())

    def _draw(self) -> None:
        if self._window is None:
            return
        size = self._window.get_geometry()
        side = min(size.width, size.height)
        image = Image.new("RGB", (size.width, size.height), PLATES[self._view.variant])
        image.paste(picture(self._view.variant, side), ((size.width - side) // 2, (size.height - side) // 2))
        self._window.put_pil_image(self._gc, 0, 0, image)
        self._name(self._window)

    def _open_menu(self, event: Any) -> None:
        view = self._view
        choices = [Choice(entry.label(view), entry.choose, entry.enabled(view)) for entry in self._entries]
        self._menu.open(choices, event.root_x, event.root_y)


def _ignore(error: object, request: object) -> None:
    return
