"""How trees and elementary differentials look: LaTeX, Unicode, pictures."""

from __future__ import annotations

from gdflows.bseries.trees import Tree

_DOTS = {0: "f", 1: "f'", 2: "f''", 3: "f'''"}


def latex_differential(tree: Tree, loss: bool = False) -> str:
    r"""F(τ) in LaTeX: ``f''(f, f'f)``; or in derivatives of a loss, ``T[g, Hg]``, without sign."""
    m = len(tree.branches)
    inner = [latex_differential(b, loss) for b in tree.branches]
    if loss:
        if m == 0:
            return "g"
        if m == 1:
            return _power("H", tree, loss)
        name = "T" if m == 2 else rf"\nabla^{{{m + 1}}}E"
        return name + "[" + ", ".join(inner) + "]"
    name = _DOTS.get(m, f"f^{{({m})}}")
    if m == 0:
        return name
    if m == 1:
        return name + inner[0]
    return name + "(" + ", ".join(inner) + ")"


def _power(letter: str, tree: Tree, loss: bool) -> str:
    """A run of single branches: H H H g as H^3 g."""
    n = 0
    while len(tree.branches) == 1:
        n, tree = n + 1, tree.branches[0]
    return letter + (f"^{n}" if n > 1 else "") + latex_differential(tree, loss)


def svg(tree: Tree, *, size: int = 14) -> str:
    """The tree as a small SVG picture, root at the bottom, with alternative text.

    Parameters
    ----------
    tree : Tree
        What to draw.
    size : int
        Distance between neighbouring vertices, in pixels.

    Returns
    -------
    str
        An ``<svg>`` element. Its colour is the text's (``currentColor``), so it suits light and
        dark pages.
    """
    points: list[tuple[float, int]] = []
    edges: list[tuple[int, int]] = []

    def place(node: Tree, depth: int, left: float) -> tuple[int, float]:
        """Number of the node placed, and the width it took."""
        children, at = [], left
        for branch in node.branches:
            child, width = place(branch, depth + 1, at)
            children.append(child)
            at += width
        x = sum(points[c][0] for c in children) / len(children) if children else left + 0.5
        points.append((x, depth))
        number = len(points) - 1
        edges.extend((number, c) for c in children)
        return number, max(at - left, 1.0)

    _, width = place(tree, 0, 0.0)
    height = 1 + max(d for _, d in points)
    r = size * 0.2

    def xy(i: int) -> tuple[float, float]:
        x, depth = points[i]
        return x * size, (height - depth - 0.5) * size

    lines = "".join(
        '<line x1="{:.1f}" y1="{:.1f}" x2="{:.1f}" y2="{:.1f}"/>'.format(*xy(a), *xy(b))
        for a, b in edges
    )
    dots = "".join(
        '<circle cx="{:.1f}" cy="{:.1f}" r="{:.1f}"/>'.format(*xy(i), r) for i in range(len(points))
    )
    w, h = width * size, height * size
    text = f"rooted tree {tree}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{text}" '
        f'width="{w:.0f}" height="{h:.0f}" viewBox="0 0 {w:.1f} {h:.1f}">'
        f"<title>{text}</title>"
        f'<g stroke="currentColor" stroke-width="1.4">{lines}</g>'
        f'<g fill="currentColor">{dots}</g></svg>'
    )
