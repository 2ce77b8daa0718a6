"""Expand the book's TeX macros, for places where MathJax's configuration does not reach."""

from __future__ import annotations

import re

NAME = re.compile(r"\\([A-Za-z]+)")


class Macros:
    """MathJax's `macros` setting: `name: tex` or `name: [tex, number of arguments]`."""

    def __init__(self, macros: dict):
        self.macros = {
            name: (value, 0) if isinstance(value, str) else (value[0], value[1])
            for name, value in macros.items()
        }

    def expand(self, tex: str, depth: int = 0) -> str:
        if depth > 20:
            raise ValueError(f"the TeX macros in {tex!r} refer to each other in a circle")
        found, at = [], 0
        while match := NAME.search(tex, at):
            found.append(tex[at:match.start()])
            at = match.end()
            name = match.group(1)
            if name not in self.macros:
                found.append(match.group(0))
                continue
            body, count = self.macros[name]
            arguments = []
            for _ in range(count):
                argument, at = take(tex, at)
                arguments.append(argument)
            body = re.sub(r"#(\d)", lambda m, a=arguments: a[int(m.group(1)) - 1], body)
            body = self.expand(body, depth + 1)
            if re.search(r"\\[A-Za-z]+$", body) and tex[at:at + 1].isalpha():
                body += " "
            found.append(body)
        return "".join([*found, tex[at:]])


def take(tex: str, at: int) -> tuple[str, int]:
    """One TeX argument from position `at`: a group in braces, a command, or one character."""
    while at < len(tex) and tex[at].isspace():
        at += 1
    if at >= len(tex):
        raise ValueError(f"a TeX macro lacks an argument at the end of {tex!r}")
    if match := NAME.match(tex, at):
        return match.group(0), match.end()
    if tex[at] != "{":
        return tex[at], at + 1
    depth, start = 0, at
    while at < len(tex):
        if tex[at] == "\\":
            at += 2
            continue
        depth += {"{": 1, "}": -1}.get(tex[at], 0)
        at += 1
        if depth == 0:
            return tex[start + 1:at - 1], at
    raise ValueError(f"a brace is not closed in {tex!r}")
