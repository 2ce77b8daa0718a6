"""The study of the edge, killed and continued, and its commands."""

import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch
from typer.testing import CliRunner

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments import carry_out, cli

SMALL = {"network": "mlp-tanh", "widths": "16", "n": 100, "steps": 40, "every": 4}


def invoke(*words):
    result = CliRunner().invoke(cli.app, [str(w) for w in words])
    return result.exit_code, result.output + result.stderr


def test_against_dense_eigenvalues():
    table = carry_out("eos", SMALL | {"lr": 0.3, "dtype": "float64", "tol": 1e-5})
    net = gf.problems.mlp([64, 16, 10], "tanh", init="default", seed=0, dtype=torch.float64)
    E = gf.problems.classification("digits", net, n=100)
    path = gf.descend(E, E.theta0, 0.3, 40)
    assert list(table.step) == list(range(0, 41, 4))
    for row in table.itertuples():
        theta = path.states[row.step]
        values = 0.3 * torch.linalg.eigvalsh(E.hessian(theta)).flip(0)
        assert row.loss == pytest.approx(float(E.value(theta)), rel=1e-9)
        assert row.eigenvalue_1 == pytest.approx(float(values[0]), rel=1e-4)
        assert row.eigenvalue_2 == pytest.approx(float(values[1]), rel=1e-4)
        assert row.ratio == pytest.approx(float(values[0]) / 2, rel=1e-4)
    losses = [float(E.value(theta)) for theta in path.states]
    rises = sum(b > a for a, b in zip(losses, losses[1:], strict=False))
    assert table.rises.sum() == rises


@pytest.mark.parametrize("optimizer", ["heavy-ball", "nesterov", "adam", "rmsprop"])
def test_other_optimisers(optimizer):
    lr = {"adam": 1e-3, "rmsprop": 1e-4}.get(optimizer, 0.02)
    table = carry_out("eos", SMALL | {"optimizer": optimizer, "lr": lr})
    assert table.loss.iloc[-1] < table.loss.iloc[0]
    assert table.ratio.iloc[1:].between(0, 5).all()


def test_dropping_the_learning_rate():
    table = carry_out("eos", SMALL | {"lr": 0.3, "drop_at": 20, "drop_to": 0.03})
    scaled = table.set_index("step").eigenvalue_1
    assert scaled[20] == pytest.approx(scaled[16] / 10, rel=0.3)


def test_divergence_is_recorded(tmp_path):
    code, said = invoke(
        "run", "eos", "--lr", 50, "--n", 50, "--steps", 60, "--out", tmp_path / "far"
    )
    assert code == 0 and "ended    diverged at step" in said
    assert len(gf.runs.load(tmp_path / "far").table) > 0


# A checkpoint at every step, so that the signal hits its writing too.
PROGRAM = """
import sys, torch
from gdflows.experiments.cli import app
from gdflows.runs import Log
torch.set_num_threads(1)
Log.__init__.__kwdefaults__["seconds_between"] = 0.0
app()
"""
WORDS = ["eos", "--dataset", "digits", "--network", "mlp-tanh", "--loss", "mse"]
WORDS += ["--lr", "0.2", "--steps", "300", "--n", "100", "--optimizer", "heavy-ball"]


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_killed_ten_times_and_resumed_to_the_same_bits(tmp_path):
    folder, rng, steps = tmp_path / "killed", random.Random(0), []
    for _ in range(10):
        words = ["run", *WORDS, "--out", folder]
        process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, *map(str, words)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        file, deadline = folder / "unfinished.pt", time.monotonic() + 120
        before = file.stat().st_mtime_ns if file.exists() else 0
        while not file.exists() or file.stat().st_mtime_ns == before:
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        time.sleep(rng.uniform(0, 0.1))
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
        assert not (folder / "run.json").exists()
        steps.append(gf.runs.unfinished(folder)["step"])
    assert steps == sorted(steps) and 0 < steps[-1] < 300
    threads = torch.get_num_threads()
    try:
        code, said = invoke("resume", folder)
        assert code == 0 and "Run killed: 61 rows" in said
        torch.set_num_threads(1)
        code, _ = invoke("run", *WORDS, "--out", tmp_path / "whole")
        assert code == 0
    finally:
        torch.set_num_threads(threads)
    one, two = ((tmp_path / n / "table.csv").read_bytes() for n in ("killed", "whole"))
    assert one == two
    assert sorted(p.name for p in folder.iterdir()) == ["run.json", "table.csv"]
    assert gf.runs.load(folder).environment["command"].startswith("-c run eos")


def test_commands(tmp_path):
    for name in "ab":
        code, _ = invoke("run", "eos", "--steps", 10, "--n", 50, "--out", tmp_path / name)
        assert code == 0
    code, said = invoke("resume", tmp_path / "a")
    assert code == 1 and "nothing to resume" in said
    code, said = invoke("plot", tmp_path / "a", tmp_path / "b")
    assert code == 0 and (tmp_path / "a" / "picture.png").stat().st_size > 10_000
    code, said = invoke("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "The same configuration" in said
    code, said = invoke("plot", "edge-models-conv")
    assert code == 1 and "has no picture" in said


def test_sweep(tmp_path):
    words = ["sweep", "eos", "--over", "lr=0.1,0.2", "--out", tmp_path, "--n", 50, "--steps", 10]
    code, said = invoke(*words)
    assert code == 0, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lr=0.1", "lr=0.2"]
    code, said = invoke(*words)
    assert code == 0 and said.count("is there already") == 2
    code, said = invoke("compare", *sorted(tmp_path.iterdir()))
    assert "0.1" in said and "0.2" in said and "Configurations differ" in said


def test_bad_input():
    for wrong in ({"network": "mlp"}, {"network": "tree-tanh"}, {"every": 0}, {"optimizer": "x"}):
        with pytest.raises(InputError):
            carry_out("eos", SMALL | wrong)
