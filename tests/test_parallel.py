"""Several processes against one. They are real ones, joined by torch's gloo."""

import json
import os
import subprocess
import sys

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
