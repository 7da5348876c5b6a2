"""A menu on plain X11: a window that the window manager leaves alone, with the pointer and the keyboard for itself."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any, Final

from PIL import Image, ImageDraw, ImageFont

__all__ = ["Choice", "XMenu"]

#: python-xlib, which comes with pystray on Linux and has no types.
X: Any = import_module("Xlib.X")
XK: Any = import_module("Xlib.XK")

FONT_SIZE: Final = 15
ROW: Final = 30
MARGIN: Final = 14
BORDER: Final = 1
PAPER: Final = (255, 255, 255)
INK: Final = (28, 32, 36)
FAINT: Final = (118, 126, 135)
CHOSEN: Final = (11, 92, 173)


@dataclass(frozen=True)
class Choice:
    """One row. `choose` returns at once."""

    label: str
    choose: Callable[[], None]
    enabled: bool = True


class XMenu:
    """The menu of one display; at most one is open."""

    def __init__(self, display: Any) -> None:
        self._display = display
        self._font = ImageFont.load_default(FONT_SIZE)
        self._choices: Sequence[Choice] = ()
        self._window: Any = None
        self._gc: Any = None
        self._width = 0
        self._marked: int | None = None

    def open(self, choices: Sequence[Choice], x: int, y: int) -> None:
        """Show it at this place of the screen, as far as it fits there."""
        self.close()
        self._choices = choices
        self._marked = None
        self._width = 2 * MARGIN + max(round(self._font.getlength(choice.label)) for choice in choices)
        height = ROW * len(choices)
        screen = self._display.screen()
        x = max(0, min(x, screen.width_in_pixels - self._width - 2 * BORDER))
        y = y if y + height + 2 * BORDER <= screen.height_in_pixels else max(0, y - height - 2 * BORDER)
        self._window = screen.root.create_window(
            x,
            y,
            self._width,
            height,
            BORDER,
            screen.root_depth,
            window_class=X.InputOutput,
            override_redirect=True,
            border_pixel=screen.black_pixel,
            event_mask=X.ExposureMask | X.ButtonPressMask | X.PointerMotionMask | X.KeyPressMask,
        )
        self._window.set_wm_name("Holdfast menu")
        self._gc = self._window.create_gc()
        self._window.map()
        self._display.sync()
        # A click anywhere else comes here, too, and closes it.
        got = self._window.grab_pointer(
            False,
            X.ButtonPressMask | X.PointerMotionMask,
            X.GrabModeAsync,
            X.GrabModeAsync,
            X.NONE,
            X.NONE,
            X.CurrentTime,
        )
        if got != X.GrabSuccess:  # another program has it: a menu that could not be closed is none
            self.close()
            return
        self._window.grab_keyboard(False, X.GrabModeAsync, X.GrabModeAsync, X.CurrentTime)
        self._draw()

    def close(self) -> None:
        """Take it away. Again is fine."""
        if self._window is None:
            return
        self._display.ungrab_pointer(X.CurrentTime)
        self._display.ungrab_keyboard(X.CurrentTime)
        self._window.destroy()
        self._window = self._gc = None
        self._display.sync()

    def handle(self, event: Any) -> bool:
        """Whether the event was the menu's."""
        if self._window is None or getattr(event, "window", None) != self._window:
            return False
        if event.type == X.Expose:
            self._draw()
        elif event.type == X.MotionNotify:
            self._mark(self._row(event))
        elif event.type == X.ButtonPress:
            self._choose(self._row(event), outside_closes=True)
        elif event.type == X.KeyPress:
            self._press(self._display.keycode_to_keysym(event.detail, 0))
        return True

    def _press(self, key: int) -> None:
        match key:
            case XK.XK_Escape:
                self.close()
            case XK.XK_Down:
                self._mark(self._next(1))
            case XK.XK_Up:
                self._mark(self._next(-1))
            case XK.XK_Return | XK.XK_KP_Enter | XK.XK_space:
                self._choose(self._marked, outside_closes=False)
            case _:
                return

    def _next(self, step: int) -> int | None:
        """The next row that can be chosen."""
        count = len(self._choices)
        start = self._marked if self._marked is not None else (-1 if step > 0 else count)
        rows = [(start + step * (n + 1)) % count for n in range(count)]
        return next((row for row in rows if self._choices[row].enabled), None)

    def _row(self, event: Any) -> int | None:
        """The row under the pointer; None outside of the menu."""
        if not 0 <= event.event_x < self._width or not 0 <= event.event_y < ROW * len(self._choices):
            return None
        return int(event.event_y) // ROW

    def _choose(self, row: int | None, *, outside_closes: bool) -> None:
        if row is None:
            if outside_closes:
                self.close()
        elif self._choices[row].enabled:
            self.close()
            self._choices[row].choose()

    def _mark(self, row: int | None) -> None:
        if row != self._marked:
            self._marked = row
            self._draw()

    def _draw(self) -> None:
        image = Image.new("RGB", (self._width, ROW * len(self._choices)), PAPER)
        draw = ImageDraw.Draw(image)
        for number, choice in enumerate(self._choices):
            top, ink = number * ROW, INK if choice.enabled else FAINT
            if number == self._marked and choice.enabled:
                draw.rectangle((0, top, self._width, top + ROW - 1), fill=CHOSEN)
                ink = PAPER
            draw.text((MARGIN, top + ROW / 2), choice.label, fill=ink, font=self._font, anchor="lm")
        self._window.put_pil_image(self._gc, 0, 0, image)
