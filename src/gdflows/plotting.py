"""One style, and the few kinds of figure that the book repeats."""

from __future__ import annotations

from numbers import Integral

import matplotlib.pyplot as plt
import numpy as np
import torch
from cycler import cycler
from matplotlib.axes import Axes
from matplotlib.ticker import (
    FuncFormatter,
    LogFormatterSciNotation,
    LogLocator,
    NullFormatter,
)

from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.trajectory import Trajectory

# Truncated modified equations by the highest power of h kept, n = 0, 1, 2, … No other model of
# COLOURS shares one.
_ORDERS = ["#0072B2", "#E69F00", "#56B4E9", "#999933", "#332288", "#661100", "#44AA99", "#DDCC77"]
#: One colour a model, the same in every figure (Okabe and Ito's palette, told apart by
#: colour-blind readers too, and Tol's for the higher orders). The flow cut off after hⁿ is
#: ``"NGF"`` for n = 0, ``"IGR"`` for n = 1 and ``"order n"`` beyond; see :func:`order_colours`.
#: ``"SDE 1"`` and ``"SDE 2"`` are the stochastic modified equations by their weak order.
COLOURS = {
    "GD": "#000000",
    "NGF": _ORDERS[0],
    "IGR": _ORDERS[1],
    **{f"order {n}": colour for n, colour in enumerate(_ORDERS)},
    "PF": "#D55E00",
    "PF + term": "#882255",
    "central": "#009E73",
    "rod": "#CC79A7",
    "edge": "#8C6BB1",
    "SGD": "#000000",
    "SDE 1": "#6B8E23",
    "SDE 2": "#B15928",
    "stochastic rod": "#0B5563",
}
#: Colours for curves that are not models: learning rates, widths, seeds.
CYCLE = ["#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"]


def order_colours(n: int) -> list[str]:
    """The colours of the modified equations cut off after h⁰, h¹, …, hⁿ: n + 1 of them.

    The first is that of the NGF, the second that of the IGR flow, in every figure of the book.

    Parameters
    ----------
    n : int
        The highest order, 0 to 7.

    Returns
    -------
    list of str
        ``colours[k]`` belongs to order k.

    Raises
    ------
    InputError
        If n is out of range.

    Examples
    --------
    >>> from gdflows.plotting import COLOURS, order_colours
    >>> order_colours(1) == [COLOURS["NGF"], COLOURS["IGR"]]
    True
    """
    if not isinstance(n, Integral) or not 0 <= n < len(_ORDERS):
        raise InputError(
            f"There are colours for the orders 0 to {len(_ORDERS) - 1}, got {n!r}; for more "
            "curves take a colour map, such as matplotlib's viridis."
        )
    return _ORDERS[: n + 1]


def style() -> None:
    """Set the book's style for all figures that follow (matplotlib's ``rcParams``).

    Examples
    --------
    >>> import matplotlib, gdflows as gf
    >>> with matplotlib.rc_context():
    ...     gf.plotting.style()
    ...     matplotlib.rcParams["axes.grid"]
    True
    """
    plt.rcParams.update(
        {
            "figure.figsize": (6.4, 3.8),
            "figure.dpi": 100,
            "savefig.dpi": 200,
            "figure.constrained_layout.use": True,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.prop_cycle": cycler(color=CYCLE),
            "axes.grid": True,
            "grid.color": "#dddddd",
            "grid.linewidth": 0.6,
            "font.size": 10,
            "axes.titlesize": 10,
            "legend.frameon": False,
            "lines.linewidth": 1.6,
            "image.cmap": "viridis",
        }
    )
    try:  # inside a notebook: figures sharp enough for any screen
        from IPython import get_ipython

        if get_ipython() is not None:
            from matplotlib_inline.backend_inline import set_matplotlib_formats

            set_matplotlib_formats("retina")
    except ImportError:
        pass


def contours(
    ax: Axes,
    objective: Objective,
    xlim: tuple[float, float],
    ylim: tuple[float, float],
    *,
    levels: int = 18,
    resolution: int = 120,
) -> None:
    """Level lines of a loss of two parameters, evenly spaced in log(E − min E).

    Parameters
    ----------
    ax : Axes
        Where to draw.
    objective : Objective
        With ``dim == 2``.
    xlim, ylim : tuple of float
        The window.
    levels, resolution : int
        Number of lines; grid points along each side.

    Raises
    ------
    InputError
        If the objective does not have two parameters.

    Examples
    --------
    >>> import gdflows as gf
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> gf.plotting.contours(ax, gf.problems.quadratic([1.0, 3.0]), (-1, 1), (-1, 1), levels=5)
    >>> len(ax.collections) > 0
    True
    """
    if objective.dim != 2:
        raise InputError(f"contours draws losses of two parameters, this has {objective.dim}.")
    xs, ys = np.linspace(*xlim, resolution), np.linspace(*ylim, resolution)
    points = torch.tensor([[x, y] for y in ys for x in xs], dtype=torch.float64)
    values = torch.stack([objective.value(p) for p in points]).reshape(resolution, resolution)
    heights = np.log10(
        np.asarray(values - values.min()) + 1e-3 * float(values.max() - values.min())
    )
    ax.contour(xs, ys, heights, levels=levels, colors="#999999", linewidths=0.6, linestyles="-")
    ax.set(xlim=xlim, ylim=ylim, xlabel=r"$\theta_1$", ylabel=r"$\theta_2$")
    ax.grid(False)


def path(ax: Axes, trajectory: Trajectory, **kwargs) -> None:
    """A trajectory in the plane of its first two parameters: GD as dots, flows as lines.

    Colour and legend come from the trajectory's label; keyword arguments go to ``ax.plot``.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> gd = gf.descend(gf.problems.quadratic([1.0, 3.0]), torch.ones(2).double(), lr=0.1, steps=9)
    >>> gf.plotting.path(ax, gd)
    >>> len(ax.lines[0].get_xdata())
    10
    """
    x, y = trajectory.states[:, :2].real.cpu().T
    kwargs.setdefault("label", trajectory.label)
    if trajectory.label in COLOURS:
        kwargs.setdefault("color", COLOURS[trajectory.label])
    if trajectory.label == "GD":
        kwargs = {"marker": "o", "markersize": 3.5, "linewidth": 0.6} | kwargs
    ax.plot(x, y, **kwargs)


def slope(ax: Axes, x, y, *, label: str = "", **kwargs) -> float:
    """Points on log-log axes with their least-squares line.

    Where all points of the axes lie within a decade, the axis is labelled at them.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    x, y : array_like
        Positive numbers.
    label : str
        For the legend; the slope is added.

    Returns
    -------
    float
        The slope: the order p if ``y ∝ x**p``.

    Examples
    --------
    >>> import gdflows as gf
    >>> from matplotlib.figure import Figure
    >>> round(gf.plotting.slope(Figure().subplots(), [0.1, 0.2, 0.4], [0.01, 0.04, 0.16]), 6)
    2.0
    """
    x, y = np.asarray(x, float), np.asarray(y, float)
    if not ((x > 0).all() and (y > 0).all()):
        raise InputError("slope needs positive numbers; logarithms of others do not exist.")
    order, intercept = np.polyfit(np.log(x), np.log(y), 1)
    (line,) = ax.loglog(x, np.exp(intercept) * x**order, linewidth=1, **kwargs)
    text = f"{label}: slope {order:.2f}" if label else f"slope {order:.2f}"
    ax.loglog(x, y, "o", color=line.get_color(), markersize=4, label=text, gid="slope")
    for axis in (ax.xaxis, ax.yaxis):  # labels between the powers of ten run into one another
        axis.set_minor_formatter(NullFormatter())
    drawn = [points.get_xdata() for points in ax.lines if points.get_gid() == "slope"]
    at = np.unique(np.concatenate(drawn))  # of all calls: each has a say in where the labels are
    if at[-1] < 10 * at[0] and len(at) <= 6:  # too short to hold two powers of ten
        ax.set_xticks(at, [f"{value:.3g}" for value in at])
        ax.xaxis.minorticks_off()
    else:
        subs = (1, 3) if at[-1] < 100 * at[0] else (1,)
        ax.xaxis.set_major_locator(LogLocator(subs=subs))
        plain = FuncFormatter(lambda value, _: f"{value:g}")
        ax.xaxis.set_major_formatter(plain if len(subs) > 1 else LogFormatterSciNotation())
    return float(order)


def against_edge(ax: Axes, steps, sharpness, *, edge: float = 1.0, **kwargs) -> None:
    """Sharpness against steps, and the stability edge as a dashed line.

    Parameters
    ----------
    ax : Axes
        Where to draw.
    steps, sharpness : array_like
        Sharpness in the unit in which the edge is given: 2 for hλ, 1 for the ratio of a
        :class:`gdflows.SharpnessMonitor`.
    edge : float
        Where the line is drawn.
    **kwargs
        For ``ax.plot``.

    Examples
    --------
    >>> import gdflows as gf
    >>> from matplotlib.figure import Figure
    >>> ax = Figure().subplots()
    >>> gf.plotting.against_edge(ax, [0, 1, 2], [0.5, 0.8, 1.0])
    >>> len(ax.lines)
    2
    """
    ax.plot(steps, sharpness, **kwargs)
    if not any(line.get_gid() == "edge" for line in ax.lines):
        ax.axhline(edge, color="#555555", linewidth=1, linestyle="--", gid="edge")
    ax.set_xlabel("step")
