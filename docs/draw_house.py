"""Draws docs/house.svg: the rooms of the product and the imports between them. `make picture` runs it.

A room is a folder of `stages/` or `pipeline/`, and `launch/` as a whole. The boxes, their order and the arrows follow from the imports in the
source files, so the picture is right as long as it is up to date; tests/unit/test_house_picture.py compares it with the source.
"""

import ast
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from html import escape
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PICTURE = ROOT / "docs" / "house.svg"
FLOORS = ("launch", "pipeline", "stages")  # imports run from left to right only
FRONT = {"pipeline.flow": "pipeline.run"}  # flow.py is the first page of the room whose driver runs it
FLOW = ("ingest", "segment", "listen", "condition", "generate", "assemble", "publish")  # left to right, in the order of flow.py

Graph = Mapping[str, Mapping[str, int]]
"""Each room with the rooms that it imports, and how many imports there are."""


# -- what the source says ---------------------------------------------------------------------------------------------


def room_of(module: str) -> str | None:
    """The room that a dotted module name without the namespace lies in, such as "pipeline.pools"; None for a single file of a floor."""
    floor, *rest = module.split(".")
    if floor not in FLOORS:
        return None
    if floor == "launch":
        return floor
    if not rest:
        return None
    name = f"{floor}.{rest[0]}"
    if name in FRONT:
        return FRONT[name]
    return name if (ROOT / floor / rest[0]).is_dir() else None


def imported(path: Path) -> Iterator[str]:
    """Every module of ours that a file imports, without the namespace. Imports for type checkers alone count as well."""
    for node in ast.walk(ast.parse(path.read_bytes(), str(path))):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [f"{node.module}.{alias.name}" for alias in node.names]  # a name may be a module
        yield from (name.removeprefix("infinitedub.") for name in names if name.startswith("infinitedub."))


def rooms() -> Graph:
    """The rooms of the checkout and their imports of each other."""
    graph: dict[str, Counter[str]] = {}
    for floor in FLOORS:
        for path in sorted((ROOT / floor).rglob("*.py")):
            own = room_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
            if own is not None:
                others = (room_of(name) for name in imported(path))
                graph.setdefault(own, Counter()).update(room for room in others if room not in (None, own))
    return graph


def files_of(floor: str) -> list[str]:
    """The single files of a floor: no rooms, since every room may import them."""
    return sorted(path.name for path in (ROOT / floor).glob("*.py") if path.stem != "__init__" and f"{floor}.{path.stem}" not in FRONT)


def summary(room: str) -> str:
    """The first sentence of a package's docstring, without the room's own name in front."""
    package = ROOT.joinpath(*room.split("."), "__init__.py")
    sentence = (ast.get_docstring(ast.parse(package.read_bytes())) or "").split("\n\n")[0].split(". ")[0].rstrip(".")
    head, colon, rest = " ".join(sentence.split()).partition(": ")
    return rest if colon and head.lower() == room.split(".")[-1] else f"{head}{colon}{rest}"


# -- the order of the rooms -------------------------------------------------------------------------------------------


def reachable(graph: Graph, start: str) -> set[str]:
    """Every room that `start` imports, directly or through others."""
    found: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        room = waiting.pop()
        if room not in found:
            found.add(room)
            waiting += graph[room]
    return found


def cycles(graph: Graph) -> list[tuple[str, str]]:
    """Every pair of rooms whose import is part of a cycle."""
    return sorted((room, other) for room in graph for other in graph[room] if room in reachable(graph, other))


def without_cycles(graph: Graph) -> tuple[Graph, list[tuple[str, str]]]:
    """The graph without the rarest import of each cycle, and the pairs that were taken out."""
    taken: list[tuple[str, str]] = []
    while pairs := cycles(graph):
        rarest = min(pairs, key=lambda pair: graph[pair[0]][pair[1]])
        graph = {room: {other: count for other, count in others.items() if (room, other) != rarest} for room, others in graph.items()}
        taken.append(rarest)
    return graph, taken


def essential(graph: Graph) -> list[tuple[str, str]]:
    """The imports that no other chain of imports implies: what a picture needs to show. The graph has no cycles."""
    return sorted(
        (room, other)
        for room, others in graph.items()
        for other in others
        if not any(other in reachable(graph, between) for between in others if between != other)
    )


def layers(graph: Graph, floor: str) -> list[list[str]]:
    """The rooms of a floor from top to bottom: each stands below every room of the floor that imports it. The graph has no cycles."""
    depth: dict[str, int] = {}

    def depth_of(room: str) -> int:
        if room not in depth:
            depth[room] = 1 + max((depth_of(other) for other in graph if other.startswith(floor) and room in graph[other]), default=-1)
        return depth[room]

    members = [room for room in graph if room.split(".")[0] == floor]
    rows = 1 + max(depth_of(room) for room in members)
    return [sorted((room for room in members if depth[room] == row), key=place_in_row) for row in range(rows)]


def place_in_row(room: str) -> tuple[int, str]:
    """The stages in the order of the flow, all others by name after them."""
    name = room.split(".")[-1]
    return (FLOW.index(name) if name in FLOW else len(FLOW), name)


# -- the drawing ------------------------------------------------------------------------------------------------------

WIDTH, MARGIN, LANE = 1000, 16, 34  # pixels; LANE is kept free of boxes at both sides of a floor, for long arrows
ROW_GAP, BOX_GAP, PAD = 52, 12, 34
MOST_LINES = 6  # of small text in a box
TITLE, LINE = 22, 14  # heights of a title and of a line of small text
LETTER = 5.75  # mean width of a small letter
COLOURS = {
    "launch": ("#fdf1e3", "#d9822b"),
    "pipeline": ("#e9f1fb", "#2f6db3"),
    "stages": ("#eaf6ec", "#2e8b57"),
}
INK, SOFT, ARROW, FAULT = "#1f2933", "#52606d", "#7b8794", "#c53030"


@dataclass(frozen=True)
class Rect:
    """A rectangle of the picture, in pixels."""

    x: float
    y: float
    width: float
    height: float

    @property
    def middle(self) -> float:
        return self.x + self.width / 2

    @property
    def bottom(self) -> float:
        return self.y + self.height


def wrapped(text: str, width: float) -> list[str]:
    """Lines of small text for a box of that width."""
    return textwrap.wrap(text.replace("`", ""), max(8, int((width - 16) / LETTER)), max_lines=MOST_LINES, placeholder=" ...")


def draw() -> str:
    """The picture as the text of an SVG file."""
    graph, faults = without_cycles(rooms())
    boxes: dict[str, Rect] = {}
    floors: dict[str, Rect] = {}
    strips: dict[str, Rect] = {}
    top: float = MARGIN
    for floor in FLOORS:
        y = top + (16 if floor == "launch" else PAD)
        for row in layers(graph, floor):
            inside = WIDTH - 2 * MARGIN - 2 * LANE
            width = min((inside - BOX_GAP * (len(row) - 1)) / len(row), inside if floor == "launch" else 270)
            gap = (inside - width * len(row)) / len(row)
            height = TITLE + 12 + LINE * max(len(wrapped(summary(room), width)) for room in row)
            for place, room in enumerate(row):
                boxes[room] = Rect(MARGIN + LANE + gap / 2 + place * (width + gap), y, width, height)
            y += height + ROW_GAP
        y -= ROW_GAP - 16
        if floor != "launch" and files_of(floor):
            strips[floor] = Rect(WIDTH / 2 - 210, y + 6, 420, 26)
            y += 44
        floors[floor] = Rect(MARGIN, top, WIDTH - 2 * MARGIN, y - top)
        top = y + 30
    verbs = [boxes[f"stages.{name}"] for name in FLOW]
    frame = Rect(verbs[0].x - 6, verbs[0].y - 6, verbs[-1].x + verbs[-1].width - verbs[0].x + 12, verbs[0].height + 12)
    return "\n".join(
        [
            f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {top + 4:.0f}" font-family="Helvetica, Arial, sans-serif">',
            "<title>The rooms of infinitedub and the imports between them</title>",
            f"<defs>{marker('arrow', ARROW)}{marker('fault', FAULT)}</defs>",
            '<rect width="100%" height="100%" fill="#ffffff"/>',
            *(line for floor in FLOORS for line in floor_lines(floor, floors[floor])),
            f'<rect {shape(frame, 9)} fill="none" stroke="{COLOURS["stages"][1]}" stroke-dasharray="5 4"/>',
            *arrows(essential(graph), boxes, frame, ARROW, "arrow"),
            *arrows(faults, boxes, frame, FAULT, "fault"),
            *(line for floor, strip in strips.items() for line in strip_lines(floor, strip)),
            *(line for room, box in boxes.items() for line in box_lines(room, box)),
            words(
                MARGIN,
                top - 8,
                "Arrows are imports. Those that follow from others are left out. An arrow to the dashed frame: to rooms in it.",
            ),
            "</svg>",
            "",
        ]
    )


def marker(name: str, colour: str) -> str:
    head = f'<path d="M0 1 L9 5 L0 9 z" fill="{colour}"/>'
    return f'<marker id="{name}" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="8" markerHeight="8" orient="auto-start-reverse">{head}</marker>'


def shape(rect: Rect, radius: int) -> str:
    return f'x="{rect.x:.1f}" y="{rect.y:.1f}" width="{rect.width:.1f}" height="{rect.height:.1f}" rx="{radius}"'


def words(x: float, y: float, text: str, *, size: int = 11, colour: str = SOFT, weight: str = "normal", anchor: str = "start") -> str:
    style = f'font-size="{size}" fill="{colour}" font-weight="{weight}" text-anchor="{anchor}"'
    return f'<text x="{x:.1f}" y="{y:.1f}" {style}>{escape(text, quote=False)}</text>'


def floor_lines(floor: str, rect: Rect) -> Iterator[str]:
    """A floor and its name."""
    fill, edge = COLOURS[floor]
    yield f'<rect {shape(rect, 12)} fill="{fill}"/>'
    if floor != "launch":
        yield words(rect.x + 14, rect.y + 22, f"{floor}/", size=15, colour=edge, weight="bold")


def strip_lines(floor: str, strip: Rect) -> Iterator[str]:
    """The single files of a floor."""
    fill, edge = COLOURS[floor]
    yield f'<rect {shape(strip, 7)} fill="{fill}" stroke="{edge}" stroke-opacity="0.45"/>'
    yield words(strip.middle, strip.y + 17, f"for every room: {', '.join(files_of(floor))}", size=12, anchor="middle")


def box_lines(room: str, box: Rect) -> Iterator[str]:
    """A room's box with its name and what it is for."""
    floor, _, name = room.partition(".")
    front = " ".join(module.split(".")[-1] + ".py," for module, home in FRONT.items() if home == room)
    yield f'<rect {shape(box, 7)} fill="#ffffff" stroke="{COLOURS[floor][1]}" stroke-width="1.4"/>'
    yield words(box.middle, box.y + 18, f"{front} {name or floor}/".strip(), size=14, colour=INK, weight="bold", anchor="middle")
    for number, line in enumerate(wrapped(summary(room), box.width)):
        yield words(box.middle, box.y + TITLE + 12 + LINE * number, line, anchor="middle")


def arrows(pairs: list[tuple[str, str]], boxes: Mapping[str, Rect], frame: Rect, colour: str, head: str) -> Iterator[str]:
    """An arrow for each pair of rooms; those that come from above to several stages of the flow are one arrow to their frame."""
    targets = {f"stages.{name}" for name in FLOW}
    ends: dict[tuple[str, str], tuple[Rect, Rect]] = {}
    for room, other in pairs:
        framed = other in targets and not room.startswith("stages.")
        ends[room, "frame" if framed else other] = (boxes[room], frame if framed else boxes[other])
    for (room, other), (start, stop) in ends.items():
        outside = -1.0 if start.middle < WIDTH / 2 else WIDTH + 1.0  # an arrow to another floor leaves at the side where its lane is
        leaving = sorted((pair for pair in ends if pair[0] == room), key=lambda pair: outside if changes_floor(pair) else ends[pair][1].middle)
        coming = sorted((pair for pair in ends if pair[1] == other), key=lambda pair: ends[pair][0].middle)
        x = port(start, leaving.index((room, other)), len(leaving))
        goal = port(stop, coming.index((room, other)), len(coming))
        path = route(x, start.bottom, goal, stop.y, boxes.values()) if stop.y > start.y else f"M{x:.1f} {start.y:.1f} L{goal:.1f} {stop.bottom:.1f}"
        yield f'<path d="{path}" fill="none" stroke="{colour}" stroke-width="1.6" marker-end="url(#{head})"/>'


def changes_floor(pair: tuple[str, str]) -> bool:
    return pair[0].split(".")[0] not in (pair[1].split(".")[0], "launch")


def port(box: Rect, place: int, count: int) -> float:
    """Where on an edge of the box the arrow of that place begins or ends."""
    return box.x + box.width * (place + 1) / (count + 1)


def route(x: float, y: float, goal: float, end: float, boxes: Iterable[Rect]) -> str:
    """A path downwards that passes between the boxes: a curve to the next row, else a vertical lane with a curve at both ends."""
    between = [box for box in boxes if box.y > y + 1 and box.bottom < end - 1]
    if not between:
        middle = (y + end) / 2
        return f"M{x:.1f} {y:.1f} C{x:.1f} {middle:.1f} {goal:.1f} {middle:.1f} {goal:.1f} {end:.1f}"
    sides = [side for box in between for side in (box.x - BOX_GAP / 2, box.x + box.width + BOX_GAP / 2)]
    free = [lane for lane in [goal, x, *sides] if not any(box.x - 3 < lane < box.x + box.width + 3 for box in between)]
    lane = min(free, key=lambda lane: abs(lane - x) + abs(lane - goal))
    first, last = min(box.y for box in between) - 8, max(box.bottom for box in between) + 8
    bend, rise = (y + first) / 2, (last + end) / 2
    enter = f"C{x:.1f} {bend:.1f} {lane:.1f} {bend:.1f} {lane:.1f} {first:.1f}"
    leave = f"C{lane:.1f} {rise:.1f} {goal:.1f} {rise:.1f} {goal:.1f} {end:.1f}"
    return f"M{x:.1f} {y:.1f} {enter} L{lane:.1f} {last:.1f} {leave}"


if __name__ == "__main__":
    PICTURE.write_text(draw())
