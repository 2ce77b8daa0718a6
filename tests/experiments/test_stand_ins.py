"""Studies whose data cannot travel with the project, run on made-up data of the same form.

That is no repetition: it shows that the recorded configuration still runs, gives the recorded
columns and finite numbers, and the same ones twice. Its samples are fewer, for the time's sake.
"""

import hashlib

import numpy as np
import pandas as pd
import pytest
from recorded import DATA, note

from gdflows import problems, runs
from gdflows.experiments.registry import CHECKS, carry_out, know_all
from gdflows.problems import data
from gdflows.problems.data.sources import source_of

# What is made smaller than in the records' own checks, by study.
SMALLER = {
    "each-step": {"n": 4, "widths": "8-8"},
    # At the recorded rate a few images of noise are beyond the edge.
    "leaderboard": {
        "n": 4, "wait": 2, "lr": 0.002, "models": "NGF,rod + noise + slow,principal rod 1",
    },
    "eos": {"n": 20, "widths": "8-8", "every": 1, "steps": 2},
    "step-size": {"n": 20, "every": 1, "steps": 2},
    "step-size-trained": {"n": 20, "every": 1, "steps": 2, "seeds": 1},
    "one-step": {"n": 20},
}
ELSEWHERE = [name for name, of in DATA.items() if of is not None and source_of(of).files]


@pytest.fixture(scope="module")
def made_up(tmp_path_factory):
    """A folder with files of MNIST's and CIFAR-10's form and a text; and the text's sum."""
    folder, rng = tmp_path_factory.mktemp("made-up"), np.random.default_rng(0)

    def images(n, *shape):
        """Ten patterns, one a class, under noise."""
        labels = rng.integers(0, 10, n, dtype=np.uint8)
        patterns = rng.integers(30, 226, (10, *shape), dtype=np.int16)
        noise = rng.integers(-30, 30, (n, *shape), dtype=np.int16)
        return (patterns[labels] + noise).astype(np.uint8), labels

    x, y = images(10_000, 28, 28)
    np.savez(folder / "mnist_10k.npz", x=x, y=y)
    x, y = images(6_000, 3, 32, 32)
    np.savez(
        folder / "cifar10_5k.npz",
        x_train=x[:5000], y_train=y[:5000], x_test=x[5000:], y_test=y[5000:],
    )  # fmt: skip
    letters = np.array([10, *range(32, 96)], dtype=np.uint8)  # as many as in the real text
    weights = 1.0 / np.arange(1, 66)
    content = rng.choice(letters, 1_115_394, p=weights / weights.sum()).tobytes()
    (folder / "tinyshakespeare.txt").write_bytes(content)
    return folder, hashlib.sha256(content).hexdigest()


@pytest.fixture
def stand_in(made_up, monkeypatch):
    folder, total = made_up
    monkeypatch.setenv("GDFLOWS_DATA", str(folder))
    monkeypatch.setitem(data.FILES, "tinyshakespeare.txt", ("https://no.address", total))


@pytest.mark.parametrize("name", ELSEWHERE)
def test_recorded_study_runs_on_a_stand_in(name, stand_in, record_property):
    run = runs.load(name)
    config = dict(run.config)
    study = config.pop("study")
    know_all()
    keys, shorten = CHECKS[study]
    config |= dict(shorten(config)) | SMALLER.get(study, {})
    if config.get("network") == "vgg11":  # whose width is a factor
        config["widths"] = "0.03"
    one, two = (carry_out(study, config) for _ in range(2))
    apart = [c for c in one if c == "microseconds"]
    pd.testing.assert_frame_equal(one.drop(columns=apart), two.drop(columns=apart))
    table = run.table
    if "every" in SMALLER.get(study, {}):  # one step between two rows in place of some
        table = table.assign(step=table.step // run.config["every"])
    if "reached" in one:  # a row that is there because these data are learnt sooner
        one = one[~one.reached]
    now, then = one.set_index(list(keys)), table.set_index(list(keys))
    assert len(now.index.difference(then.index)) == 0
    then = then.loc[now.index]
    assert set(now) <= set(then)
    # A short run has no use for some columns.
    assert then[sorted(set(then) - set(now))].isna().all(axis=None)
    numbers = now.select_dtypes("floating").columns
    recorded = np.isfinite(then[numbers].to_numpy(dtype=float))
    assert recorded.any()
    assert np.isfinite(now[numbers].to_numpy(dtype=float))[recorded].all(), now
    note(record_property, name, "ran on a stand-in")


def test_stand_ins_have_the_form_of_the_real_data(stand_in):
    for name, samples, shape, classes in (
        ("mnist-5k", 5000, (1, 28, 28), 10),
        ("cifar10-5k", 5000, (3, 32, 32), 10),
        ("shakespeare-64", 15_686, (64,), 65),
    ):
        d = problems.load(name)
        assert len(d.x_train) == samples and d.x_train.shape[1:] == shape
        assert len(d.classes) == classes == len(d.y_train.unique())
