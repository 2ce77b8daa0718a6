"""Sphinx extension: where a figure can be cut, so that a phone shows its panels one below another.

At 390 pixels a figure of three panels has letters of 4 pixels. The pages keep one picture a figure;
here its panels are found by their axes (a left and a lower spine that meet in a corner) and by the
blank columns and rows between them, and are written to the page as `data-panels`. On a narrow
screen `book/_static/site.js` shows the parts of the same picture as a stack. Where panels share an
axis, its labels are shown at each: the left strip again, or whole columns where the lower axis is
shared. What cannot be cut stays whole.
"""

from __future__ import annotations

import functools
import json
import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

DARK, BLANK = 100, 12  # a spine is darker than that; what differs less from the ground is ground
# pixels, at the book's 200 dots an inch
LONG = 100  # a spine, at least
TICK = 14  # a tick stands out of its axis by 3.5 points
LABEL = 14  # half of a number's height
GAP = 6  # between panels, at least
APART = 9  # between an axis' numbers and its name, at least
WORDS = 30  # between the numbers below an axis, or a legend's entries; a title's words are closer
NEAR = 60  # the entries of a legend side by side, at most
WIDE = 760  # a phone's width, at the size that the figure has on a desktop
LEGEND = 150  # what stands beside a panel and is wider is shown below it
MARGIN = 6  # left around a piece
ENOUGH = 0.85  # a stack that is not narrower than this part of the figure is no help
PICTURE = re.compile(r'<img\b[^>]*\bsrc="(?:[^"]*/)?_images/([^"/]+\.png)"[^>]*>')
ACROSS = {2: ["left", "right"], 3: ["left", "middle", "right"]}
DOWN = {1: [""], 2: ["top", "bottom"], 3: ["top", "middle", "bottom"]}

Box = tuple[int, int, int, int]  # left, top, right, bottom; right and bottom are outside


@dataclass
class Piece:
    """A part of the figure: where it stands in it, and the boxes it is put together from."""

    where: str
    box: Box
    strip: tuple[Box, int] | None = None  # labels of another panel, and where they go in the figure

    def parts(self) -> tuple[int, int, list[list[int]]]:
        """Width, height, and [x, y in the piece, left, top, width, height in the figure]."""
        left, top, right, bottom = self.box
        boxes = [(self.box, left)]
        if self.strip:
            (x0, y0, x1, y1), at = self.strip
            boxes.append(((x0, y0, x1, y1), at))
            left, top, bottom = min(left, at), min(top, y0), max(bottom, y1)
        return right - left, bottom - top, [
            [at - left, b[1] - top, b[0], b[1], b[2] - b[0], b[3] - b[1]] for b, at in boxes]


def runs(line: np.ndarray) -> list[tuple[int, int]]:
    """Where a line of truth values is true: (start, end) of each stretch."""
    edges = np.flatnonzero(np.diff(np.concatenate([[False], line, [False]]).astype(np.int8)))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def spines(dark: np.ndarray) -> list[tuple[int, int, int]]:
    """Long horizontal lines: (row, start, end); of a thick one, its last row."""
    found: list[tuple[int, int, int]] = []
    for row in np.flatnonzero(dark.sum(axis=1) >= LONG):
        for start, end in runs(dark[row]):
            if end - start >= LONG:
                if (row - 1, start, end) in found:
                    found.remove((row - 1, start, end))
                found.append((int(row), start, end))
    return found


def frames(dark: np.ndarray) -> list[Box]:
    """The panels: boxes spanned by a left and a lower spine."""
    found: list[Box] = []
    across, up = spines(dark), spines(dark.T)
    for row, start, end in across:
        for column, top, foot in up:
            box = (column, top, end, row)
            # an axis may go on into the other's last tick
            if abs(column - start) <= TICK and abs(foot - row) <= TICK and not any(
                    abs(box[0] - b[0]) <= 6 and abs(box[3] - b[3]) <= 6 for b in found):
                found.append(box)
    return sorted(found, key=lambda b: (b[1], b[0]))


def groups(boxes: list[Box], axis: int) -> list[list[Box]]:
    """Boxes side by side (axis 0) or one below another (axis 1), those that overlap together."""
    found: list[list[Box]] = []
    for box in sorted(boxes, key=lambda b: b[axis]):
        if found and box[axis] < max(b[axis + 2] for b in found[-1]):
            found[-1].append(box)
        else:
            found.append([box])
    return found


def blank(ink: np.ndarray, start: int, end: int) -> tuple[int, int] | None:
    """The widest blank stretch of `start:end`, where nothing lies along the other axis."""
    best = max(runs(~ink[start:end]), key=lambda r: r[1] - r[0], default=None)
    return (start + best[0], start + best[1]) if best and best[1] - best[0] >= GAP else None


def items(ink: np.ndarray, start: int, end: int, apart: int) -> list[tuple[int, int]]:
    """What lies between `start` and `end`: stretches at least so far apart."""
    found: list[tuple[int, int]] = []
    for a, b in runs(ink[start:end]):
        if found and start + a - found[-1][1] < apart:
            found[-1] = (found[-1][0], start + b)
        else:
            found.append((start + a, start + b))
    return found


class Figure:
    """One picture."""

    def __init__(self, image: Image.Image):
        data = np.asarray(image.convert("RGBA").convert("RGB"), dtype=np.int16)
        self.height, self.width = data.shape[:2]
        self.ink = (np.abs(data - data[0, 0]) > BLANK).any(axis=2)
        self.frames = frames((data < DARK).all(axis=2))

    def trimmed(self, box: Box) -> Box | None:
        """The box without the blank around it; None if all of it is blank."""
        left, top, right, bottom = box
        part = self.ink[top:bottom, left:right]
        columns, rows = np.flatnonzero(part.any(axis=0)), np.flatnonzero(part.any(axis=1))
        if not len(columns):
            return None
        return (max(left, left + int(columns[0]) - MARGIN),
                max(top, top + int(rows[0]) - MARGIN),
                min(right, left + int(columns[-1]) + 1 + MARGIN),
                min(bottom, top + int(rows[-1]) + 1 + MARGIN))

    def named(self, frame: Box, left: int) -> bool:
        """Whether something stands left of a panel, up to `left`."""
        x0, top, _, foot = frame
        return bool(self.ink[top:foot, left:max(left, x0 - TICK)].any())

    def upright(self, item: tuple[int, int], top: int, foot: int) -> bool:
        """Whether it is the name of an axis, written upwards: narrow, high, in one piece."""
        width = item[1] - item[0]
        pieces = items(self.ink[:, slice(*item)].any(axis=1), top, foot, 2 * LABEL)
        return width <= 50 and len(pieces) == 1 and pieces[0][1] - pieces[0][0] > 1.5 * width

    def level(self, one: tuple[int, int], two: tuple[int, int], top: int, foot: int) -> bool:
        """Whether neighbours are parts of the same numbers, such as 6 × 10⁻²: on the same lines."""
        lines = self.ink[:, slice(*two)].any(axis=1)
        here = runs(self.ink[top:foot, slice(*one)].any(axis=1))
        return two[0] - one[1] < 1.6 * APART and len(here) > 1 and all(
            lines[top + a:top + b].any() for a, b in here)

    def across(self, one: list[Box], two: list[Box], head: int, foot: int) -> int | None:
        """Where to cut between neighbours side by side: left of the second's numbers and name."""
        start, end = max(b[2] for b in one) + 1, min(b[0] for b in two) - TICK
        top = min(b[1] for b in one + two) - LABEL
        bottom = max(b[3] for b in one + two) + LABEL
        found = items(self.ink[max(0, top):bottom].any(axis=0), start, end, APART)
        if found and found[0][0] <= start + GAP:  # ticks of an axis on the right
            start = found.pop(0)[1]
        while len(found) > 1 and self.level(found[-2], found[-1], top, bottom):
            found[-2:] = [(found[-2][0], found[-1][1])]
        mine = found[-1:]
        if len(found) == 1 and found[0][0] - start < end - found[0][1]:
            mine = []  # numbers of that axis
        elif len(found) > 1 and not self.upright(found[-1], top, bottom) and (
                self.upright(found[-2], top, bottom)):
            far = [b[0] - a[1] for a, b in zip(found[-3:], found[-2:], strict=False)]
            names = len(found) > 2 and self.upright(found[-3], top, bottom)  # two, side by side
            if len(found) == 2 or names or far[-1] <= far[0]:
                mine = found[-2:]
        room = (([start] + [i[1] for i in found])[len(found) - len(mine)],
                mine[0][0] if mine else end)
        gap = blank(self.ink[head:foot].any(axis=0), *room)
        return sum(gap) // 2 if gap else None

    def numbered(self, frame: Box, below: int) -> int | None:
        """The lower end of the numbers below a panel, if it has any: several, side by side."""
        left, _, right, foot = frame
        for start, end in items(self.ink[:, left:right].any(axis=1), foot + TICK, below, 3):
            words = runs(self.ink[start:end, left - LABEL:right + LABEL].any(axis=0))
            far = [b[0] - a[1] for a, b in zip(words, words[1:], strict=False)]
            return end if any(gap > WORDS for gap in far) else None
        return None

    def down(self, one: list[Box], two: list[Box]) -> int | None:
        """Where to cut between two rows: below numbers and name of the upper one's axes.

        None where the upper row has no numbers of its own, or something lies across.
        """
        below = min(b[1] for b in two) - 2
        ends = [self.numbered(frame, below) for frame in one]
        if None in ends:
            return None
        inside = np.zeros(self.width, dtype=bool)
        for left, _, right, _ in one + two:
            inside[left:right] = True
        foot = max(ends)
        rest = items(self.ink[:, inside].any(axis=1), foot, below, 4)  # names, titles, or both
        if len(rest) == 1:
            (start, end), = rest
            names = below - end > start - foot
            room = (end, below) if names else (foot, start)
        elif rest:
            room = (rest[-2][1], rest[-1][0])
        else:
            room = (foot, below)
        gap = max(runs(~self.ink[slice(*room)].any(axis=1)), key=lambda r: r[1] - r[0],
                  default=None)
        return room[0] + sum(gap) // 2 if gap and gap[1] - gap[0] >= 2 else None

    def trims(self, start: int, end: int) -> list[int]:
        """Where a common title or legend may be cut off: nowhere, or in the widest blanks."""
        gaps = sorted(runs(~self.ink[start:end].any(axis=1)), key=lambda r: r[0] - r[1])
        return [start + sum(gap) // 2 for gap in gaps if gap[1] - gap[0] >= GAP
                and gap[0] > 0 and gap[1] < end - start]  # the margin is no gap

    def common(self, cuts: list[int], top: int, foot: int) -> bool:
        """Whether a cut goes through a gap of a title or legend of all panels."""
        ink = self.ink[top:foot].any(axis=0)
        return any(ink[cut - NEAR:cut].any() and ink[cut:cut + NEAR].any() for cut in cuts)

    def row(self, room: list[Box], top: int, bottom: int) -> list[tuple[Box, list[Box]]] | None:
        """The pieces of a band of the figure, each with its panels; None if it cannot be cut."""
        columns = groups(room, 0)
        first, last = min(b[1] for b in room), max(b[3] for b in room)
        heads, feet = self.trims(top, first), self.trims(last, bottom)
        for foot in [bottom, *feet]:
            for head in [top, *heads]:
                cuts = [self.across(one, two, head, foot)
                        for one, two in zip(columns, columns[1:], strict=False)]
                if None in cuts or (
                        head == top and heads and self.common(cuts, top, heads[0])) or (
                        foot == bottom and feet and self.common(cuts, feet[0], bottom)):
                    continue
                found = self.entries((0, top, self.width, head))
                edges = [0, *cuts, self.width]
                for k, inside in enumerate(columns):
                    found += self.beside((edges[k], head, edges[k + 1], foot), inside)
                return found + self.entries((0, foot, self.width, bottom))
        return None

    def entries(self, box: Box) -> list[tuple[Box, list[Box]]]:
        """A common title or legend; a wide legend in two halves, or four."""
        trimmed = self.trimmed(box)
        if trimmed is None:
            return []
        left, top, right, bottom = trimmed
        gaps = runs(~self.ink[top:bottom, left + MARGIN:right - MARGIN].any(axis=0))
        cuts = [left + MARGIN + sum(gap) // 2 for gap in gaps if gap[1] - gap[0] >= WORDS]
        if right - left <= WIDE or not cuts:
            return [(trimmed, [])]
        cut = min(cuts, key=lambda place: abs(place - (left + right) / 2))
        return self.entries((left, top, cut, bottom)) + self.entries((cut, top, right, bottom))

    def beside(self, box: Box, inside: list[Box]) -> list[tuple[Box, list[Box]]]:
        """A piece, and apart from it the legend that stands right of its panels."""
        left, head, right, foot = box
        end = max(b[2] for b in inside) + 1
        ink = self.ink[head:foot].any(axis=0)
        parts = [i for i in items(ink, end, right, GAP) if i[0] > end + GAP]
        if not parts or parts[-1][1] - parts[0][0] < LEGEND:
            return [(box, inside)]
        cut = parts[0][0] - GAP // 2
        return [((left, head, cut, foot), inside), ((cut, head, right, foot), [])]

    def strip(self, piece: tuple[Box, list[Box]], others: list[tuple[Box, list[Box]]]):
        """Labels of the panel further left that has them, for panels that have none."""
        (left, *_), mine = piece
        if not mine or any(self.named(frame, left) for frame in mine):
            return None
        for (edge, *_), theirs in reversed(others):
            alike = len(theirs) == len(mine) and all(
                abs(a[1] - b[1]) <= 3 and abs(a[3] - b[3]) <= 3
                for a, b in zip(mine, theirs, strict=True))
            if alike and all(self.named(frame, edge) for frame in theirs):
                top, foot = min(b[1] for b in theirs), max(b[3] for b in theirs)
                end = min(b[0] for b in theirs) - TICK
                box = self.trimmed((edge, top - LABEL, end, foot + LABEL))
                if box is None:
                    return None
                box = (box[0], max(0, top - LABEL), end, min(self.height, foot + LABEL))
                return box, min(b[0] for b in mine) - TICK - (end - box[0])
        return None

    def pieces(self) -> list[Piece]:
        """The parts to be shown one below another; none if the figure has to stay whole."""
        if not self.frames:
            return []
        rows = groups(self.frames, 1)
        cuts = [self.down(one, two) for one, two in zip(rows, rows[1:], strict=False)]
        if None in cuts:  # what stands in one column belongs together
            rows, cuts = [self.frames], []
        columns, edges = groups(self.frames, 0), [0, *cuts, self.height]
        found: list[Piece] = []
        for k, room in enumerate(rows):
            top, bottom = edges[k], edges[k + 1]
            band = self.row(room, top, bottom)
            if band is None:
                band = [((0, top, self.width, bottom), room)]
            down = DOWN.get(len(rows), [f"row {i + 1}" for i in range(len(rows))])[k]
            for j, (box, inside) in enumerate(band):
                trimmed = self.trimmed(box)
                if trimmed:
                    strip = self.strip((box, inside), band[:j])
                    found.append(Piece(place(down, inside, columns), trimmed, strip))
        widest = max(piece.parts()[0] for piece in found)
        return found if len(found) > 1 and widest < ENOUGH * self.width else []


def place(down: str, inside: list[Box], columns: list[list[Box]]) -> str:
    """Where panels stand in the figure, in the words of captions."""
    if not inside or len(columns) < 2:
        return down if inside else ""
    k = next(i for i, column in enumerate(columns) if inside[0] in column)
    names = ACROSS.get(len(columns), [f"column {i + 1}" for i in range(len(columns))])
    return "centre" if down == names[k] else f"{down} {names[k]}".strip()


def panels(path: Path) -> str:
    """What a page is told about a picture, as JSON; empty if it stays whole."""
    with Image.open(path) as image:
        figure = Figure(image)
    pieces = figure.pieces()
    if not pieces:
        return ""
    said = []
    for piece in pieces:
        width, height, parts = piece.parts()
        said.append({"where": piece.where, "size": [width, height], "parts": parts})
    return json.dumps({"size": [figure.width, figure.height], "pieces": said},
                      separators=(",", ":"))


def mark(folder: Path) -> None:
    """Write the panels of its pictures to every page."""
    known = functools.cache(lambda name: panels(folder / "_images" / name))

    def told(match: re.Match) -> str:
        if "data-panels" in match.group(0):
            return match.group(0)
        said = known(match.group(1)).replace('"', "&quot;")
        return match.group(0).replace("<img", f'<img data-panels="{said}"', 1) if said else (
            match.group(0))

    for page in (folder / "book").rglob("*.html"):
        text = page.read_text()
        made = PICTURE.sub(told, text)
        if made != text:
            page.write_text(made)


def finish(app, error) -> None:
    if not error and app.builder.format == "html":
        mark(Path(app.outdir))


def setup(app) -> dict:
    app.connect("build-finished", finish)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
