"""The tray icon: a real process, docked into a real panel on an X server of the test's own, clicked by real events."""

import os
import shutil
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from importlib import import_module
from itertools import combinations
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final

import pytest
from PIL import Image
from Xlib import XK, X
from Xlib.display import Display
from Xlib.error import XError
from Xlib.ext import xtest

from holdfast_core.states import PauseMode
from holdfast_worker.runtime.status import WorkerVariant
from holdfast_worker.tray.desktop import DesktopIcon
from holdfast_worker.tray.icons import PLATES, SIGN, picture
from holdfast_worker.tray.model import MAX_TITLE, TrayModel, TrayView, view_of
from holdfast_worker.tray.place import Entry
from holdfast_worker.tray.xmenu import CHOSEN, ROW
from support.control_port import FakeWorker, Steered, ask, steered
from support.reaper import reaper
from support.workers import until

#: The tray looks each second.
SEEN_SECONDS: Final = 10
SECONDS_TO_END: Final = 20
VARIANTS: Final[tuple[WorkerVariant, ...]] = ("idle", "busy", "paused", "disconnected")
#: The menu's rows.
PAUSE, OPEN, QUIT = range(3)


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))


@pytest.fixture
def port() -> Generator[Steered]:
    with steered("exec-1") as port:
        yield port


# What is shown for what the worker says


@pytest.mark.requirement("ST-06")
@pytest.mark.parametrize(
    ("change", "variant", "title", "label"),
    [
        (lambda w: None, "idle", "Holdfast w: idle", "Pause"),
        (lambda w: w.take(1), "busy", "Holdfast w: busy, 1 job", "Pause"),
        (lambda w: w.pause(), "paused", "Holdfast w: paused by its operator", "Resume"),
        (
            lambda w: (w.take(1), w.take(2), w.pause()),
            "paused",
            "Holdfast w: paused by its operator, 2 jobs",
            "Resume",
        ),
        (
            lambda w: w.learn(PauseMode.QUIESCE, 2),
            "paused",
            "Holdfast w: paused by the system (quiesce)",
            "Pause",
        ),
        (
            lambda w: (w.learn(PauseMode.DRAIN, 2), w.pause()),
            "paused",
            "Holdfast w: paused by its operator and by the system (drain)",
            "Resume",
        ),
        (
            lambda w: setattr(w, "connected", False),
            "disconnected",
            "Holdfast w: disconnected, the server does not answer",
            "Pause",
        ),
        (lambda w: w.stop(), "idle", "Holdfast w: stopping", "Pause"),
    ],
)
def test_icon_words_and_menu_follow_the_worker(change: Any, variant: str, title: str, label: str) -> None:
    worker = FakeWorker("w")
    change(worker)
    view = view_of("w", worker.status())
    assert (view.variant, view.title, view.switch_label, view.alive) == (variant, title, label, True)


def test_a_worker_that_does_not_answer_is_disconnected_and_offers_nothing() -> None:
    view = view_of("w", None)
    assert view == TrayView("disconnected", "Holdfast w: disconnected, the worker does not answer")
    assert view.alive is False
    assert len(view_of("x" * 128, None).title) == MAX_TITLE


@pytest.mark.requirement("ST-06")
def test_the_variants_are_told_apart_without_colour() -> None:
    signs = {variant: [pixel[0] > 160 for pixel in pixels(picture(variant, 24))] for variant in VARIANTS}
    for one, other in combinations(VARIANTS, 2):
        differing = sum(a != b for a, b in zip(signs[one], signs[other], strict=True))
        assert differing >= 0.1 * 24 * 24, (one, other, differing)


def test_the_signs_stand_out_on_their_plates() -> None:
    for plate in PLATES.values():
        assert contrast(SIGN, plate) >= 4.5


@pytest.mark.requirement("ST-05")
def test_the_model_does_what_its_menu_says_and_follows_a_restart() -> None:
    tray = TrayModel("w")
    assert tray.look().variant == "disconnected"
    assert (tray.turn().alive, tray.page()) == (False, None)
    with steered("w") as port:
        assert tray.look().switch == "pause"
        port.worker.pause()  # meanwhile, in code: the menu still says Pause, and a pause is what it asks for
        assert tray.turn().switch == "resume"
        assert port.worker.hold.locally_paused is True
        assert tray.turn().switch == "pause"
        assert port.worker.hold.locally_paused is False
        url = tray.page() or ""
        assert ask(port.control.url, "POST", "/session", None, {"code": url.partition("#")[2]}).status == 200
    assert tray.look().alive is False
    with steered("w"), steered("other") as other:
        other.worker.pause()
        assert tray.look().variant == "idle", "its own worker again, at another port, and no other"


# By pystray, on desktops of their own


def test_pystray_is_given_icon_words_and_menu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYSTRAY_BACKEND", "dummy")
    for name in [name for name in sys.modules if name.partition(".")[0] == "pystray"]:
        monkeypatch.delitem(sys.modules, name)
    pystray: Any = import_module("pystray")
    made: list[Any] = []

    class Headless(pystray.Icon):  # type: ignore[misc]
        """pystray's own, with a desktop that only notes what it is shown."""

        def __init__(self, *given: Any) -> None:
            super().__init__(*given)
            self.ended = threading.Event()
            self.labels: list[list[tuple[str, bool]]] = []
            made.append(self)

        def _run(self) -> None:
            self._mark_ready()
            assert self.ended.wait(SECONDS_TO_END)

        def _stop(self) -> None:
            self.ended.set()

        def _update_menu(self) -> None:
            self.labels.append([(item.text, item.enabled) for item in self.menu.items])

        def _show(self) -> None: ...
        def _hide(self) -> None: ...
        def _update_icon(self) -> None: ...
        def _update_title(self) -> None: ...

    place = DesktopIcon(SimpleNamespace(Icon=Headless, Menu=pystray.Menu, MenuItem=pystray.MenuItem))
    chosen: list[str] = []
    entries = [
        Entry(lambda view: view.switch_label, lambda: chosen.append("switch"), lambda view: view.alive),
        Entry(lambda view: "Open", lambda: chosen.append("open"), lambda view: view.alive),
    ]

    def follow() -> None:
        (icon,) = made
        assert icon.visible
        place.show(TrayView("paused", "b", "resume", alive=True))
        assert (icon.title, icon.icon.tobytes()) == ("b", picture("paused").tobytes())
        icon.menu.items[0](icon)
        icon()  # a plain click, where that is no menu
        place.end()

    place.run(entries, TrayView("idle", "a"), follow)
    (icon,) = made
    assert icon.labels[0] == [("Pause", False), ("Open", False)]
    assert icon.labels[-1] == [("Resume", True), ("Open", True)]
    assert chosen == ["switch", "open"]
    icon.visible = False


# On X11


@pytest.fixture(scope="module")
def display() -> Generator[str]:
    """An X server of these tests' own."""
    with started(
        needed("Xvfb", "xvfb"),
        "-displayfd",
        "1",
        "-screen",
        "0",
        "640x400x24",
        "-nolisten",
        "tcp",
        "-noreset",
    ) as server:
        assert server.stdout is not None
        yield f":{server.stdout.readline().strip()}"


@pytest.fixture
def screen(display: str) -> Generator["Screen"]:
    screen = Screen(display)
    yield screen
    screen.close()


@pytest.fixture
def panel(screen: "Screen") -> Generator["Panel"]:
    panel = Panel(screen)
    panel.begin()
    yield panel
    panel.end()


class Screen:
    """What somebody sees of a display, and what they do there."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._display = Display(name)
        self._display.set_error_handler(lambda error, request: None)
        self._root = self._display.screen().root

    def close(self) -> None:
        self._display.close()

    def has_panel(self) -> bool:
        atom = self._display.intern_atom("_NET_SYSTEM_TRAY_S0")
        return bool(self._display.get_selection_owner(atom) != X.NONE)

    def icon(self) -> Any:
        """The icon's window, where a panel has taken it in; None else."""
        return next((w for w in self._windows(self._root) if self._is_icon(w)), None)

    def _is_icon(self, window: Any) -> bool:
        try:
            return bool(window.get_wm_class() == ("holdfast", "Holdfast"))
        except XError:
            return False  # gone in this moment

    def icon_title(self) -> str | None:
        icon = self.icon()
        if icon is None:
            return None
        found = icon.get_full_property(self._display.intern_atom("_NET_WM_NAME"), X.AnyPropertyType)
        return None if found is None else bytes(found.value).decode()

    def shows(self, variant: WorkerVariant) -> bool:
        """Whether the pixels of the docked icon are this variant's."""
        place = self.place()
        if place is None:
            return False
        x, y, width, height = place
        side = min(width, height)
        left, top = (width - side) // 2, (height - side) // 2
        return self.pixels(x + left, y + top, side, side).tobytes() == picture(variant, side).tobytes()

    def place(self) -> tuple[int, int, int, int] | None:
        """Where the docked icon is, and its size."""
        icon = self.icon()
        if icon is None or icon.get_attributes().map_state != X.IsViewable:
            return None
        size, at = icon.get_geometry(), icon.translate_coords(self._root, 0, 0)
        return -at.x, -at.y, size.width, size.height

    def pixels(self, x: int, y: int, width: int, height: int) -> Image.Image:
        """What is really on the screen there."""
        found = self._root.get_image(x, y, width, height, X.ZPixmap, 0xFFFFFFFF)
        return Image.frombytes("RGB", (width, height), found.data, "raw", "BGRX")

    def menu(self) -> tuple[int, int] | None:
        """Where the open menu is; None where none is."""
        for window in self._root.query_tree().children:
            with ignored():
                if (
                    window.get_wm_name() == "Holdfast menu"
                    and window.get_attributes().map_state == X.IsViewable
                ):
                    size = window.get_geometry()
                    return size.x + size.border_width, size.y + size.border_width
        return None

    def open_menu(self, button: int = 1) -> tuple[int, int]:
        place = until(self.place, "the docked icon", SEEN_SECONDS)
        self.click(place[0] + place[2] // 2, place[1] + place[3] // 2, button)
        found: tuple[int, int] = until(self.menu, "the menu", SEEN_SECONDS)
        return found

    def choose(self, row: int) -> None:
        x, y = self.open_menu()
        self.click(x + 20, y + row * ROW + ROW // 2)
        until(lambda: self.menu() is None, "the menu's end", SEEN_SECONDS)

    def click(self, x: int, y: int, button: int = 1) -> None:
        self.point(x, y)
        for kind in (X.ButtonPress, X.ButtonRelease):
            xtest.fake_input(self._display, kind, button)
        self._display.sync()

    def point(self, x: int, y: int) -> None:
        xtest.fake_input(self._display, X.MotionNotify, x=x, y=y)
        self._display.sync()

    def press(self, key: str) -> None:
        code = self._display.keysym_to_keycode(XK.string_to_keysym(key))
        for kind in (X.KeyPress, X.KeyRelease):
            xtest.fake_input(self._display, kind, code)
        self._display.sync()

    def _windows(self, window: Any) -> Generator[Any]:
        with ignored():
            for child in window.query_tree().children:
                yield child
                yield from self._windows(child)


class Panel:
    """A panel with a system tray: trayer."""

    def __init__(self, screen: Screen) -> None:
        self._screen = screen
        self._stack = ExitStack()

    def begin(self) -> None:
        self._stack.enter_context(
            started(
                needed("trayer", "trayer"),
                "--edge",
                "top",
                "--align",
                "left",
                "--height",
                "32",
                DISPLAY=self._screen.name,
            )
        )
        until(self._screen.has_panel, "the panel", SEEN_SECONDS)

    def end(self) -> None:
        self._stack.close()
        until(lambda: not self._screen.has_panel(), "the panel's end", SEEN_SECONDS)


@contextmanager
def ignored() -> Generator[None]:
    """Windows of others may go while they are looked at."""
    try:
        yield
    except XError:
        return


@contextmanager
def started(*command: str, **environment: str) -> Generator["subprocess.Popen[str]"]:
    """A process, ended with the block."""
    process = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | environment,
        start_new_session=True,
    )
    reaper().watch_process(process.pid)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.terminate()
        process.communicate(timeout=SECONDS_TO_END)
        reaper().forget(process.pid)


@contextmanager
def tray_on(display: str, *options: str, **environment: str) -> Generator["subprocess.Popen[str]"]:
    """`holdfast worker tray` on this display."""
    command = [sys.executable, "-m", "holdfast_worker.cli", "worker", "tray", *options]
    # On every host the same way: some have another that Python could reach.
    with started(*command, DISPLAY=display, PYSTRAY_BACKEND="xorg", **environment) as process:
        yield process


def sees(screen: Screen, variant: WorkerVariant) -> None:
    until(lambda: screen.shows(variant), f"the icon for {variant}", SEEN_SECONDS)


def ended(process: "subprocess.Popen[str]") -> tuple[int, str]:
    _, err = process.communicate(timeout=SECONDS_TO_END)
    return process.returncode, err


@pytest.mark.requirement("ST-06")
def test_each_variant_is_seen_in_the_panel(screen: Screen, panel: Panel, port: Steered) -> None:
    with tray_on(screen.name):
        sees(screen, "idle")
        port.take(1)
        sees(screen, "busy")
        until(lambda: screen.icon_title() == "Holdfast exec-1: busy, 1 job", "the title", SEEN_SECONDS)
        port.learn(PauseMode.DRAIN, 2)
        sees(screen, "paused")
        port.worker.connected = False
        sees(screen, "disconnected")
        port.worker.connected = True
        port.learn(None, 3)
        sees(screen, "busy")


@pytest.mark.requirement("ST-05")
def test_the_menu_flips_the_local_pause_and_the_icon_shows_what_the_others_set(
    screen: Screen, panel: Panel, port: Steered
) -> None:
    with tray_on(screen.name):
        sees(screen, "idle")
        screen.choose(PAUSE)
        until(lambda: port.worker.hold.locally_paused, "the pause", SEEN_SECONDS)
        sees(screen, "paused")
        screen.choose(PAUSE)  # which says Resume by now
        until(lambda: not port.worker.hold.locally_paused, "the resume", SEEN_SECONDS)
        sees(screen, "idle")
        port.worker.pause()  # in code
        sees(screen, "paused")
        ask(port.control.url, "POST", "/resume", port.control.token)
        sees(screen, "idle")


def test_the_menu_obeys_the_keyboard_and_a_click_elsewhere_closes_it(
    screen: Screen, panel: Panel, port: Steered
) -> None:
    with tray_on(screen.name):
        sees(screen, "idle")
        for close in (lambda: screen.press("Escape"), lambda: screen.click(600, 390)):
            screen.open_menu(button=3)
            close()
            until(lambda: screen.menu() is None, "the menu's end", SEEN_SECONDS)
        assert port.worker.hold.locally_paused is False
        screen.open_menu()
        screen.press("Down")
        screen.press("Return")
        until(lambda: port.worker.hold.locally_paused, "the pause", SEEN_SECONDS)


def test_the_menu_opens_the_status_page(screen: Screen, panel: Panel, port: Steered, tmp_path: Path) -> None:
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\necho "$1" > "{opened}.new" && mv "{opened}.new" "{opened}"\n')
    browser.chmod(browser.stat().st_mode | stat.S_IXUSR)
    with tray_on(screen.name, BROWSER=f"{browser} %s"):
        sees(screen, "idle")
        screen.choose(OPEN)
        until(opened.exists, "the browser", SEEN_SECONDS)
    base, _, code = opened.read_text().strip().partition("/#")
    assert base == port.control.url
    assert ask(base, "POST", "/session", None, {"code": code}).status == 200


def test_a_worker_that_is_gone_is_disconnected_and_found_again(screen: Screen, panel: Panel) -> None:
    with tray_on(screen.name, "--worker-id", "exec-1") as tray:
        sees(screen, "disconnected")  # it may begin before its worker does
        with steered("exec-1"):
            sees(screen, "idle")
        sees(screen, "disconnected")
        x, y = screen.open_menu()
        screen.click(x + 20, y + ROW // 2)  # Pause: there is nothing to pause, so nothing is chosen
        screen.point(x + 20, y + QUIT * ROW + ROW // 2)
        until(
            lambda: screen.pixels(x + 2, y + QUIT * ROW + 2, 1, 1).getpixel((0, 0)) == CHOSEN,
            "the menu, still there",
        )
        screen.press("Escape")
        with steered("exec-1") as port:
            port.worker.pause()
            sees(screen, "paused")
        assert tray.poll() is None


def test_quit_ends_the_icon_and_not_the_worker(screen: Screen, panel: Panel, port: Steered) -> None:
    with tray_on(screen.name) as tray:
        sees(screen, "idle")
        screen.choose(QUIT)
        code, said = ended(tray)
        assert (code, "Traceback" in said) == (0, False)
    assert screen.icon() is None
    assert (port.worker.hold.stopping, port.worker.hold.locally_paused) == (False, False)


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_the_icon(screen: Screen, panel: Panel, port: Steered, sign: signal.Signals) -> None:
    with tray_on(screen.name) as tray:
        sees(screen, "idle")
        tray.send_signal(sign)
        assert ended(tray) == (0, "The worker exec-1 is beside the clock; Ctrl-C ends the icon.\n")


def test_the_icon_waits_for_a_panel_and_comes_back_with_the_next(screen: Screen, port: Steered) -> None:
    panel = Panel(screen)
    with tray_on(screen.name) as tray:
        assert tray.stderr is not None
        while "waits for one" not in (line := tray.stderr.readline()):
            assert line, "the icon has not said that it waits"
        for _ in range(2):
            panel.begin()
            sees(screen, "idle")
            panel.end()
            until(lambda: screen.icon() is None, "the icon's end", SEEN_SECONDS)
        assert tray.poll() is None


def test_a_display_that_goes_away_ends_the_icon_with_a_word(port: Steered) -> None:
    with started(needed("Xvfb", "xvfb"), "-displayfd", "1", "-nolisten", "tcp", "-noreset") as server:
        assert server.stdout is not None
        with tray_on(f":{server.stdout.readline().strip()}") as tray:
            assert tray.stderr is not None
            while "waits for one" not in (line := tray.stderr.readline()):
                assert line
            server.kill()
            code, said = ended(tray)
            assert (code, said) == (1, "Error: There is no place for an icon here: the display has gone.\n")


def test_without_a_display_the_verb_says_so(port: Steered) -> None:
    command = [sys.executable, "-m", "holdfast_worker.cli", "worker", "tray"]
    environment = {name: value for name, value in os.environ.items() if name != "DISPLAY"} | {
        "PYSTRAY_BACKEND": "xorg"
    }
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, env=environment, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("Error: There is no place for an icon here: ")
    assert "Traceback" not in done.stderr


def needed(program: str, package: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not installed (Debian: apt install {package})")
    return found


def pixels(image: Image.Image) -> list[tuple[int, ...]]:
    data = image.tobytes()
    return [tuple(data[index : index + 3]) for index in range(0, len(data), 3)]


def contrast(one: tuple[int, ...], other: tuple[int, ...]) -> float:
    """As WCAG counts it."""

    def light(colour: tuple[int, ...]) -> float:
        parts = [c / 255 / 12.92 if c <= 10 else ((c / 255 + 0.055) / 1.055) ** 2.4 for c in colour]
        return 0.2126 * parts[0] + 0.7152 * parts[1] + 0.0722 * parts[2]

    high, low = max(light(one), light(other)), min(light(one), light(other))
    return (high + 0.05) / (low + 0.05)
