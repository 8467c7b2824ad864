"""A chart as inline SVG: axes, lines, whiskers, marks. Colours come from the page's style sheet, by class."""

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

from sia_runner.text import one_line

WIDTH, HEIGHT = 380, 240  # about pixels: fits on a phone without scaling
LEFT, RIGHT, TOP, BOTTOM = 46, 8, 26, 38
LABEL_SPACING = 14  # pixels between two lines of text
SHAPES, COLOURS = 4, 6


@dataclass(frozen=True, slots=True)
class ChartAxis:
    """The mapping from data to pixels."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        """Return the position of a value in pixels."""
        share = (value - self.low) / (self.high - self.low) if self.high > self.low else 0.5
        return round(self.start + share * (self.end - self.start), 1)


class SvgChart:
    """A chart. `describe`: its text for screen readers. `x` and `y`: lowest and highest value."""

    def __init__(self, title: str, describe: str, x: tuple[float, float], y: tuple[float, float]) -> None:
        box = {"viewBox": f"0 0 {WIDTH} {HEIGHT}", "role": "img", "aria-label": one_line(f"{title}: {describe}", 600)}
        self._root = ElementTree.Element("svg", box)
        self.x = ChartAxis(*x, LEFT + 14, WIDTH - RIGHT - 14)
        self.y = ChartAxis(*y, HEIGHT - BOTTOM, TOP)

    def frame(
        self, x_ticks: Sequence[tuple[float, str]], y_name: str, show: Callable[[float], str], x_name: str
    ) -> None:
        """Draw the grid, the ticks and the names of the axes."""
        for value in axis_ticks(self.y.low, self.y.high):
            at = self.y(value)
            self._add("line", "grid", x1=LEFT, x2=WIDTH - RIGHT, y1=at, y2=at)
            self.text(LEFT - 6, at + 4, show(value), "end")
        for value, name in x_ticks:
            self.text(self.x(value), HEIGHT - BOTTOM + 16, name, "middle")
        self.text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 6, x_name, "middle")
        self.text(0, 11, y_name, "start")

    def level(self, y: float) -> None:
        """Draw a line across at `y`, as a value to compare with."""
        self._add("line", "level", x1=LEFT, x2=WIDTH - RIGHT, y1=self.y(y), y2=self.y(y))

    def text(self, x: float, y: float, text: str, anchor: str, name: str = "") -> None:
        """Write a text at a position in pixels."""
        self._add("text", name, x=round(x, 1), y=round(y, 1), **{"text-anchor": anchor}).text = one_line(text, 40)

    def label(self, x: float, y: float, text: str, arm: int) -> None:
        """Write a text above a point, in the colour of its arm."""
        self.text(self.x(x), self.y(y) - 8, text, "middle", f"label arm{arm % COLOURS}")

    def ends(self, x: float, of: Sequence[tuple[float, str, int]]) -> None:
        """Write ``(y, text, arm)`` behind the ends of lines at `x`, one above the other if they would touch."""
        floor = float(HEIGHT)
        for y, text, arm in sorted(of):
            floor = min(self.y(y) + 4, floor - LABEL_SPACING)
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

    def whisker(self, x: float, bounds: Sequence[float] | None, arm: int, dodge: float = 0) -> None:
        """Draw an interval, cut at the frame: an interval of two seeds may leave any scale."""
        if not bounds:
            return
        at, ends = self.x(x) + dodge, [self.within(end) for end in bounds]
        path = f"M{at},{self.y(ends[0])}V{self.y(ends[1])}"
        caps = [f"M{at - 3.5},{self.y(end)}h7" for end, bound in zip(ends, bounds, strict=True) if end == bound]
        self._add("path", f"whisker arm{arm % COLOURS}", d="".join([path, *caps]))

    def mark(
        self, x: float, y: float, arm: int, *, filled: bool, tip: str, dodge: float = 0, small: bool = False
    ) -> None:
        """Draw a mark. Each arm has its own shape, so that colour is not the only difference."""
        shape = ElementTree.SubElement(
            self._root, "path", d=_shape(self.x(x) + dodge, self.y(y), arm, 2.6 if small else 4.2)
        )
        shape.set("class", f"mark arm{arm % COLOURS}{'' if filled else ' hollow'}")
        ElementTree.SubElement(shape, "title").text = one_line(tip, 300)

    def cross(self, x: float, arm: int, tip: str, dodge: float = 0) -> None:
        """Draw a cross at the bottom, for something without a value."""
        at, y = self.x(x) + dodge, HEIGHT - BOTTOM - 5
        path = f"M{at - 3.5},{y - 3.5}l7,7m0,-7l-7,7"
        cross = ElementTree.SubElement(self._root, "path", {"d": path, "class": f"cross arm{arm % COLOURS}"})
        ElementTree.SubElement(cross, "title").text = one_line(tip, 300)

    def within(self, y: float) -> float:
        """Limit a value to the frame."""
        return min(max(y, self.y.low), self.y.high)

    def __str__(self) -> str:
        return ElementTree.tostring(self._root, encoding="unicode")

    def _add(self, tag: str, name: str, **values: float | str) -> ElementTree.Element:
        attributes = {key: str(value) for key, value in values.items()} | ({"class": name} if name else {})
        return ElementTree.SubElement(self._root, tag, attributes)


def draw_swatch(arm: int, filled: bool = True) -> str:
    """Return the mark of an arm, for a legend."""
    root = ElementTree.Element("svg", {"viewBox": "0 0 14 14", "class": "swatch", "aria-hidden": "true"})
    name = f"mark arm{arm % COLOURS}{'' if filled else ' hollow'}"
    ElementTree.SubElement(root, "path", {"d": _shape(7, 7, arm, 5), "class": name})
    return ElementTree.tostring(root, encoding="unicode")


def axis_ticks(low: float, high: float) -> list[float]:
    """Return three to six round values between `low` and `high`."""
    if high <= low:
        return [low]
    decade = 10.0 ** math.floor(math.log10((high - low) / 3))
    step = max(decade * part for part in (1, 2, 2.5, 5) if decade * part <= (high - low) / 3 * (1 + 1e-9))
    first = -(-low // step)
    return [round((first + k) * step, 10) for k in range(12) if (first + k) * step <= high + step * 1e-9]


def _shape(x: float, y: float, arm: int, r: float) -> str:
    kind = arm % SHAPES
    if kind == 0:
        return f"M{x - r:.1f},{y:.1f}a{r},{r} 0 1,0 {2 * r},0a{r},{r} 0 1,0 {-2 * r},0"
    if kind == 1:
        return f"M{x - r:.1f},{y - r:.1f}h{2 * r}v{2 * r}h{-2 * r}z"
    if kind == 2:
        return f"M{x:.1f},{y - r:.1f}l{r},{r}l{-r},{r}l{-r},{-r}z"
    return f"M{x:.1f},{y - r:.1f}l{r},{1.8 * r:.1f}h{-2 * r}z"
