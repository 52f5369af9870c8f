"""Cartoon people who can talk: their looks, a moment of their faces, and how both are drawn."""

from dataclasses import dataclass
from enum import Enum

import numpy as np

from infinitedub.assets.demo.drawing import Colour, Frame, Paper, Points, mirrored, oval, shade, smooth

FACE_RX, FACE_RY = 0.40, 0.50  # half of the face, in units of the head; the chin is at y = FACE_RY
NECK = 0.45  # below the head's centre: what it turns about
FEATURES = 0.045  # how far the eyes move across the face as Pose.shift goes from 0 to 1


class Hair(Enum):
    BOB = "bob"
    SHORT = "short"
    BUN = "bun"


@dataclass(frozen=True)
class Looks:
    """What stays the same about somebody."""

    skin: Colour
    hair: Colour
    iris: Colour
    lips: Colour
    coat: Colour
    shirt: Colour
    cut: Hair
    beard: bool = False
    glasses: bool = False


@dataclass(frozen=True)
class Pose:
    """A moment: where the head is and what the face does."""

    turn: float = 0.0  # of the head, in the picture plane, radians
    shift: float = 0.0  # features across the face, -1 to 1: where the head looks
    mouth: float = 0.0  # how far open, 0 to 1
    wide: float = 0.5  # 0 a round mouth, 1 a wide one
    lids: float = 1.0  # 1 open, 0 closed
    brows: float = 0.0  # raised, 0 to 1
    breath: float = 0.0  # shoulders up, 0 to 1


def draw_person(paper: Paper, looks: Looks, pose: Pose) -> None:
    """Head and shoulders. The head is one unit high and its centre lies at the origin."""
    # The head turns about the neck, not about its own centre.
    neck = np.array([[0.0, NECK]])
    x, y = (neck - Frame(angle=pose.turn)(neck))[0]
    head = Frame(float(x), float(y) - 0.012 * pose.breath, angle=pose.turn)
    top = paper.within(head)
    _hair_behind(top, looks)
    _body(paper, looks, pose)
    _ears(top, looks)
    _face(top, looks, pose)
    if looks.beard:
        _beard(top, looks)
    _mouth(top, looks, pose)
    _hair_before(top, looks)
    _eyes(top, looks, pose)


def face_outline(rx: float = FACE_RX, ry: float = FACE_RY) -> Points:
    """An oval that narrows to the chin."""
    t = np.linspace(0, 2 * np.pi, 96, endpoint=False)
    low = np.clip(np.sin(t), 0, 1)
    return np.stack([rx * np.cos(t) * (1 - 0.20 * low**2), ry * np.sin(t) * np.where(np.sin(t) > 0, 1.0, 0.98)], axis=1)


def _body(paper: Paper, looks: Looks, pose: Pose) -> None:
    def outline(*points: tuple[float, float]) -> Points:
        return smooth(points, closed=True) - (0.0, 0.02 * pose.breath)

    half = [(0.20, 0.62), (0.36, 0.70), (0.66, 0.80), (0.86, 1.02), (0.96, 1.40), (1.0, 2.4)]
    paper.fill(outline(*half, *((-x, y) for x, y in reversed(half))), looks.coat)
    paper.fill(outline((0.52, 0.78), (0.86, 1.02), (0.96, 1.4), (1.0, 2.4), (0.74, 2.4), (0.72, 1.3)), shade(looks.coat, 0.86))
    paper.fill(outline((-0.21, 0.66), (0.0, 1.36), (0.21, 0.66), (0.0, 0.60)), looks.shirt)
    neck = outline((-0.17, 0.25), (-0.16, 0.56), (-0.23, 0.70), (0.0, 0.88), (0.23, 0.70), (0.16, 0.56), (0.17, 0.25))
    paper.fill(neck, shade(looks.skin, 0.86))
    chin_shadow = outline((-0.17, 0.3), (-0.165, 0.50), (0.0, 0.63), (0.165, 0.50), (0.17, 0.3))
    paper.fill(chin_shadow, shade(looks.skin, 0.72))
    lapel = outline((-0.22, 0.62), (-0.35, 0.72), (-0.34, 0.98), (-0.20, 1.02), (-0.02, 1.44), (-0.12, 0.98))
    paper.fill(lapel, shade(looks.coat, 1.14))
    paper.fill(mirrored(lapel), shade(looks.coat, 1.05))
    paper.stroke(np.array([[0.0, 1.40], [0.02, 2.4]]), 0.016, shade(looks.coat, 0.74))


def _ears(paper: Paper, looks: Looks) -> None:
    for side in (-1, 1):
        paper.ellipse(side * 0.395, 0.03, 0.065, 0.105, shade(looks.skin, 0.90))
        paper.ellipse(side * 0.40, 0.035, 0.034, 0.062, shade(looks.skin, 0.74))


def _face(paper: Paper, looks: Looks, pose: Pose) -> None:
    paper.fill(face_outline(), shade(looks.skin, 0.88))
    paper.fill(face_outline() * (0.93, 0.985) - (0.028, 0.006), looks.skin)
    blush = tuple(round(0.80 * s + 0.20 * c) for s, c in zip(looks.skin, (236, 96, 88), strict=True))
    for side in (-1, 1):
        paper.ellipse(side * 0.205 + 0.05 * pose.shift, 0.155, 0.075, 0.045, blush)  # type: ignore[arg-type]
    x = 0.06 * pose.shift
    nose = smooth([(x - 0.004, -0.03), (x + 0.020, 0.06), (x + 0.048, 0.125), (x + 0.022, 0.150), (x - 0.030, 0.146)], closed=False)
    paper.stroke(nose, 0.016, shade(looks.skin, 0.76))


def _beard(paper: Paper, looks: Looks) -> None:
    whole = face_outline()
    jaw = whole[whole[:, 1] > 0.10] * (1.0, 1.03)
    inner = smooth([(-0.29, 0.13), (-0.22, 0.205), (-0.10, 0.185), (0.0, 0.178), (0.10, 0.185), (0.22, 0.205), (0.29, 0.13)], closed=False)
    paper.fill(np.concatenate([jaw, inner]), looks.hair)


def _mouth(paper: Paper, looks: Looks, pose: Pose) -> None:
    half = 0.122 + 0.050 * pose.wide - 0.012 * pose.mouth
    opening = 0.156 * pose.mouth
    x = np.linspace(-1, 1, 40)
    middle = 0.268 + 0.012 * pose.mouth
    corner = -0.020 * x**2 * (1 - pose.mouth)  # at rest the corners are up
    bow = 0.5 * (1 + np.cos(np.pi * x))
    round_lips = np.sqrt(np.clip(1 - x**2, 0, 1))
    upper = middle + corner - 0.30 * opening * round_lips
    lower = middle + corner + 0.70 * opening * round_lips
    across = x * half + 0.055 * pose.shift

    def between(above: np.ndarray, below: np.ndarray, colour: Colour) -> None:
        paper.fill(np.concatenate([np.stack([across, above], 1), np.stack([across, below], 1)[::-1]]), colour)

    between(upper - 0.030 * round_lips + 0.010 * bow * np.exp(-(8 * x**2)), upper + 0.004, looks.lips)
    between(lower - 0.004, lower + 0.038 * round_lips, shade(looks.lips, 1.12))
    if pose.mouth > 0.04:
        between(upper, lower, (44, 10, 18))
        between(np.maximum(upper, lower - 0.045 * (1 - x**2) * min(1.0, 2 * pose.mouth)), lower, (196, 84, 92))  # tongue
        between(upper, np.minimum(upper + 0.036 * round_lips, lower), (250, 246, 238))  # teeth
    else:
        paper.stroke(np.stack([across, middle + corner], 1), 0.013, shade(looks.lips, 0.62))


def _eyes(paper: Paper, looks: Looks, pose: Pose) -> None:
    for side in (-1, 1):
        x0, y0 = side * 0.168 + FEATURES * pose.shift, -0.055
        paper.ellipse(x0, y0, 0.078, 0.056, (250, 250, 247))
        look = x0 + 0.020 * pose.shift
        paper.ellipse(look, y0 + 0.002, 0.043, 0.047, looks.iris)
        paper.ellipse(look, y0 + 0.002, 0.023, 0.025, (24, 20, 26))
        paper.ellipse(look - 0.014, y0 - 0.018, 0.012, 0.012, (255, 255, 255))
        # The lid is skin drawn over the eye from above, down to its own edge.
        x = np.linspace(-0.092, 0.092, 30)
        arch = 1 - (x / 0.092) ** 2
        edge = y0 + 0.030 - (0.034 + 0.046 * arch) * (0.15 + 0.85 * pose.lids) + 0.028 * (1 - pose.lids)
        above = y0 - 0.075 - 0.010 * arch
        paper.fill(np.stack([np.concatenate([x, x[::-1]]) + x0, np.concatenate([np.minimum(above, edge), edge[::-1]])], 1), looks.skin)
        paper.stroke(np.stack([x[2:-2] + x0, edge[2:-2]], 1), 0.022, shade(looks.hair, 0.45))
        brow_y = y0 - 0.118 - 0.030 * pose.brows
        brow = [(x0 - side * 0.070, brow_y + 0.014), (x0 - side * 0.010, brow_y - 0.012), (x0 + side * 0.085, brow_y + 0.014)]
        paper.stroke(smooth(brow, closed=False), 0.026, shade(looks.hair, 0.70))
        if looks.glasses:
            ring = oval(x0, y0 + 0.005, 0.120, 0.100)
            paper.stroke(np.concatenate([ring, ring[:2]]), 0.016, (52, 44, 48))
    if looks.glasses:
        bridge = smooth([(-0.05 + 0.045 * pose.shift, -0.06), (0.045 * pose.shift, -0.078), (0.05 + 0.045 * pose.shift, -0.06)], closed=False)
        paper.stroke(bridge, 0.016, (52, 44, 48))


def _hair_behind(paper: Paper, looks: Looks) -> None:
    if looks.cut is Hair.BOB:
        bob = [(0.0, -0.63), (-0.33, -0.55), (-0.50, -0.25), (-0.53, 0.12), (-0.56, 0.44), (-0.40, 0.62), (-0.15, 0.60)]
        bob += [(0.15, 0.60), (0.40, 0.62), (0.56, 0.44), (0.53, 0.12), (0.50, -0.25), (0.33, -0.55)]
        paper.fill(smooth(bob, closed=True), shade(looks.hair, 0.72))
    elif looks.cut is Hair.BUN:
        paper.ellipse(0.05, -0.66, 0.21, 0.19, shade(looks.hair, 0.86))
        paper.ellipse(0.02, -0.68, 0.13, 0.10, looks.hair)
        paper.ellipse(0.0, -0.14, 0.455, 0.47, shade(looks.hair, 0.72))
    else:
        paper.ellipse(0.0, -0.12, 0.425, 0.45, shade(looks.hair, 0.75))


def _hair_before(paper: Paper, looks: Looks) -> None:
    if looks.cut is Hair.BOB:
        crown = [(-0.44, 0.30), (-0.50, 0.0), (-0.47, -0.33), (-0.27, -0.57), (0.03, -0.62), (0.31, -0.55), (0.48, -0.30), (0.50, 0.02), (0.44, 0.30)]
        fringe = [(0.405, 0.10), (0.375, -0.13), (0.25, -0.30), (0.02, -0.42), (-0.16, -0.30), (-0.33, -0.20), (-0.395, -0.02), (-0.41, 0.14)]
        strands = [[(0.03, -0.60), (0.24, -0.46), (0.40, -0.22), (0.45, 0.10)], [(0.03, -0.58), (-0.20, -0.45), (-0.38, -0.24)]]
    elif looks.cut is Hair.BUN:
        crown = [(-0.41, 0.02), (-0.455, -0.20), (-0.34, -0.50), (0.0, -0.60), (0.34, -0.50), (0.455, -0.20), (0.41, 0.02)]
        fringe = [(0.375, -0.10), (0.28, -0.30), (0.05, -0.40), (-0.20, -0.33), (-0.35, -0.18), (-0.385, -0.04)]
        strands = [[(-0.30, -0.34), (-0.12, -0.48), (0.04, -0.56)], [(0.32, -0.32), (0.18, -0.46), (0.06, -0.56)]]
    else:
        crown = [(-0.40, -0.02), (-0.44, -0.25), (-0.38, -0.50), (-0.16, -0.63), (0.12, -0.64), (0.38, -0.52), (0.45, -0.24), (0.40, -0.02)]
        fringe = [(0.385, -0.10), (0.33, -0.29), (0.16, -0.345), (-0.10, -0.36), (-0.28, -0.33), (-0.35, -0.22), (-0.385, -0.08)]
        strands = [[(-0.24, -0.42), (0.0, -0.54), (0.24, -0.52)], [(-0.06, -0.40), (0.14, -0.46), (0.32, -0.40)]]
    paper.fill(np.concatenate([smooth(crown, closed=False), smooth(fringe, closed=False)]), looks.hair)
    for strand in strands:
        paper.stroke(smooth(strand, closed=False), 0.018, shade(looks.hair, 1.28))
