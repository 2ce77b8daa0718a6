"""The table of models: the filter, the phases, and scores against what is known exactly."""

import math

import numpy as np
import pandas as pd
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.board import Leaderboard
from gdflows.experiments.leaderboard import MODELS, _phased, model
from gdflows.experiments.training_loss import training_loss

f64 = torch.float64


def test_the_filter_splits_a_path_and_bends_it_little():
    """On a quadratic both parts are known: x = 0.1 moves smoothly, x = 1.9 swings."""
    E = gf.problems.quadratic(torch.tensor([0.1, 1.9], dtype=f64))
    theta = torch.tensor([1.0, 1.0], dtype=f64)
    seen = gf.leaderboard(E, theta, lr=1.0, steps=20, every=5, flows=["NGF"]).paths
    truth = seen[seen.model == "GD"]
    # the swinging part is multiplied by cosines of the filter: 1 − sin⁶ of half the angle
    assert truth.oscillation.to_numpy() == pytest.approx(0.9 ** truth.step.to_numpy(), rel=0.02)
    # NGF's error at the centre: |0.9ᵏ − e^(−0.1k)|, and 2ⁿᵈ coordinate e^(−1.9k)
    k = seen[seen.model == "NGF"].step.to_numpy()
    exact = np.hypot(0.9**k - np.exp(-0.1 * k), np.exp(-1.9 * k))
    # what the filter adds: of the smooth part its sixth difference, of the swing its change
    assert seen[seen.model == "NGF"].centre_error.to_numpy() == pytest.approx(exact, abs=2e-3)


def test_phases_follow_the_edge_and_the_outbreak():
    rows = pd.DataFrame(
        {
            "x": [1.9, 2.1, 2.3, 1.9, 2.0],
            "push": [0.5, 0.0, 0.05, 0.2, 0.0],
            "oscillation": [1.0, 1e-9, 1e-3, 0.5, 0.1],
        }
    )
    found = _phased(rows)
    assert list(found.phase) == ["before", "quiet", "quiet", "after", "after"]
    assert list(_phased(rows[:2]).phase) == ["before", "quiet"]


@pytest.fixture(scope="module")
def board():
    E = gf.problems.valley()
    names = ["NGF", "rod", "rod + noise + slow", "principal rod 2"]
    return gf.leaderboard(E, E.theta0, lr=0.05, steps=120, every=10, flows=names)


def test_on_the_valley_the_better_model_wins(board):
    table = board.table.set_index(["model", "phase"])
    last = table.xs("after", level="phase")
    assert last.centre["principal rod 2"] < last.centre["rod"] < last.centre["NGF"]
    assert last.better["principal rod 2"] > 0.5 and last.better["NGF"] == 0
    assert abs(last.outbreak["principal rod 2"]) <= 10 and last.missed["NGF"] == 1


def test_a_flow_of_ones_own_takes_part_under_its_name(board):
    E = gf.problems.valley()
    own = {"mine": gf.flows.PrincipalRodFlow(E, 0.05, order=2)}
    seen = gf.leaderboard(E, E.theta0, lr=0.05, steps=120, every=10, flows=own).paths
    a = seen[seen.model == "mine"].centre_error.to_numpy()
    b = board.paths[board.paths.model == "principal rod 2"].centre_error.to_numpy()
    np.testing.assert_allclose(a, b, rtol=1e-12)


def test_a_path_that_ends_early_counts_as_lost():
    rows = [
        {"seed": 0, "model": "GD", "step": k, "phase": "before", "push": 0.0, "oscillation": 0.0}
        for k in (10, 20)
    ]
    errors = dict.fromkeys(("centre_error", "iterates_error", "loss_error", "sharpness_error"))
    rows += [
        {"seed": 0, "model": "a", "step": 10, "oscillation": 0.0} | {name: 1.0 for name in errors}
    ]
    rows += [
        {"seed": 0, "model": "b", "step": k, "oscillation": 0.0} | {name: 9.0 for name in errors}
        for k in (10, 20)
    ]
    table = Leaderboard(pd.DataFrame(rows)).table.set_index("model")
    assert table.worst["a"] == math.inf and table.better["a"] == 0.5
    assert table.better["b"] == 0.5  # where a is lost


def test_against_the_best_of_its_rivals():
    rows = [{"seed": s, "model": "GD", "step": k, "phase": "after"}
            for s in (0, 1) for k in (1, 2, 3)]
    errors = {"mine 1": [1, 2, 9], "mine 0": [0, 0, 0], "b": [8, 4, 5], "c": [6, 3, None]}
    rows += [{"seed": 0, "model": m, "step": k + 1, "centre_error": e}
             for m, es in errors.items() for k, e in enumerate(es)]
    rows += [{"seed": 1, "model": m, "step": 1, "centre_error": 1.0} for m in errors]
    board = Leaderboard(pd.DataFrame(rows))
    first, second = board.against("mine 1").to_dict("records")
    assert (first["own"], first["rival"], first["best"]) == (2, "b", 5) and first["ratio"] == 0.4
    assert first["times"] == 3 and math.isnan(second["ratio"])  # all lost
    assert board.against("b", rivals=["c"]).ratio[0] == 5 / 6
    with pytest.raises(InputError, match="No model 'd'"):
        board.against("d")
    with pytest.raises(InputError, match="no rival"):
        board.against("b", rivals=[])


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_known_by_its_name(name):
    E = gf.problems.valley()
    assert isinstance(model(name, E, 0.05), gf.flows.Flow)
    assert model(name, E, 0.05).lr in (0.05, None)


def test_options_reach_the_flow():
    flow = model("edge + noise + slow", gf.problems.valley(), 0.05)
    assert (flow.noise, flow.begins) == ("measured", "slow")
    assert model("principal rod 1 + no noise + pair", gf.problems.valley(), 0.05).noise == 0


@pytest.mark.parametrize(
    ("flows", "word"),
    [
        (["NFG"], "Unknown model"),
        (["rod + loud"], "Unknown model"),
        (["NGF + noise"], "neither"),
        ([gf.flows.NGF(gf.problems.valley())] * 2, "same name"),
        ([gf.flows.NGF(gf.problems.cosh())], "another objective"),
    ],
)
def test_what_cannot_take_part_is_refused(flows, word):
    E = gf.problems.valley()
    with pytest.raises(InputError, match=word):
        gf.leaderboard(E, E.theta0, lr=0.05, steps=10, flows=flows)


def test_a_flow_of_another_learning_rate_is_refused():
    E = gf.problems.valley()
    with pytest.raises(InputError, match="models the learning rate 0.1"):
        gf.leaderboard(E, E.theta0, lr=0.05, steps=10, every=5, flows=[gf.flows.IGR(E, 0.1)])


@pytest.mark.parametrize(("steps", "every"), [(2, 1), (10, 11)])
def test_too_few_steps_for_a_row_are_refused(steps, every):
    E = gf.problems.valley()
    with pytest.raises(InputError, match="leaves no row"):
        gf.leaderboard(E, E.theta0, lr=0.05, steps=steps, every=every, flows=["NGF"])


def test_an_accuracy_that_the_format_has_not_is_refused_before_a_flow_is_said_to_be_lost():
    E = gf.problems.valley()
    with pytest.raises(InputError, match="finer than torch.float32"):
        gf.leaderboard(E, E.theta0.float(), lr=0.05, steps=20, every=10, flows=["NGF"])
    board = gf.leaderboard(
        E, E.theta0.float(), lr=0.05, steps=20, every=10, flows=["NGF", "rod"], rtol=1e-5
    )
    assert np.isfinite(board.table.centre).all()


class Stuck(gf.flows.Flow):
    """It cannot be followed at all."""

    label = "stuck"

    def vector_field(self, theta):
        return theta / 0


def test_a_flow_that_cannot_start_takes_part_and_loses():
    E = gf.problems.valley()
    table = gf.leaderboard(
        E, E.theta0, lr=0.05, steps=20, every=10, flows=[Stuck(E), "NGF"]
    ).table.set_index("model")
    stuck = table.loc[["stuck"]]
    assert stuck.centre.eq(math.inf).all() and stuck.better.eq(0).all()
    assert table.loc[["NGF"]].better.eq(1).all()
    alone = gf.leaderboard(E, E.theta0, lr=0.05, steps=20, every=10, flows=[Stuck(E)]).table
    assert alone.better.eq(0).all()


def test_its_picture_can_be_drawn(board):
    import matplotlib.pyplot as plt

    figure = plt.figure()
    board.plot(figure)
    assert len(figure.axes) == 3 and len(figure.axes[2].lines) == 4
    plt.close(figure)


def test_at_an_outbreak_the_optimal_order_keeps_the_path_that_order_2_loses():
    E, lr = training_loss("mlp", "20-20", "tanh", 1.0, "wine-moved", 140, 0, "cpu"), 0.3
    theta = gf.descend(E, E.theta0, lr, 185, every=185).states[-1]
    models = ["principal rod", "principal rod 2"]
    board = gf.leaderboard(E, theta, lr=lr, steps=25, every=5, flows=models, rtol=1e-5)
    late = board.table.query("phase == 'after'").set_index("model").centre
    assert late["principal rod"] < 0.05  # measured 0.013
    assert late["principal rod 2"] == math.inf
