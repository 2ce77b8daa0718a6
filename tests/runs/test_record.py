"""Runs are written whole, read back exactly, and never mixed."""

import json

import pandas as pd
import pytest

import gdflows as gf
from gdflows.errors import InputError

TABLE = pd.DataFrame({"step": [0, 1, 2], "loss": [1 / 3, 1e-300, float("inf")]})


def make(folder, lr=0.1):
    return gf.runs.record(folder, {"study": "test", "lr": lr}, lambda: TABLE)


def test_round_trip_is_exact(tmp_path):
    made = make(tmp_path / "one")
    read = gf.runs.load(tmp_path / "one")
    assert read.name == "one" and read.config == {"study": "test", "lr": 0.1}
    pd.testing.assert_frame_equal(read.table, TABLE, check_exact=True)
    assert read.environment == made.environment
    for key in ("command", "device", "threads", "started", "seconds", "python", "packages"):
        assert read.environment[key] is not None
    assert read.environment["packages"]["gdflows"] == gf.__version__
    assert read.environment["command"] in repr(read)


def test_another_configuration_is_refused_before_any_work(tmp_path):
    make(tmp_path / "one")
    with pytest.raises(InputError, match=r"lr: 0\.1, not 0\.2"):
        gf.runs.record(tmp_path / "one", {"study": "test", "lr": 0.2}, lambda: pytest.fail("ran"))
    make(tmp_path / "one")  # the same may be made again


def test_a_study_that_fails_leaves_no_run(tmp_path):
    def fail():
        raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError):
        gf.runs.record(tmp_path / "one", {}, fail)
    with pytest.raises(InputError, match="No run named"):
        gf.runs.load(tmp_path / "one")


def test_writing_that_breaks_off_keeps_the_old_record(tmp_path, monkeypatch):
    make(tmp_path / "one")
    before = (tmp_path / "one" / "table.csv").read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", no_space)
    with pytest.raises(OSError, match="No space"):
        gf.runs.record(tmp_path / "one", {"study": "test", "lr": 0.1}, lambda: TABLE.head(1))
    assert (tmp_path / "one" / "table.csv").read_bytes() == before
    assert sorted(p.name for p in (tmp_path / "one").iterdir()) == ["run.json", "table.csv"]


@pytest.mark.parametrize("damage", ["missing table", "broken description", "future format"])
def test_damaged_records_say_so(tmp_path, damage):
    make(tmp_path / "one")
    description = tmp_path / "one" / "run.json"
    if damage == "missing table":
        (tmp_path / "one" / "table.csv").unlink()
    elif damage == "broken description":
        description.write_text(description.read_text()[:40])
    else:
        description.write_text(json.dumps(json.loads(description.read_text()) | {"format": 99}))
    with pytest.raises(InputError, match=r"not a complete run|format 99"):
        gf.runs.load(tmp_path / "one")


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="Shipped runs"):
        gf.runs.load("no-such-run")


@pytest.mark.parametrize("name", gf.runs.available())
def test_shipped_runs_tell_where_they_came_from(name):
    run = gf.runs.load(name)
    assert len(run.table) > 0
    assert run.environment["command"].startswith(("gdflows run ", "bench_"))
    assert run.environment["seconds"] > 0
