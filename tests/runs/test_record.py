"""Runs are written whole, read back exactly, and never mixed."""

import hashlib
import json
import os
import shlex
import shutil

import numpy as np
import pandas as pd
import pytest

import gdflows as gf
from gdflows.errors import InputError, InterruptedRunError
from gdflows.runs import origin
from gdflows.runs.lock import locked

TABLE = pd.DataFrame({"step": [0, 1, 2], "loss": [1 / 3, 1e-300, float("inf")]})


def make(folder, lr=0.1, table=TABLE, **more):
    return gf.runs.record(folder, {"study": "test", "lr": lr}, lambda: table, **more)


def commands(run):
    """The words that a shell makes of the command that a run's repr shows."""
    told = repr(run).split("made by  ")[1].split("\n  on  ")[0]
    return shlex.split(told.replace("\\\n", " "))


@pytest.mark.parametrize("name", gf.runs.available())
def test_the_command_that_is_shown_can_be_copied(name):
    run = gf.runs.load(name)
    assert commands(run) == shlex.split(run.environment["command"])
    told = repr(run).split("\n  on  ")[0].split("\n")[1:]
    assert all(len(line) <= 95 or len(shlex.split(line.rstrip("\\"))) <= 4 for line in told)


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


def test_round_trip_is_exact(tmp_path):
    made = make(tmp_path / "one", title="Three steps")
    read = gf.runs.load(tmp_path / "one")
    assert read.name == "one" and read.config == {"study": "test", "lr": 0.1}
    assert read.title == "Three steps"
    pd.testing.assert_frame_equal(read.table, TABLE, check_exact=True)
    assert read.environment == made.environment
    for key in ("command", "device", "threads", "started", "seconds", "python", "packages"):
        assert read.environment[key] is not None
    assert read.environment["packages"]["gdflows"] == gf.__version__
    assert commands(read) == shlex.split(read.environment["command"])
    raw = (tmp_path / "one" / "table.csv").read_bytes()
    assert gf.runs.describe(tmp_path / "one")["table"] == {
        "sha256": hashlib.sha256(raw).hexdigest(), "rows": 3, "columns": ["step", "loss"]
    }  # fmt: skip


def test_numbers_of_all_sizes_come_back_to_the_last_bit(tmp_path):
    rng = np.random.default_rng(0)
    x = rng.standard_normal(5000) * 10.0 ** rng.integers(-300, 300, 5000)
    make(tmp_path / "one", table=pd.DataFrame({"x": x}))
    assert np.array_equal(gf.runs.load(tmp_path / "one").table["x"].to_numpy(), x)


def test_another_configuration_is_refused_before_any_work(tmp_path):
    make(tmp_path / "one", title="First")
    with pytest.raises(InputError, match=r"lr: 0\.1, not 0\.2"):
        gf.runs.record(tmp_path / "one", {"study": "test", "lr": 0.2}, lambda: pytest.fail("ran"))
    make(tmp_path / "one")  # the same may be made again
    assert gf.runs.load(tmp_path / "one").title == "First"


def test_a_folder_of_other_things_is_left_alone(tmp_path):
    (tmp_path / "table.csv").write_text("mine")
    with pytest.raises(InputError, match="holds table.csv and no run; choose an empty folder"):
        make(tmp_path)
    assert (tmp_path / "table.csv").read_text() == "mine"
    with pytest.raises(InputError, match="is a file"):
        make(tmp_path / "table.csv")


def test_a_study_that_fails_leaves_no_run(tmp_path):
    def fail():
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        gf.runs.record(tmp_path / "one", {}, fail)
    with pytest.raises(InputError, match="No run named"):
        gf.runs.load(tmp_path / "one")


def test_writing_that_breaks_off_keeps_the_old_record(tmp_path, monkeypatch):
    make(tmp_path / "one")
    before = (tmp_path / "one" / "table.csv").read_bytes()

    def no_space(descriptor):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", no_space)
        with pytest.raises(InterruptedRunError, match="no room on the disk.*It is lost"):
            make(tmp_path / "one", table=TABLE.head(1))
    assert (tmp_path / "one" / "table.csv").read_bytes() == before
    assert listing(tmp_path / "one") == ["run.json", "table.csv"]


def test_a_table_that_has_no_room_is_kept_elsewhere(tmp_path, monkeypatch):
    """A study without checkpoints may have computed for hours."""
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "elsewhere"))
    (tmp_path / "elsewhere").mkdir()
    real = os.replace

    def full(a, b):
        if str(tmp_path / "one") in str(b):
            raise OSError(28, "No space left on device")
        real(a, b)

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(InterruptedRunError, match="It is kept in .*elsewhere") as raised:
        make(tmp_path / "one")
    kept = gf.runs.load(str(raised.value).partition("kept in ")[2].partition(":")[0])
    pd.testing.assert_frame_equal(kept.table, TABLE, check_exact=True)


@pytest.mark.parametrize("again", [False, True])
@pytest.mark.parametrize("killed_at", [1, 2, 3])
def test_killed_between_the_two_files(tmp_path, monkeypatch, again, killed_at):
    """Whole before, whole after, and in between; and it can be recorded again."""
    other = TABLE.assign(loss=[3.0, 2.0, 1.0])
    if again:
        make(tmp_path / "one", table=other)
    real, calls = os.replace, []

    class Killed(BaseException):
        pass

    def replace(a, b):
        calls.append(b)
        if len(calls) == killed_at:
            raise Killed
        real(a, b)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", replace)
        patch.setattr("gdflows.runs.files.remove", lambda path: None)  # a kill cleans up nothing
        if killed_at <= 2:
            with pytest.raises(Killed):
                make(tmp_path / "one")
        else:
            make(tmp_path / "one")
    if killed_at == 1:  # the old one still, or none
        if again:
            pd.testing.assert_frame_equal(gf.runs.load(tmp_path / "one").table, other)
        else:
            with pytest.raises(InputError, match="not a complete run"):
                gf.runs.load(tmp_path / "one")
    else:
        pd.testing.assert_frame_equal(gf.runs.load(tmp_path / "one").table, TABLE)
    made = make(tmp_path / "one")
    pd.testing.assert_frame_equal(made.table, gf.runs.load(tmp_path / "one").table)
    assert listing(tmp_path / "one") == ["run.json", "table.csv"]


def damaged(meta, **changes):
    return json.dumps(meta | changes)


MALFORMED = {
    "half": lambda m: json.dumps(m)[:40],
    "empty": lambda m: "",
    "bytes": lambda m: b"\xff\xfe\x00",
    "a list": lambda m: "[1]",
    "a number": lambda m: "1",
    "nested": lambda m: "[" * 100_000,
    "future format": lambda m: damaged(m, format=99),
    "older format": lambda m: damaged(m, format=1),
    "no format": lambda m: json.dumps({k: v for k, v in m.items() if k != "format"}),
    "no name": lambda m: json.dumps({k: v for k, v in m.items() if k != "name"}),
    "config a list": lambda m: damaged(m, config=[]),
    "config changed": lambda m: damaged(m, config=m["config"] | {"lr": 0.2}),
    "environment null": lambda m: damaged(m, environment=None),
    "no command": lambda m: damaged(m, environment={}),
    "seconds a word": lambda m: damaged(m, environment=m["environment"] | {"seconds": "long"}),
    "packages a word": lambda m: damaged(m, environment=m["environment"] | {"packages": "all"}),
    "no sum": lambda m: json.dumps({k: v for k, v in m.items() if k != "sha256"}),
    "no table": lambda m: json.dumps({k: v for k, v in m.items() if k != "table"}),
}


@pytest.mark.parametrize("damage", MALFORMED)
def test_a_malformed_description_is_named(tmp_path, damage):
    make(tmp_path / "one")
    file = tmp_path / "one" / "run.json"
    text = MALFORMED[damage](json.loads(file.read_text()))
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    for read in (gf.runs.load, gf.runs.describe, make):
        with pytest.raises(InputError, match="not a complete run|run.json is damaged"):
            read(tmp_path / "one")


TABLES = {
    "cut": lambda t: t[: len(t) // 2],
    "last row": lambda t: t[: t.rstrip("\n").rindex("\n") + 1],
    "digit": lambda t: t.replace("0.333", "0.334"),
    "column": lambda t: t.replace("loss", "Loss"),
    "order": lambda t: "\n".join([*t.splitlines()[:1], *t.splitlines()[:0:-1], ""]),
    "empty": lambda t: "",
    "line ends": lambda t: t.replace("\n", "\r\n"),
    "doubled": lambda t: t + t,
}


@pytest.mark.parametrize("damage", TABLES)
def test_a_damaged_table_is_noticed(tmp_path, damage):
    make(tmp_path / "one")
    file = tmp_path / "one" / "table.csv"
    file.write_bytes(TABLES[damage](file.read_text()).encode())
    with pytest.raises(InputError, match="not the table that was recorded"):
        gf.runs.load(tmp_path / "one")
    make(tmp_path / "one")  # the remedy
    pd.testing.assert_frame_equal(gf.runs.load(tmp_path / "one").table, TABLE, check_exact=True)


def test_a_record_without_a_table_says_so(tmp_path):
    make(tmp_path / "one")
    (tmp_path / "one" / "table.csv").unlink()
    with pytest.raises(InputError, match="not a complete run"):
        gf.runs.load(tmp_path / "one")


def test_one_process_at_a_time(tmp_path):
    with locked(tmp_path / "one"):
        run = gf.runs.load("bench-central")
        for write in (make, run.save):
            with pytest.raises(InputError, match=f"being written by process {os.getpid()} on"):
                write(tmp_path / "one")
    assert not (tmp_path / "one").exists()
    make(tmp_path / "one")
    assert listing(tmp_path / "one") == ["run.json", "table.csv"]


def test_an_older_record_is_read_and_has_no_sums():
    meta = gf.runs.describe("bench-central")
    assert meta["format"] == 1 and "table" not in meta


def test_the_commit_is_that_of_the_source(tmp_path, monkeypatch):
    git = shutil.which("git")
    if git is None:
        pytest.skip("git is not installed")
    commit = origin.commit.__wrapped__  # not kept for the process
    package = tmp_path / "src" / "gdflows"
    (package / "runs").mkdir(parents=True)
    (package / "__init__.py").write_text("")
    monkeypatch.setattr(origin, "__file__", str(package / "runs" / "origin.py"))
    assert commit() == "not known"

    def run(*words):
        import subprocess

        name = ["-c", "user.name=x", "-c", "user.email=x@x"]
        command = [git, "-C", str(tmp_path), *name, *words]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    run("init", "-q")
    assert commit() == "not known"  # beside a repository, but not of it
    run("add", ".")
    run("commit", "-qm", "x")
    head = run("rev-parse", "HEAD")
    assert commit() == head
    (package / "__init__.py").write_text("changed")
    assert commit() == f"{head} with changes"


def test_unknown_name_lists_the_known():
    with pytest.raises(InputError, match="Shipped runs"):
        gf.runs.load("no-such-run")


@pytest.mark.parametrize("name", gf.runs.available())
def test_shipped_runs_tell_where_they_came_from(name):
    run = gf.runs.load(name)
    assert len(run.table) > 0
    assert run.environment["command"].startswith(("gdflows run ", "bench_"))
    assert run.environment["seconds"] > 0
    assert listing_is_a_record(name)


def listing_is_a_record(name):
    from gdflows.runs.run import _folder

    return listing(_folder(name)) == ["run.json", "table.csv"]
