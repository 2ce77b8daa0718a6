"""How trees and elementary differentials look: LaTeX, Unicode, tables, pictures."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from fractions import Fraction
from typing import TYPE_CHECKING

from gdflows.bseries.terms import Term
from gdflows.bseries.trees import Tree

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True)
class _Style:
    """What LaTeX and plain text write differently."""

    derivative: Callable[[int], str]  # f with so many primes
    loss: Callable[[int], str]  # the m-th derivative of E, m ≥ 4
    raised: Callable[[int], str]  # an exponent of 2 or more
    number: Callable[[Fraction], str]
    minus: str
    thin: str  # between factors
    brackets: tuple[str, str]
    dots: tuple[str, str]  # the derivatives of y and of θ


def _latex_number(c: Fraction) -> str:
    return str(c) if c.denominator == 1 else rf"\frac{{{c.numerator}}}{{{c.denominator}}}"


def _superscript(text: str) -> str:
    return text.translate(str.maketrans("0123456789()", "⁰¹²³⁴⁵⁶⁷⁸⁹⁽⁾"))


STYLES = {
    "latex": _Style(
        derivative=lambda m: "f" + "'" * m if m <= 3 else f"f^{{({m})}}",
        loss=lambda m: rf"\nabla^{{{m}}}E",
        raised=lambda n: f"^{n}" if n <= 9 else f"^{{{n}}}",
        number=_latex_number,
        minus="-",
        thin=r"\,",
        brackets=(r"\Bigl(", r"\Bigr)"),
        dots=(r"\dot y", r"\dot\theta"),
    ),
    "unicode": _Style(
        derivative=lambda m: (
            "f" + ("", "′", "″", "‴")[m] if m <= 3 else "f" + _superscript(f"({m})")
        ),
        loss=lambda m: f"∇{_superscript(str(m))}E",
        raised=lambda n: _superscript(str(n)),
        number=str,
        minus="−",
        thin=" ",
        brackets=("(", ")"),
        dots=("ẏ", "θ̇"),
    ),
}


def differential(tree: Tree, style: str, loss: bool = False) -> str:
    """F(τ) as ``"latex"`` or ``"unicode"``, of f or (without its sign) in derivatives of a loss."""
    if hasattr(tree, "colour"):
        return _coloured(tree, style)
    s, m = STYLES[style], len(tree.branches)
    if loss and m == 1:  # a run of single branches: H H H g as H^3 g
        n, end = 0, tree
        while len(end.branches) == 1:
            n, end = n + 1, end.branches[0]
        return "H" + (s.raised(n) if n > 1 else "") + differential(end, style, loss)
    inner = [differential(b, style, loss) for b in tree.branches]
    if loss:
        name = {0: "g", 2: "T"}.get(m) or s.loss(m + 1)
        return name + ("[" + ", ".join(inner) + "]" if inner else "")
    if m == 1:
        return s.derivative(1) + inner[0]
    return s.derivative(m) + ("(" + ", ".join(inner) + ")" if inner else "")


def _coloured(tree: Tree, style: str) -> str:
    """f^y_{yz}(f^y, f^z): the part by its superscript, derivatives by subscripts."""
    latex = style == "latex"
    name = f"f^{tree.colour}" if latex else "f" + {"y": "ʸ", "z": "ᶻ"}[tree.colour]
    if not tree.branches:
        return name
    branches = sorted(tree.branches, key=lambda b: b.colour)
    by = "".join(b.colour for b in branches)
    inner = [_coloured(b, style) for b in branches]
    out = f"{name}_{{{by}}}" if latex else f"{name}_{by}"
    if len(inner) == 1:
        return f"{out} {inner[0]}" if latex else f"{out}·{inner[0]}"
    return f"{out}({', '.join(inner)})"


def latex_differential(tree: Tree, loss: bool = False) -> str:
    r"""F(τ) in LaTeX: ``f''(f, f'f)``; or in derivatives of a loss, ``T[g, Hg]``, without sign."""
    return differential(tree, "latex", loss)


def equation(by_order: Sequence[Sequence[Term]], left: str | None, style: str, loss: bool) -> str:
    """The whole equation: see :meth:`gdflows.bseries.ModifiedEquation.latex`."""
    s, out = STYLES[style], ""
    for order, terms in enumerate(by_order):
        if not terms:
            continue
        body = ""
        for t in terms:
            c = t.loss_coefficient if loss else t.coefficient
            sign = s.minus if c < 0 else ""
            if body:
                sign = f" {sign or '+'} "
            number = "" if abs(c) == 1 else s.number(abs(c)) + s.thin
            body += sign + number + differential(t.tree, style, loss)
        if order == 0:
            out += body
            continue
        power = "h" if order == 1 else "h" + _h_power(style, order)
        if len(terms) > 1:
            out += f" + {power}{s.brackets[0]}{body}{s.brackets[1]}"
        elif body.startswith(s.minus):
            out += f" {s.minus} {power}{s.thin}{body.removeprefix(s.minus)}"
        else:
            out += f" + {power}{s.thin}{body}"
    return f"{left or s.dots[loss]} = {out or '0'}"


def _h_power(style: str, n: int) -> str:
    return f"^{{{n}}}" if style == "latex" else _superscript(str(n))


def table(by_order: Sequence[Sequence[Term]], loss: bool) -> pd.DataFrame:
    """The terms as rows: see :meth:`gdflows.bseries.ModifiedEquation.table`."""
    import pandas as pd

    rows = [
        {
            "order": t.order,
            "tree": t.tree,
            "term": differential(t.tree, "unicode", loss),
            "symmetry": t.tree.symmetry,
            "density": t.tree.density,
            "coefficient": t.loss_coefficient if loss else t.coefficient,
        }
        for terms in by_order
        for t in terms
    ]
    return pd.DataFrame(rows).set_index("order")


def svg(tree: Tree, *, size: int = 14) -> str:
    """The tree as a small SVG picture, root at the bottom, with alternative text.

    Vertices are round; those of the colour ``"z"`` square.

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

    Examples
    --------
    >>> from gdflows.bseries import rooted_trees, svg
    >>> svg(rooted_trees(2)[0])[:4]
    '<svg'
    """
    points: list[tuple[float, int]] = []
    colours: list[str] = []
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
        colours.append(getattr(node, "colour", "y"))
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

    def dot(i: int) -> str:
        x, y = xy(i)
        if colours[i] == "z":
            return (
                f'<rect x="{x - r:.1f}" y="{y - r:.1f}" width="{2 * r:.1f}" height="{2 * r:.1f}"/>'
            )
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{r:.1f}"/>'

    dots = "".join(dot(i) for i in range(len(points)))
    w, h = width * size, height * size
    text = f"rooted tree {tree}"
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" role="img" aria-label="{text}" '
        f'width="{w:.0f}" height="{h:.0f}" viewBox="0 0 {w:.1f} {h:.1f}">'
        f"<title>{text}</title>"
        f'<g stroke="currentColor" stroke-width="1.4">{lines}</g>'
        f'<g fill="currentColor">{dots}</g></svg>'
    )
