"""The study of scaling rules, in small."""

import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments.scaling_rules import Settings, run, scaled
from gdflows.experiments.training_loss import training_loss

SMALL = {"n": 30, "samples": 32, "every": 16, "batches": "16,4", "base": 4, "paths": 1}


@pytest.mark.parametrize("optimizer", ["sgd", "rmsprop", "adam"])
def test_the_table(optimizer):
    kind = {"optimizer": optimizer, "svag": "2", "svag_at": "4", "lr": 0.01}
    table = run(**SMALL, **kind, rules="linear,sqrt", seeds=2, beta1=0.8, beta2=0.9)
    seen = table.set_index(["rule", "batch", "svag", "samples", "seed"])
    assert seen.index.is_unique
    assert (table.failure == "").all()
    assert len(table) == (4 + 1) * 3 * 2
    # at the start all are at one point, each seed at its own
    for seed in (0, 1):
        E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 30, seed, "cpu")
        first = table[(table.samples == 0) & (table.seed == seed)]
        assert first.loss.to_numpy() == pytest.approx(float(E.value(E.theta0)))
        noise = gf.noise.GradientNoise(E, E.theta0)
        assert first.gradient.to_numpy() == pytest.approx(float(noise.mean @ noise.mean))
        assert first.noise.to_numpy() == pytest.approx(float(noise.trace()))
    # at the base both rules say the same; SVAG is not SGD
    assert seen.loss["linear", 4, 1, 32, 0] == seen.loss["sqrt", 4, 1, 32, 0]
    assert seen.loss["svag", 4, 2, 32, 0] != seen.loss["linear", 4, 1, 32, 0]
    assert seen.lr["linear", 16, 1, 32, 0] == pytest.approx(0.04)


def test_sgd_is_sgd():
    table = run(**SMALL, rules="linear", lr=0.02).set_index(["batch", "samples", "seed"])
    E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 30, 0, "cpu")
    noise = gf.flows.PerSampleNoise(E, 4, replacement=True)
    given = {"covariance": noise, "noise": "batches", "paths": 1, "seed": 0}
    x = gf.walking.sgd(E, E.theta0, 0.02, 8, **given).last[0]
    assert table.loss[4, 32, 0] == pytest.approx(float(E.value(x)))


def test_rules():
    base = Settings(0.1, 0.9, 0.99, 1e-3)
    assert scaled(base, "none", 4.0) == base
    assert scaled(base, "linear", 4.0) == base._replace(lr=0.4)
    assert scaled(base, "sqrt-lr", 4.0) == base._replace(lr=0.2)
    assert scaled(base, "sqrt", 4.0) == pytest.approx((0.2, 0.6, 0.96, 5e-4))
    assert scaled(base, "sqrt", 16.0) is None
    table = run(**SMALL, optimizer="adam", rules="sqrt", beta1=0.5, beta2=0.9, lr=0.01)
    lost = table[table.batch == 16]
    assert (lost.failure == "1 − β would be above 1").all()
    assert lost.loss.isna().all()
    assert (table[table.batch == 4].failure == "").all()


def test_waiting_goes_on_from_where_each_run_is():
    wait = {**SMALL, "batches": "4", "rules": "linear", "lr": 0.02, "paths": 2}
    table = run(**wait, wait=16).set_index(["samples", "seed"])
    E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 30, 0, "cpu")
    noise = gf.flows.PerSampleNoise(E, 4, replacement=True)
    given = {"covariance": noise, "noise": "batches", "paths": 2}
    x = gf.walking.sgd(E, E.theta0, 0.02, 4, seed=1, **given).last
    assert table.loss[0, 0] == pytest.approx(sum(float(E.value(row)) for row in x) / 2)
    x = gf.walking.sgd(E, x, 0.02, 8, seed=0, **given).last
    assert table.loss[32, 0] == pytest.approx(sum(float(E.value(row)) for row in x) / 2)


def test_averages_are_kept_and_scaled():
    """Of Adam after a wait, each run its own; by hand."""
    given = {**SMALL, "optimizer": "adam", "lr": 0.02, "paths": 2, "base": 4, "wait": 16}
    given |= {"beta1": 0.8, "beta2": 0.9, "batches": "8", "rules": "sqrt,none"}
    table = run(**given, keep=True).set_index(["rule", "samples"])
    E = training_loss("mlp", "6", "tanh", 1.0, "gratings", 30, 0, "cpu")

    def walk(theta, size, steps, averages, seed, lr=0.02, betas=(0.8, 0.9), eps=1e-8):
        noise = gf.flows.PerSampleNoise(E, size, replacement=True)
        return gf.walking.adaptive_sgd(
            E, theta, lr, steps, covariance=noise, noise="batches", optimizer="adam",
            betas=betas, eps=eps, averages=averages, paths=2, seed=seed,
        )  # fmt: skip

    single = gf.flows.PerSampleNoise(E, 1, replacement=True)
    nu = E.grad(E.theta0) ** 2 + single.variances(E.theta0[None])[0] / 4
    settled = gf.flows.Averages(torch.zeros_like(nu), nu, 10**6)
    waited = walk(E.theta0, 4, 4, settled, 1)
    first, second = waited.memory[:, : E.dim], waited.memory[:, E.dim : 2 * E.dim]
    assert waited.memory.shape == (2, 2 * E.dim + 1) and bool(first.any())
    same = walk(waited.last, 8, 4, gf.flows.Averages(first, second, 10**6), 0)
    half = gf.flows.Averages(first, second / 2, 10**6)
    root = walk(waited.last, 8, 4, half, 0, 0.02 * 2**0.5, (0.6, 0.8), 1e-8 / 2**0.5)
    for rule, seen in {"none": same, "sqrt": root}.items():
        loss = sum(float(E.value(row)) for row in seen.last) / 2
        assert table.loss[rule, 32] == pytest.approx(loss, rel=1e-9)
    with pytest.raises(InputError, match="averages have 1 and 1 rows for 2 paths"):
        walk(waited.last, 8, 4, gf.flows.Averages(first[:1], second[:1], 3), 0)


def test_what_runs_away_is_told():
    table = run(**SMALL, rules="linear", lr=1e6)
    assert set(table.failure) <= {"blow-up", "non-finite", ""}
    assert (table[table.samples == 32].loss > 1e3).all() or not (table.failure == "").all()


@pytest.mark.parametrize(
    ("kwargs", "said"),
    [
        ({"rules": "cubic"}, "Unknown rule"),
        ({"batches": "3"}, "multiple of each batch size"),
        ({"samples": 20}, "samples must be a multiple"),
        ({"svag": "2"}, "go together"),
        ({"wait": 3}, "wait must be a multiple"),
        ({"keep": True, "wait": 8}, "RMSProp and Adam after a wait"),
        ({"keep": True, "optimizer": "adam"}, "RMSProp and Adam after a wait"),
    ],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else "",
)
def test_bad_arguments(kwargs, said):
    with pytest.raises(InputError, match=said):
        run(**{**SMALL, **kwargs})
    assert torch.get_num_threads() == 1
