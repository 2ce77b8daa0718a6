"""Figures: what is drawn, not how it looks."""

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError


@pytest.fixture
def ax():
    fig, ax = plt.subplots()
    yield ax
    plt.close(fig)


@pytest.mark.parametrize(
    "spans, shown",
    [
        ([[0.1, 0.2, 0.4]], ["0.1", "0.2", "0.4"]),
        ([[0.1, 0.2], [0.2, 0.4]], ["0.1", "0.2", "0.4"]),
        ([[0.0005, 0.001, 0.002], [5e-5, 1e-4, 2e-4]], ["0.0001", "0.0003", "0.001"]),
        ([[5e-5, 1e-4, 2e-4], [0.0005, 0.001, 0.002]], ["0.0001", "0.0003", "0.001"]),
    ],
    ids=["one", "two that meet", "two apart", "the other way round"],
)
def test_slopes_of_other_ranges_share_labels_that_do_not_collide(ax, spans, shown):
    for x in spans:
        gf.plotting.slope(ax, x, x)
    ax.figure.canvas.draw()
    low, high = ax.get_xlim()
    ticks = zip(ax.get_xticks(), ax.get_xticklabels(), strict=True)
    assert [text.get_text() for at, text in ticks if low <= at <= high] == shown


def test_slope_of_a_power_law(ax):
    x = np.array([0.1, 0.2, 0.4])
    assert gf.plotting.slope(ax, x, 3 * x**2.5, label="E") == pytest.approx(2.5, abs=1e-12)
    assert ax.get_legend_handles_labels()[1] == ["E: slope 2.50"]
    assert [text.get_text() for text in ax.get_xticklabels()] == ["0.1", "0.2", "0.4"]
    with pytest.raises(InputError, match="positive"):
        gf.plotting.slope(ax, x, -x)


def test_one_colour_an_order_and_no_other_model_has_it():
    orders = gf.plotting.order_colours(7)
    models = gf.plotting.COLOURS
    E = gf.problems.quadratic([1.0])
    labels = [gf.flows.Truncated(E, 0.1, n).label for n in range(8)]
    assert orders == [models[label] for label in labels] and len(set(orders)) == 8
    others = {"GD", "PF", "PF + term", "central", "rod", "edge", "SDE 1", "SDE 2", "stochastic rod"}
    colours = {models[name] for name in others}
    assert not set(orders) & colours and len(colours) == len(others)
    for n in (8, -1, "2"):
        with pytest.raises(InputError, match="0 to 7"):
            gf.plotting.order_colours(n)


def test_path_draws_the_first_two_parameters(ax):
    gd = gf.descend(gf.problems.quadratic([1.0, 3.0, 5.0]), torch.ones(3).double(), 0.1, 4)
    gf.plotting.path(ax, gd)
    (line,) = ax.lines
    np.testing.assert_array_equal(line.get_xydata(), gd.states[:, :2].numpy())
    assert line.get_label() == "GD" and line.get_color() == gf.plotting.COLOURS["GD"]


def test_contours_are_level_lines(ax):
    E = gf.problems.quadratic([1.0, 1.0])  # circles
    gf.plotting.contours(ax, E, (-2, 2), (-2, 2), levels=5)
    drawn = [v for p in ax.collections[0].get_paths() for v in p.to_polygons(closed_only=False)]
    circle = next(v for v in drawn if np.linalg.norm(v, axis=1).max() < 1.5)
    radii = np.linalg.norm(circle, axis=1)
    assert radii.std() < 0.01 * radii.mean()
    with pytest.raises(InputError, match="two parameters"):
        gf.plotting.contours(ax, gf.problems.quadratic([1.0] * 3), (-1, 1), (-1, 1))
