"""Several processes against one. They are real ones, joined by torch's gloo."""

import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch

import gdflows as gf
from gdflows import parallel
from gdflows.errors import InputError

ENVIRONMENT = os.environ | {"OMP_NUM_THREADS": "1"}
LAUNCH = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]

DERIVATIVES = """
import json, sys, torch
import gdflows as gf
from gdflows import parallel

def derivatives():
    f64 = torch.float64
    out = {}
    for name, chunk, loss in (("whole", None, "mse"), ("chunks", 20, "cross-entropy")):
        net = gf.problems.mlp([64, 5, 10], "tanh", seed=0, dtype=f64)
        E = gf.problems.classification("digits", net, loss=loss, n=101, chunk=chunk, shard=True)
        theta = E.theta0
        u, v = torch.randn(2, E.dim, dtype=f64, generator=torch.Generator().manual_seed(0))
        point = E.at(theta)
        out[name] = {
            "value": E.value(theta), "grad": E.grad(theta), "hvp": E.hvp(theta, u),
            "third": E.third(theta, u, v), "point value": point.value, "point grad": point.grad,
            "point hvp": point.hvp(u), "point third": point.third(u, v),
            "complex": torch.view_as_real(E.grad(torch.complex(theta, 1e-3 * u))),
            "sharpness": gf.curvature.top_eigenpairs(E, theta, tol=1e-8).values,
        }
    return {k: {n: t.flatten().tolist() for n, t in v.items()} for k, v in out.items()}

with parallel.group("cpu"):
    result = derivatives()
    if parallel.first():
        json.dump({"processes": parallel.size(), "result": result}, open(sys.argv[1], "w"))
"""


def run(*words):
    done = subprocess.run(words, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


def test_derivatives_of_two_processes_are_those_of_one(tmp_path):
    script = tmp_path / "derivatives.py"
    script.write_text(DERIVATIVES)
    run(sys.executable, str(script), str(tmp_path / "1.json"))
    run(*LAUNCH, str(script), str(tmp_path / "2.json"))
    one, two = (json.loads((tmp_path / f"{n}.json").read_text()) for n in (1, 2))
    assert (one["processes"], two["processes"]) == (1, 2)
    for case, parts in one["result"].items():
        for name, numbers in parts.items():
            size = max(map(abs, numbers))
            np.testing.assert_allclose(
                two["result"][case][name], numbers, rtol=0, atol=1e-12 * size, err_msg=name
            )


def test_a_study_by_torchrun(tmp_path):
    """The command of one process, started twice: one record, of the same numbers."""
    words = ["gdflows", "run", "eos", "--n", "101", "--lr", "0.4", "--steps", "20",
             "--dtype", "float64", "--widths", "8", "--tol", "1e-6", "--out"]  # fmt: skip
    run(sys.executable, "-m", *words, str(tmp_path / "one"))
    # Without the dashes torchrun would take --n for the beginning of an option of its own.
    said = run(*LAUNCH, "-m", "--", *words, str(tmp_path / "two"))
    assert said.count("Written to") == 1
    one, two = (pd.read_csv(tmp_path / name / "table.csv") for name in ("one", "two"))
    np.testing.assert_allclose(two.loss, one.loss, rtol=1e-11)
    np.testing.assert_allclose(two.eigenvalue_1, one.eigenvalue_1, rtol=1e-8)
    record = gf.runs.load(tmp_path / "two")
    assert record.environment["processes"] == 2
    assert "2 processes" in repr(record)
    assert record.config == gf.runs.load(tmp_path / "one").config


def test_alone_nothing_changes():
    x = torch.arange(3.0)
    assert parallel.size() == 1
    assert parallel.first()
    assert parallel.share(x) is x
    assert parallel.total(x) is x
    assert parallel.of_first(lambda: 7) == 7
    with parallel.group("auto") as device:
        assert device == ("cuda" if torch.cuda.is_available() else "cpu")


def test_too_few_samples(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 4)
    with pytest.raises(InputError, match="3 samples cannot be shared among 4"):
        parallel.share(torch.zeros(3))


# -- a process that is lost ------------------------------------------------------------------------

# They add without end; each says when it has begun.
ADDING = """
import sys, torch
from gdflows import parallel
from gdflows.errors import GdflowsError

try:
    with parallel.group("cpu"):
        done = 0
        while True:
            assert float(parallel.total(torch.ones(()))) == parallel.size()
            done += 1
            if done == 3:
                open(sys.argv[1] + str(parallel.dist.get_rank()), "w").close()
except GdflowsError as error:
    sys.exit(f"gdflows: {error}")
"""


def several(n, *words, **environment):
    """So many processes, started as torchrun does, but with nobody to end those that are left."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    shared = ENVIRONMENT | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)} | environment
    return [
        subprocess.Popen(
            [sys.executable, *map(str, words)],
            env=shared | {"WORLD_SIZE": str(n), "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(n)
    ]


def end(processes):
    for process in processes:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        process.communicate()


def wait_for(files, processes):
    deadline = time.monotonic() + 240
    while not all(f.exists() for f in files):
        for process in processes:
            assert process.poll() is None, process.stderr.read()[-2000:]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def sentence(process, said):
    assert "Traceback" not in said and process.returncode == 1, said
    assert "another one has ended, or has not answered for" in said
    assert "start all of them again" in said


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize(
    ("lost", "by", "n"), [(1, "SIGKILL", 2), (1, "SIGSTOP", 3), (0, "SIGSTOP", 2)]
)
def test_when_a_process_is_lost_the_others_end_with_a_sentence(tmp_path, lost, by, n):
    script = tmp_path / "adding.py"
    script.write_text(ADDING)
    mark = tmp_path / "begun-"
    processes = several(n, script, mark, GDFLOWS_TIMEOUT="5")
    try:
        wait_for([tmp_path / f"begun-{rank}" for rank in range(n)], processes)
        processes[lost].send_signal(getattr(signal, by))
        for rank, process in enumerate(processes):
            if rank != lost:
                said = process.communicate(timeout=120)[1]
                sentence(process, said)
                # Process 0 keeps the store over which the others give signs of life.
                who = f"process {lost} (pid {processes[lost].pid} on " if lost else "process 0."
                assert "No sign of life from" in said and who in said
                assert all(f"pid {p.pid}" not in said for p in processes if p != processes[lost])
    finally:
        end(processes)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_study_whose_other_process_dies_says_so_and_keeps_what_it_had(tmp_path):
    folder = tmp_path / "run"
    words = ["-m", "gdflows", "run", "eos", "--steps", 10**6, "--n", 100, "--out", folder]
    processes = several(2, *words)
    try:
        wait_for([folder / "unfinished.pt"], processes)
        processes[1].kill()
        sentence(processes[0], processes[0].communicate(timeout=120)[1].split("\r")[-1])
    finally:
        end(processes)
    assert gf.runs.unfinished(folder)["processes"] == 2


# The command line, in which process 1 is killed right after its thirtieth step's checkpoint.
KILLED = """
import os, signal, sys
from gdflows.experiments.cli import app
from gdflows.runs import Log

checkpoint = Log.checkpoint

def killed(log, step, state, *, now=False):
    checkpoint(log, step, state, now=True)
    if step == 30 and os.environ["RANK"] == "1":
        os.kill(os.getpid(), signal.SIGKILL)

Log.checkpoint = killed
app(sys.argv[1:])
"""


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_study_that_lost_a_process_goes_on_to_the_same_numbers(tmp_path):
    """To the same bits as one that lost none; and the survivor ends within a minute."""
    script = tmp_path / "killed.py"
    script.write_text(KILLED)
    words = ["run", "eos", "--steps", 45, "--n", 60, "--widths", "8", "--every", 15, "--top", 1]
    words += ["--lr", 0.2, "--no-picture", "--out"]
    plain = ["-m", "gdflows"]
    processes = several(2, script, *words, tmp_path / "lost")
    try:
        assert processes[1].wait(timeout=240) == -signal.SIGKILL
        begin = time.monotonic()
        said = processes[0].communicate(timeout=120)[1]
        assert time.monotonic() - begin < 60
        sentence(processes[0], said.split("\r")[-1])
        assert f"process 1 (pid {processes[1].pid} on " in said
    finally:
        end(processes)
    assert gf.runs.unfinished(tmp_path / "lost")["step"] == 30
    for again in (["resume", tmp_path / "lost"], [*words, tmp_path / "whole"]):
        processes = several(2, *plain, *again)
        try:
            for process in processes:
                said = process.communicate(timeout=240)[1]
                assert process.returncode == 0, said[-2000:]
        finally:
            end(processes)
    lost, whole = (gf.runs.load(tmp_path / name).table for name in ("lost", "whole"))
    assert len(whole) > 3
    pd.testing.assert_frame_equal(lost, whole, check_exact=True)


# -- parameters that are spread over processes -----------------------------------------------------

SPREAD = """
import sys, torch, warnings
import gdflows as gf
from gdflows import parallel
from gdflows.errors import InputError

f64 = torch.float64
x = torch.randn(12, 6, dtype=f64, generator=torch.Generator().manual_seed(0))
y = torch.randn(12, 4, dtype=f64, generator=torch.Generator().manual_seed(1))
MAKERS = {
    "CDAT": lambda p, **k: gf.optim.CDAT(p, **k),
    "CDAT sgd": lambda p, **k: gf.optim.CDAT(p, base="sgd", **k),
    "DAL": lambda p, **k: gf.optim.DAL(p, scale=1.0, **k),
    "AdaEoS": lambda p, **k: gf.optim.AdaEoS(p, **k),
}

with parallel.group("cpu"):
    out = {"refused": ""}
    for name, make in MAKERS.items():
        model = gf.problems.mlp([6, 8, 4], "tanh", seed=0, dtype=f64)
        if parallel.size() > 1:
            from torch.distributed.device_mesh import init_device_mesh
            from torch.distributed.fsdp import fully_shard
            mesh = init_device_mesh("cpu", (2,))
            for layer in model:
                if list(layer.parameters()):
                    fully_shard(layer, mesh=mesh)
            fully_shard(model, mesh=mesh)
            try:
                gf.Objective.from_module(model, torch.nn.MSELoss(), (x, y))
            except InputError as error:
                out["refused"] = str(error)
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            hvp = "auto" if parallel.size() > 1 else "difference"
            optimizer = make(model.parameters(), hvp=hvp)
            mine, aims = parallel.share(x), parallel.share(y)
            losses = [
                float(optimizer.step(lambda: ((model(mine) - aims) ** 2).mean())) for _ in range(8)
            ]
        out[name] = losses
        out[name + " warned"] = any("spread over processes" in str(w.message) for w in warned)
    if parallel.first():
        torch.save(out, sys.argv[1])
"""


def test_optimisers_under_fully_shard_step_as_one_process_does(tmp_path):
    script = tmp_path / "spread.py"
    script.write_text(SPREAD)
    run(sys.executable, str(script), str(tmp_path / "1.pt"))
    run(*LAUNCH, str(script), str(tmp_path / "2.pt"))
    one, two = (torch.load(tmp_path / f"{n}.pt") for n in (1, 2))
    assert "is spread over processes (a DTensor" in two["refused"]
    for name in ("CDAT", "CDAT sgd", "DAL", "AdaEoS"):
        # Both take differences of gradients, which are summed in another order.
        np.testing.assert_allclose(two[name], one[name], rtol=1e-5, err_msg=name)
        assert two[f"{name} warned"] and not one[f"{name} warned"]


@pytest.mark.parametrize(
    ("variable", "value"),
    [("GDFLOWS_TIMEOUT", "soon"), ("GDFLOWS_TIMEOUT", "-1"), ("WORLD_SIZE", "two")],
)
def test_environment_variables_that_cannot_be_read_are_named(monkeypatch, variable, value):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv(variable, value)
    with pytest.raises(InputError, match=f"{variable} must be .*{value}"):
        with parallel.group("cpu"):
            pass


def test_more_processes_than_gpus(monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(InputError, match="Process 1 of this machine has no GPU"):
        with parallel.group("cuda"):
            pass


def test_other_errors_are_not_told_as_a_lost_process(monkeypatch):
    monkeypatch.setattr(parallel, "size", lambda: 2)

    def failing(*_, **__):
        raise RuntimeError("expected a dense tensor")

    monkeypatch.setattr(parallel.dist, "all_reduce", failing)
    with pytest.raises(RuntimeError, match="^expected a dense tensor$"):
        parallel.total(torch.ones(2))
