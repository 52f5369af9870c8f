"""The places of the demo's drawn media, and who is in them."""

from functools import cache
from math import pi, sin

import numpy as np
from PIL import Image

from infinitedub.assets.demo.drawing import Colour, Frame, Paper, camera, shade, smooth
from infinitedub.assets.demo.people import FACE_RX, FACE_RY, Hair, Looks, Pose, draw_person
from infinitedub.stages.records import Box

REPORTER = Looks((242, 196, 164), (176, 62, 34), (64, 132, 92), (196, 74, 78), (38, 88, 108), (250, 240, 222), Hair.BOB)
HOST = Looks((150, 98, 68), (44, 32, 34), (72, 44, 30), (146, 70, 66), (224, 164, 62), (250, 246, 238), Hair.SHORT)
POET = Looks((204, 150, 108), (52, 36, 40), (84, 60, 44), (190, 84, 82), (44, 92, 84), (246, 238, 220), Hair.BOB)
GUEST = Looks((248, 208, 178), (92, 60, 40), (70, 108, 150), (206, 84, 92), (146, 64, 92), (238, 226, 236), Hair.BUN, glasses=True)


def studio(width: int, height: int, seconds: float, pose: Pose) -> Image.Image:
    """The reporter in a warm room; the camera closes in."""
    near = 0.08 * seconds
    paper = Paper(width, height, camera(_room(width, height), -0.05 + 0.05 * seconds, 0.0, 1.02 + 0.3 * near))
    middle = width / height / 2
    person = paper.within(Frame(middle - 0.10 + 0.02 * seconds, 0.50 + 0.06 * near, 0.60 * (1 + near)))
    draw_person(person, REPORTER, pose)
    paper.glow(0.18, 0.12, 0.9, (255, 214, 150), 0.22)
    return paper.finished()


def meadow(width: int, height: int, seconds: float, pose: Pose) -> Image.Image:
    """The reporter outdoors, closer; the camera wanders along the hills."""
    paper = Paper(width, height, camera(_hills(width, height), -0.35 + 0.22 * seconds, 0.1, 1.18))
    middle = width / height / 2
    person = paper.within(Frame(middle + 0.17 - 0.035 * seconds, 0.52, 0.70))
    draw_person(person, REPORTER, pose)
    paper.glow(1.35, 0.05, 1.0, (190, 226, 255), 0.20)
    return paper.finished()


def portrait(width: int, height: int) -> Image.Image:
    """The poet before an evening sky, looking at us."""
    paper = Paper(width, height)
    paper.sky((72, 84, 150), (240, 170, 130))
    for x, y, radius, colour in ((0.16, 0.24, 0.13, (250, 214, 160)), (0.88, 0.62, 0.20, (120, 92, 140)), (0.05, 0.80, 0.22, (96, 80, 130))):
        paper.ellipse(x * width / height, y, radius, radius, colour)
    paper.image.paste(paper.blurred(0.012))
    draw_person(paper.within(Frame(0.5 * width / height, 0.49, 0.68)), POET, Pose())
    return paper.finished()


def interview(width: int, height: int) -> tuple[Image.Image, tuple[Box, Box]]:
    """Host and guest at a table, and where their faces are in the picture, left first."""
    paper = Paper(width, height)
    _recording_room(paper)
    wide = width / height
    places = [
        (HOST, Frame(0.27 * wide, 0.49, 0.62), Pose(turn=0.03, shift=0.10)),
        (GUEST, Frame(0.73 * wide, 0.50, 0.62), Pose(turn=-0.03, shift=-0.10)),
    ]
    for looks, place, pose in places:
        draw_person(paper.within(place), looks, pose)
    paper.fill(smooth([(-0.2, 0.96), (0.5 * wide, 0.935), (wide + 0.2, 0.96), (wide + 0.2, 1.3), (-0.2, 1.3)], closed=True), (112, 70, 52))
    paper.stroke(smooth([(-0.2, 0.96), (0.5 * wide, 0.937), (wide + 0.2, 0.96)], closed=False), 0.012, (158, 104, 74))
    for x, side in ((0.47 * wide, -1), (0.53 * wide, 1)):
        _microphone(paper, x, side)
    paper.glow(0.5 * wide, 0.02, 0.9, (255, 200, 140), 0.26)
    left, right = (_face_box(place, height) for _, place, _ in places)
    return paper.finished(), (left, right)


def moment(seconds: float, mouth: float) -> Pose:
    """How somebody who talks holds the head: swaying, nodding with the voice, blinking every other second."""
    blink = min(abs((seconds + 0.4) % 2.1 - 1.5) / 0.09, 1.0)
    return Pose(
        turn=0.045 * sin(2 * pi * 0.41 * seconds) + 0.02 * sin(2 * pi * 1.13 * seconds),
        shift=0.5 * sin(2 * pi * 0.29 * seconds + 0.6),
        mouth=mouth,
        wide=0.5 + 0.45 * sin(2 * pi * 1.7 * seconds),
        lids=blink,
        brows=0.5 + 0.5 * sin(2 * pi * 0.53 * seconds),
        breath=0.5 + 0.5 * sin(2 * pi * 0.3 * seconds),
    )


def _face_box(place: Frame, height: int) -> Box:
    """Where the face of somebody drawn at `place` is, in pixels of a picture of that height."""
    rx, ry = FACE_RX * place.scale, FACE_RY * place.scale
    return Box(*(round(edge * height) for edge in (place.x - rx, place.y - ry, place.x + rx, place.y + ry)))


@cache
def _room(width: int, height: int) -> Image.Image:
    """A wall in evening light, a window, shelves, a lamp; a little out of focus."""
    paper = Paper(width, height)
    paper.sky((250, 196, 148), (214, 122, 96))
    wide = width / height
    paper.rectangle(0.10, 0.08, 0.44, 0.50, (255, 244, 220))
    for row in range(2):
        for column in range(2):
            paper.rectangle(0.125 + 0.205 * column, 0.105 + 0.235 * row, 0.185, 0.215, ((255, 222, 150), (255, 190, 120))[row])
    paper.ellipse(0.33, 0.44, 0.06, 0.06, (255, 244, 196))
    colours: list[Colour] = [(178, 58, 60), (236, 158, 60), (90, 60, 92), (58, 120, 118), (232, 208, 160), (140, 46, 70), (206, 96, 52)]
    for shelf in range(3):
        floor = 0.28 + 0.25 * shelf
        left = wide - 0.56
        paper.rectangle(left - 0.02, floor, 0.60, 0.024, (120, 66, 48))
        x = left
        for book in range(9):
            thick, high = 0.038 + 0.013 * ((book * 7 + shelf * 5) % 3), 0.13 + 0.022 * ((book * 5 + shelf * 3) % 4)
            paper.rectangle(x, floor - high, thick, high, colours[(book * 3 + shelf * 2) % len(colours)])
            x += thick + 0.006
    paper.rectangle(0.70, 0.50, 0.014, 0.6, (110, 62, 48))
    paper.fill(np.array([[0.63, 0.36], [0.785, 0.36], [0.83, 0.53], [0.585, 0.53]]), (255, 226, 160))
    paper.glow(0.707, 0.45, 0.45, (255, 196, 110), 0.55)
    return paper.blurred(0.007)


@cache
def _hills(width: int, height: int) -> Image.Image:
    """A blue morning: sky, clouds, ranges of hills, a meadow with trees; a little out of focus."""
    paper = Paper(width, height)
    paper.sky((46, 116, 196), (196, 232, 246), until=0.62)
    wide = width / height
    for x, y, size in ((0.25, 0.16, 0.10), (0.95, 0.10, 0.08), (1.48, 0.22, 0.11)):
        for dx, dy, r in ((-1.1, 0.25, 0.6), (-0.4, 0.0, 0.9), (0.45, 0.05, 0.8), (1.1, 0.3, 0.55)):
            paper.ellipse(x + dx * size, y + dy * size, r * size * 1.25, r * size * 0.72, (244, 250, 254))
    along = np.linspace(-0.1, wide + 0.1, 120)
    ranges: list[tuple[float, float, float, Colour]] = [
        (0.52, 0.10, 4.1, (118, 166, 196)),
        (0.60, 0.07, 5.7, (78, 138, 150)),
        (0.70, 0.05, 3.3, (58, 132, 92)),
    ]
    for level, high, often, colour in ranges:
        ridge = level - high * np.sin(often * along + 7 * level) - 0.4 * high * np.sin(2.7 * often * along)
        paper.fill(np.concatenate([np.stack([along, ridge], 1), [[wide + 0.1, 1.1], [-0.1, 1.1]]]), colour)
    for at, size in ((0.12, 0.9), (0.34, 0.6), (1.22, 0.7), (1.46, 1.0), (1.60, 0.65)):
        paper.rectangle(at - 0.008 * size, 0.72, 0.016 * size, 0.10 * size, (84, 62, 50))
        for dx, dy in ((-0.04, 0.0), (0.04, 0.0), (0.0, -0.05)):
            paper.ellipse(at + dx * size, 0.70 + dy * size, 0.062 * size, 0.068 * size, (36, 104, 72))
    paper.rectangle(-0.1, 0.80, wide + 0.2, 0.4, (86, 164, 84))
    return paper.blurred(0.006)


def _recording_room(paper: Paper) -> None:
    """A dark wall of felt panels with two lamps."""
    paper.sky((44, 52, 92), (76, 66, 116))
    wide = paper.size[0] / paper.size[1]
    for row in range(4):
        for column in range(8):
            tone = 0.86 + 0.09 * ((row * 3 + column * 5) % 4)
            paper.rectangle(wide * column / 8 + 0.008, 0.24 * row + 0.008, wide / 8 - 0.016, 0.224, shade((62, 66, 112), tone))
    for x in (0.08 * wide, 0.92 * wide):
        paper.glow(x, 0.30, 0.55, (255, 176, 96), 0.75)
        paper.ellipse(x, 0.30, 0.055, 0.055, (255, 236, 190))
    paper.image.paste(paper.blurred(0.004))


def _microphone(paper: Paper, x: float, side: int) -> None:
    """A table microphone that leans towards its speaker."""
    base, tip = (x, 0.95), (x + side * 0.04, 0.83)
    paper.ellipse(base[0], base[1], 0.055, 0.016, (34, 32, 42))
    paper.stroke(np.array([base, tip]), 0.012, (50, 48, 60))
    paper.stroke(np.array([tip, (tip[0] + side * 0.030, tip[1] - 0.055)]), 0.060, (42, 40, 52))
    paper.stroke(np.array([(tip[0] + side * 0.020, tip[1] - 0.036), (tip[0] + side * 0.034, tip[1] - 0.062)]), 0.050, (96, 94, 112))
