"""The pictures of the tray icon: a plate with a sign on it, which is told apart by its shape as well as by its colour.

Idle is a ring, busy a triangle that points on, paused two bars, disconnected a cross.
"""

from functools import cache
from typing import Final

from PIL import Image, ImageDraw

from holdfast_worker.runtime.status import WorkerVariant

__all__ = ["PLATES", "SIGN", "picture"]

#: The plates' colours: white stands out on each, and each from light and dark panels.
PLATES: Final[dict[WorkerVariant, tuple[int, int, int]]] = {
    "idle": (63, 74, 85),
    "busy": (15, 107, 60),
    "paused": (138, 75, 0),
    "disconnected": (140, 29, 36),
}
SIGN: Final = (255, 255, 255)
#: Drawn so much larger, and made smaller then: smooth edges.
FINER: Final = 4
#: A sixteenth of the picture is the unit in which signs are drawn.
UNITS: Final = 16


@cache
def picture(variant: WorkerVariant, size: int = 64) -> Image.Image:
    """A square of `size` pixels, RGB."""
    side = size * FINER
    image = Image.new("RGB", (side, side), PLATES[variant])
    draw = ImageDraw.Draw(image)
    unit = side / UNITS

    def at(*units: float) -> list[float]:
        return [one * unit for one in units]

    match variant:
        case "idle":
            draw.ellipse(at(3, 3, 13, 13), outline=SIGN, width=round(2.25 * unit))
        case "busy":
            draw.polygon(at(4.5, 2.5, 13.5, 8, 4.5, 13.5), fill=SIGN)
        case "paused":
            draw.rectangle(at(3.5, 3, 6.75, 13), fill=SIGN)
            draw.rectangle(at(9.25, 3, 12.5, 13), fill=SIGN)
        case "disconnected":
            draw.line(at(3.5, 3.5, 12.5, 12.5), fill=SIGN, width=round(2.5 * unit))
            draw.line(at(12.5, 3.5, 3.5, 12.5), fill=SIGN, width=round(2.5 * unit))
    return image.reduce(FINER)
