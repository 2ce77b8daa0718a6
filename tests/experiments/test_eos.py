"""The study of the edge, killed and continued, and its commands."""

import os
import signal

import pytest
import torch
from typer.testing import CliRunner

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments import carry_out, cli, eos
from gdflows.runs import Log, files, log

SMALL = {"data": "digits", "network": "mlp-tanh", "widths": "16", "n": 100, "steps": 40, "every": 4}


def invoke(*words):
    result = CliRunner().invoke(cli.app, [str(w) for w in words])
    return result.exit_code, result.output + result.stderr


def words(config):
    return [w for k, v in config.items() for w in (f"--{k}", v)]


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


def test_a_run_by_the_command_alone(tmp_path, monkeypatch):
    """As a newcomer types it: a folder, the edge reached, a picture, what to type next."""
    monkeypatch.chdir(tmp_path)
    code, said = invoke("run", "eos")
    assert code == 0, said
    assert "Recording to runs/eos-1" in said and "Drawn to runs/eos-1/picture.png" in said
    assert "Next: gdflows show runs/eos-1" in said.splitlines()
    run = gf.runs.load("runs/eos-1")
    assert run.table.ratio.max() > 1 and run.table.ratio.iloc[0] < 0.6
    assert run.table.ratio.iloc[-20:].between(0.9, 1.2).all()
    assert len(run.environment["data"]["gratings"]) == 64
    assert run.environment["commit"]
    code, said = invoke("run", "eos", "--steps", 10, "--n", 50)
    assert "Recording to runs/eos-2" in said
    assert "Next: gdflows compare runs/eos-1 runs/eos-2" in said.splitlines()
    code, said = invoke("show", "runs/eos-1")
    assert code == 0 and "commit   " in said and "data     gratings (SHA-256" in said
    code, said = invoke("show", "eos-adam")
    assert all(f"{key:8s} not known" in said for key in ("commit", "data", "table"))
    code, said = invoke("run", "eos", "--network", "tree")
    assert code == 1 and not (tmp_path / "runs" / "eos-3").exists()


class Broken(Exception):
    pass


def broken_off(folder, monkeypatch, step=20):
    """A run that a bug ends after this step."""
    real = Log.checkpoint

    def checkpoint(self, number, state, **more):
        real(self, number, state, now=True)
        if number == step:
            raise Broken

    with monkeypatch.context() as patch:
        patch.setattr(Log, "checkpoint", checkpoint)
        said = ["run", "eos", *words(SMALL), "--out", folder]
        result = CliRunner().invoke(cli.app, list(map(str, said)))
    assert isinstance(result.exception, Broken)


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_run_begun_on_a_gpu_is_moved_not_lost(tmp_path, monkeypatch):
    broken_off(tmp_path / "one", monkeypatch)
    kept = gf.runs.unfinished(tmp_path / "one")
    kept["device"] = "cuda:0"
    files.replace(tmp_path / "one" / "unfinished.pt", lambda f: log._write(kept, f))
    code, said = invoke("resume", tmp_path / "one")
    assert code == 1 and f"gdflows resume {tmp_path / 'one'} --device cpu" in said
    code, said = invoke("resume", tmp_path / "one", "--device", "cpu")
    assert code == 0, said
    code, _ = invoke("run", "eos", *words(SMALL), "--out", tmp_path / "two")
    one, two = ((tmp_path / n / "table.csv").read_bytes() for n in ("one", "two"))
    assert one == two


def test_a_state_of_another_network_is_named(tmp_path, monkeypatch):
    """As after a change of the package: the same configuration, another number of parameters."""
    broken_off(tmp_path / "one", monkeypatch)
    monkeypatch.setitem(eos.KINDS, "mlp", ("conv", "4"))
    before = (tmp_path / "one" / "unfinished.pt").read_bytes()
    small = {k: v for k, v in SMALL.items() if k != "widths"}
    kept = gf.runs.unfinished(tmp_path / "one")
    kept["config"]["widths"] = ""
    files.replace(tmp_path / "one" / "unfinished.pt", lambda f: log._write(kept, f))
    before = (tmp_path / "one" / "unfinished.pt").read_bytes()
    code, said = invoke("run", "eos", *words(small), "--out", tmp_path / "one")
    assert code == 1 and "does not fit this version of the study" in said, said
    assert (tmp_path / "one" / "unfinished.pt").read_bytes() == before


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_gives_the_usual_exit_code_and_says_how_to_go_on(tmp_path, monkeypatch, number):
    real = Log.checkpoint

    def checkpoint(self, step, state, **more):
        if step == 17:
            os.kill(os.getpid(), number)
        real(self, step, state, **more)

    with monkeypatch.context() as patch:
        patch.setattr(Log, "checkpoint", checkpoint)
        code, said = invoke("run", "eos", *words(SMALL), "--out", tmp_path / "one")
    assert code == 128 + number
    assert "up to step 17 is kept" in said and f"gdflows resume {tmp_path / 'one'}" in said
    code, said = invoke("resume", tmp_path / "one")
    assert code == 0, said
    invoke("run", "eos", *words(SMALL), "--out", tmp_path / "two")
    one, two = ((tmp_path / n / "table.csv").read_bytes() for n in ("one", "two"))
    assert one == two


def test_commands(tmp_path):
    for name in "ab":
        small = ["--steps", 10, "--n", 50, "--no-picture"]
        code, _ = invoke("run", "eos", *small, "--out", tmp_path / name)
        assert code == 0
    code, said = invoke("resume", tmp_path / "a")
    assert code == 1 and "nothing to resume" in said
    code, said = invoke("plot", tmp_path / "a", tmp_path / "b")
    assert code == 0 and (tmp_path / "a" / "picture.png").stat().st_size > 10_000
    code, said = invoke("compare", tmp_path / "a", tmp_path / "b")
    assert code == 0 and "The same configuration" in said
    code, said = invoke("plot", "along-u0-conv")
    assert code == 1 and "has no picture" in said


def test_sweep(tmp_path):
    sweep = ["sweep", "eos", "--over", "lr=0.1,0.2", "--out", tmp_path, "--n", 50, "--steps", 10]
    code, said = invoke(*sweep)
    assert code == 0, said
    assert sorted(p.name for p in tmp_path.iterdir()) == ["lr=0.1", "lr=0.2"]
    code, said = invoke(*sweep)
    assert code == 0 and said.count("is there already") == 2
    code, said = invoke("compare", *sorted(tmp_path.iterdir()))
    assert "0.1" in said and "0.2" in said and "Configurations differ" in said


def test_bad_input():
    for wrong in ({"network": "mlp"}, {"network": "tree-tanh"}, {"every": 0}, {"optimizer": "x"}):
        with pytest.raises(InputError):
            carry_out("eos", SMALL | wrong)


def test_accuracy_on_samples_held_out():
    table = carry_out("eos", SMALL | {"lr": 0.3, "dtype": "float64", "test": 50})
    net = gf.problems.mlp([64, 16, 10], "tanh", init="default", seed=0, dtype=torch.float64)
    E = gf.problems.classification("digits", net, n=100)
    data = gf.problems.load("digits", dtype=torch.float64)
    path = gf.descend(E, E.theta0, 0.3, 40)
    for step in range(0, 41, 4):
        E.write(path.states[step])
        right = (net(data.x_test[:50]).argmax(1) == data.y_test[:50]).double().mean()
        assert table.set_index("step").test_accuracy[step] == float(right)
    assert table.test_accuracy.iloc[-1] > table.test_accuracy.iloc[0]
    assert "test_accuracy" not in carry_out("eos", SMALL)


def test_a_goal_ends_the_run_where_it_is_reached(tmp_path):
    whole = carry_out("eos", SMALL | {"lr": 0.05, "every": 1})
    goal = float(whole.loss[30]) * 1.0001
    first = int(whole.step[whole.loss <= goal].iloc[0])
    log = Log()
    table = carry_out("eos", SMALL | {"lr": 0.05, "until": goal}, log)
    assert first % 4  # between two rows
    assert list(table.step) == [*range(0, first, 4), first]
    assert table.loss.iloc[-1] == pytest.approx(whole.loss[first], rel=1e-5)
    assert f"reached the loss {goal:g} at step {first}" in log.ended
    code, said = invoke("run", "eos", "--until", 1.0, "--n", 50, "--out", tmp_path / "soon")
    assert code == 0 and "reached the loss 1 at step 0" in said


@pytest.mark.parametrize("wrong", [{"test": 10_000}, {"test": -1}, {"until": -0.1},
                                   {"data": "diabetes", "test": 5}])
def test_what_cannot_be_held_out_or_reached(wrong):
    with pytest.raises(InputError, match="test|until"):
        carry_out("eos", SMALL | wrong)
