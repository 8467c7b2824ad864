"""A chart as inline SVG: axes, lines, whiskers, marks. Colours come from the page's style sheet, by class."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from xml.etree import ElementTree

from markupsafe import Markup

from sia_runner.text import one_line

WIDTH, HEIGHT = 380, 240  # about pixels: fits on a phone without scaling
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 26, 38
_LABEL_SPACING = 14  # pixels between two lines of text
COLOURS = 6
Bounds = Sequence[float] | None


class SvgChart:
    """A chart with its axes. `describe`: its text for screen readers. `x`, `y`: lowest and highest value."""

    def __init__(
        self,
        title: str,
        describe: str,
        x: tuple[float, float],
        y: tuple[float, float],
        x_ticks: Sequence[tuple[float, str]],
        y_name: str,
        show: Callable[[float], str],
        x_name: str,
    ) -> None:
        box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": one_line(f"{title}: {describe}", 600)}
        self._root = ElementTree.Element("svg", box)
        self._low, self._high = y
        self.x = partial(_pixel, *x, LEFT + 14, WIDTH - RIGHT - 14)
        self.y = partial(_pixel, *y, HEIGHT - BOTTOM, TOP)
        for value in axis_ticks(*y):
            self.rule(value, "grid")
            self.text(LEFT - 6, self.y(value) + 4, show(value), "end")
        for value, name in x_ticks:
            self.text(self.x(value), HEIGHT - BOTTOM + 16, name, "middle")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_name, "middle")
        self.text(0, 11, y_name, "start")

    def rule(self, y: float, name: str) -> None:
        """Draw a line across at `y`."""
        self._add("line", name, x1=LEFT, x2=WIDTH - RIGHT, y1=self.y(y), y2=self.y(y))

    def text(self, x: float, y: float, text: str, anchor: str, name: str = "") -> None:
        """Write a text at a position in pixels."""
        self._add("text", name, x=round(x, 1), y=round(y, 1), **{"text-anchor": anchor}).text = one_line(text, 40)

    def ends(self, x: float, of: Sequence[tuple[float, str, int]]) -> None:
        """Write ``(y, text, arm)`` behind the ends of lines at `x`, one above the other if they would touch."""
        floor = float(HEIGHT)
        for y, text, arm in sorted(of):
            floor = min(self.y(y) + 4, floor - _LABEL_SPACING)
            self.text(self.x(x) + 14, floor, text, "start", f"label arm{arm % COLOURS}")

    def line(self, points: Sequence[tuple[float, float]], arm: int, kind: str = "line", dodge: float = 0) -> None:
        """Draw a line through points."""
        if len(points) > 1:
            path = " ".join(f"{self.x(x) + dodge},{self.y(y)}" for x, y in points)
            self._add("polyline", f"{kind} arm{arm % COLOURS}", points=path)

    def steps(self, points: Sequence[tuple[float, float]], arm: int, dodge: float = 0) -> None:
        """Draw a line on which each value holds until the next one."""
        corners = list(points[:1])
        for (_, before), (x, y) in itertools.pairwise(points):
            corners += [(x, before), (x, y)]
        self.line(corners, arm, dodge=dodge)

    def band(
        self, low: Sequence[tuple[float, float]], high: Sequence[tuple[float, float]], arm: int, dodge: float = 0
    ) -> None:
        """Fill the area between two lines."""
        path = " ".join(f"{self.x(x) + dodge},{self.y(y)}" for x, y in [*low, *reversed(high)])
        self._add("polygon", f"band arm{arm % COLOURS}", points=path)

    def mark(
        self, x: float, y: float, arm: int, tip: str, bounds: Bounds = None, *, filled: bool = True, dodge: float = 0
    ) -> None:
        """Draw a mark of the arm's own shape, with the interval `bounds`, which is cut at the frame."""
        at, number = self.x(x) + dodge, arm % COLOURS
        if bounds:
            ends = [self.within(end) for end in bounds]
            caps = [f"M{at - 3.5},{self.y(end)}h7" for end, bound in zip(ends, bounds, strict=True) if end == bound]
            path = "".join([f"M{at},{self.y(ends[0])}V{self.y(ends[1])}", *caps])
            self._add("path", f"whisker arm{number}", d=path)
        self._add_tipped(_shape(at, self.y(y), arm, 4.2), f"mark arm{number}{'' if filled else ' hollow'}", tip)

    def small_mark(self, x: float, y: float, arm: int, tip: str) -> None:
        """Draw a hollow mark for one of several runs, beside their mean."""
        self._add_tipped(_shape(self.x(x) + 9, self.y(y), arm, 2.6), f"mark arm{arm % COLOURS} hollow", tip)

    def cross(self, x: float, arm: int, tip: str, dodge: float = 0) -> None:
        """Draw a cross at the bottom, for something without a value."""
        at, y = self.x(x) + dodge, HEIGHT - BOTTOM - 5
        self._add_tipped(f"M{at - 3.5},{y - 3.5}l7,7m0,-7l-7,7", f"cross arm{arm % COLOURS}", tip)

    def within(self, y: float) -> float:
        """Limit a value to the frame."""
        return min(max(y, self._low), self._high)

    def markup(self) -> Markup:
        """Return the chart for a page."""
        return _markup(self._root)

    def _add(self, tag: str, name: str, **values: float | str) -> ElementTree.Element:
        attributes = {key: str(value) for key, value in values.items()} | ({"class": name} if name else {})
        return ElementTree.SubElement(self._root, tag, attributes)

    def _add_tipped(self, path: str, name: str, tip: str) -> None:
        ElementTree.SubElement(self._add("path", name, d=path), "title").text = one_line(tip, 300)


def _pixel(low: float, high: float, start: float, end: float, value: float) -> float:
    share = (value - low) / (high - low) if high > low else 0.5
    return round(start + share * (end - start), 1)


def _markup(root: ElementTree.Element) -> Markup:
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # noqa: S704 - it escapes every text


def draw_swatch(arm: int) -> Markup:
    """Return the mark of an arm, for a legend."""
    root = ElementTree.Element("svg", {"viewBox": "0 0 14 14", "class": "swatch", "aria-hidden": "true"})
    ElementTree.SubElement(root, "path", {"d": _shape(7, 7, arm, 5), "class": f"mark arm{arm % COLOURS}"})
    return _markup(root)


def axis_ticks(low: float, high: float) -> list[float]:
    """Return three to six round values between `low` and `high`."""
    if high <= low:
        return [low]
    decade = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(decade * part for part in (1, 2, 2.5, 5) if decade * part <= (high - low) / 3 * (1 + 1e-9))
    first = -(-low // step)
    return [round((first + k) * step, 10) for k in range(12) if (first + k) * step <= high + step * 1e-9]


def _shape(x: float, y: float, arm: int, r: float) -> str:
    return (
        f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1,0 {2 * r},0a{r},{r} 0 1,0 {-2 * r},0",  # circle, square, diamond, triangle
        f"M{x - r:.1f},{y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z",
        f"M{x:.1f},{y - r:.1f}l{r},{r}l{-r},{r}l{-r},{-r}z",
        f"M{x:.1f},{y - r:.1f}l{r},{1.8 * r:.1f}h{-2 * r}z",
    )[arm % 4]
