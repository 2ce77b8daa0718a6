"""A run that is broken off goes on from its last checkpoint."""

import hashlib
import os
import signal

import pandas as pd
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, InterruptedRunError, StoppedRun
from gdflows.runs import Log, files, log

CONFIG = {"study": "test", "lr": 0.1}


def study(stop_at=None, act=None):
    def walk(log):
        x = log.state["x"] if log.state else torch.tensor(1.0)
        for step in range(log.state["step"] if log.state else 0, 10):
            log.checkpoint(step, lambda s=step, x=x: {"x": x, "step": s}, now=True)
            if step == stop_at:
                act()
            x = x * 0.9
            log.rows.append({"step": step, "x": float(x)})
        return log.table()

    return walk


def fail(error):
    def act():
        raise error

    return act


def record(folder, config=CONFIG, title="", **kwargs):
    return gf.runs.record(folder, config, study(**kwargs), resumable=True, title=title)


def listing(folder):
    return sorted(p.name for p in folder.iterdir())


MEMORY = RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")
ERRORS = {
    "Ctrl-C": (KeyboardInterrupt(), StoppedRun, "stopped"),
    "GPU memory": (torch.OutOfMemoryError("no"), InterruptedRunError, "memory is short"),
    "CPU memory": (MEMORY, InterruptedRunError, "memory is short"),
    "disk": (OSError(28, "No space left"), InterruptedRunError, "no room on the disk"),
    "a bug": (ZeroDivisionError("no"), ZeroDivisionError, "no"),
    "another file": (PermissionError(13, "Permission denied"), PermissionError, "Permission"),
}


@pytest.mark.parametrize("stop_at", [0, 1, 7])
@pytest.mark.parametrize("what", ERRORS)
def test_continues_to_the_same_table(tmp_path, stop_at, what):
    error, expected, words = ERRORS[what]
    whole = record(tmp_path / "whole")
    with pytest.raises(expected, match=words) as raised:
        record(tmp_path / "broken", title="Ten steps", stop_at=stop_at, act=fail(error))
    if expected in (InterruptedRunError, StoppedRun):
        assert f"up to step {stop_at} is kept" in str(raised.value)
        assert f"gdflows resume {tmp_path / 'broken'}" in str(raised.value)
        assert ("no room" in str(raised.value)) == (what == "disk")
    assert listing(tmp_path / "broken") == ["unfinished.pt"]
    assert gf.runs.unfinished(tmp_path / "broken")["step"] == stop_at
    with pytest.raises(InputError, match="not a complete run: it was broken off.*gdflows resume"):
        gf.runs.load(tmp_path / "broken")
    resumed = record(tmp_path / "broken")
    pd.testing.assert_frame_equal(resumed.table, whole.table, check_exact=True)
    assert resumed.title == "Ten steps"
    assert listing(tmp_path / "broken") == ["run.json", "table.csv"]


@pytest.mark.skipif(os.name != "posix", reason="signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_at_the_next_checkpoint(tmp_path, number):
    before = signal.getsignal(number)
    with pytest.raises(StoppedRun, match="up to step 4 is kept.*gdflows resume") as raised:
        record(tmp_path / "one", stop_at=3, act=lambda: os.kill(os.getpid(), number))
    assert raised.value.signal == number and signal.getsignal(number) is before
    assert gf.runs.unfinished(tmp_path / "one")["step"] == 4

    def twice():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)

    with pytest.raises(StoppedRun, match="up to step 6 is kept"):
        record(tmp_path / "one", stop_at=6, act=twice)
    whole = record(tmp_path / "whole")
    resumed = record(tmp_path / "one")
    pd.testing.assert_frame_equal(resumed.table, whole.table, check_exact=True)


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_what_cannot_be_continued_stops_at_once(tmp_path):
    def study():
        os.kill(os.getpid(), signal.SIGTERM)
        pytest.fail("went on")

    with pytest.raises(StoppedRun, match="cannot be continued"):
        gf.runs.record(tmp_path / "one", CONFIG, study)
    assert not (tmp_path / "one").exists()


def test_another_configuration_does_not_continue_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "one", stop_at=3, act=fail(KeyboardInterrupt()))
    with pytest.raises(InputError, match=r"lr: 0\.1, not 0\.2"):
        record(tmp_path / "one", CONFIG | {"lr": 0.2})
    assert gf.runs.unfinished(tmp_path / "one")["step"] == 3


def test_a_state_of_another_configuration_beside_a_record_is_not_taken(tmp_path):
    """As two processes at once left it, before folders were locked."""
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "loser", CONFIG | {"lr": 0.2}, stop_at=3, act=fail(KeyboardInterrupt()))
    record(tmp_path / "winner", CONFIG | {"lr": 0.3})
    os.replace(tmp_path / "loser" / "unfinished.pt", tmp_path / "winner" / "unfinished.pt")
    with pytest.raises(InputError, match=r"lr: 0\.2, not 0\.3"):
        record(tmp_path / "winner", CONFIG | {"lr": 0.3})


def test_an_early_end_is_part_of_the_record(tmp_path):
    def diverge(log):
        log.rows.append({"step": 0})
        log.ended = "diverged at step 1"
        return log.table()

    gf.runs.record(tmp_path / "one", CONFIG, diverge, resumable=True)
    assert "ended    diverged at step 1" in repr(gf.runs.load(tmp_path / "one"))


def test_nothing_to_resume(tmp_path):
    with pytest.raises(InputError, match="no run: there is nothing"):
        gf.runs.unfinished(tmp_path)
    record(tmp_path / "one")
    with pytest.raises(InputError, match="a finished run: there is nothing"):
        gf.runs.unfinished(tmp_path / "one")


def broken_off(folder):
    with pytest.raises(KeyboardInterrupt):
        record(folder, stop_at=3, act=fail(KeyboardInterrupt()))
    return folder / "unfinished.pt"


def rewritten(file, change):
    """The state file with a change of its content, and a right sum."""
    kept = gf.runs.unfinished(file.parent)
    change(kept)
    files.replace(file, lambda f: log._write(kept, f))


def test_state_files_that_are_damaged_or_of_another_version_are_named(tmp_path):
    file = broken_off(tmp_path / "one")
    good = file.read_bytes()
    torch.save({"format": 1}, tmp_path / "old.pt")
    cases = {
        b"half a file": "is damaged",
        b"": "is damaged",
        good[:-1]: "is damaged",
        good + b"\0": "is damaged",
        (tmp_path / "old.pt").read_bytes(): "earlier gdflows: continue it with that version",
    }
    for content, words in cases.items():
        file.write_bytes(content)
        for attempt in (gf.runs.unfinished, record):
            with pytest.raises(InputError, match=words) as raised:
                attempt(tmp_path / "one")
            assert "emove the folder" not in str(raised.value)
    for part in log._PARTS:
        file.write_bytes(good)
        rewritten(file, lambda kept, part=part: kept.pop(part))
        with pytest.raises(InputError, match=f"lacks '{part}': continue it with"):
            gf.runs.unfinished(tmp_path / "one")
    file.write_bytes(good)
    rewritten(file, lambda kept: kept.update(format=3))
    with pytest.raises(InputError, match="has format 3"):
        gf.runs.unfinished(tmp_path / "one")


@pytest.mark.parametrize("wrong", [{"y": 1}, {"x": torch.ones(2), "step": "x"}, [1], 5])
def test_a_state_that_does_not_fit_the_study_is_named_with_what_wrote_it(tmp_path, wrong):
    file = broken_off(tmp_path / "one")
    rewritten(file, lambda kept: kept.update(state=wrong))
    before = file.read_bytes()
    with pytest.raises(InputError, match="does not fit this version.*torch .*commit") as raised:
        record(tmp_path / "one")
    assert "emove the folder" not in str(raised.value)
    assert file.read_bytes() == before  # nothing is lost


def test_versions_machines_and_data_are_in_the_state(tmp_path, monkeypatch):
    data = {"x": b"one"}

    def act_on(stop):
        def walk(log):
            gf.runs.used("toy", lambda: hashlib.sha256(bytes(data["x"])).hexdigest())
            return study(stop, fail(KeyboardInterrupt()))(log)

        return walk

    def go(stop=None):
        return gf.runs.record(tmp_path / "one", CONFIG, act_on(stop), resumable=True)

    with pytest.raises(KeyboardInterrupt):
        go(2)
    kept = gf.runs.unfinished(tmp_path / "one")
    assert kept["versions"]["packages"]["torch"] == torch.__version__
    assert list(kept["data"]) == ["toy"] and len(kept["data"]["toy"]) == 64
    data["x"] = b"two"
    with pytest.raises(InputError, match="data toy are not those that this run was begun with"):
        go()
    data["x"] = b"one"
    monkeypatch.setattr("gdflows.runs.origin.device_name", lambda device: "Another machine")
    older = kept["versions"] | {"packages": kept["versions"]["packages"] | {"torch": "2.3.0"}}
    rewritten(tmp_path / "one" / "unfinished.pt", lambda kept: kept.update(versions=older))
    environment = go().environment
    assert environment["device"].endswith(", then Another machine")
    assert environment["begun"]["packages"]["torch"] == "2.3.0"
    assert environment["packages"]["torch"] == torch.__version__
    assert environment["data"] == kept["data"]


@pytest.mark.skipif(torch.cuda.is_available(), reason="needs a machine without a GPU")
def test_a_state_of_a_gpu_is_read_on_a_machine_without_one(tmp_path, monkeypatch):
    file = broken_off(tmp_path / "one")
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    rewritten(file, lambda kept: kept.update(device="cuda:0"))
    assert b"cuda:0" in file.read_bytes()
    kept = gf.runs.unfinished(tmp_path / "one")
    assert kept["state"]["x"].device.type == "cpu" and kept["device"] == "cuda:0"


def full_after(monkeypatch, bytes_, name):
    """A disk that takes so many bytes of a file of this name, then no more."""
    real = open

    def opened(file, mode="r", *rest, **more):
        f = real(file, mode, *rest, **more)
        if "w" in mode and str(file).endswith(name):
            write, written = f.write, [0]

            class Full:
                def __getattr__(self, key):
                    return getattr(f, key)

                def __enter__(self):
                    return self

                def __exit__(self, *exception):
                    f.close()

                def write(self, data):
                    written[0] += len(data)
                    if written[0] > bytes_:
                        raise OSError(28, "No space left on device")
                    return write(data)

            return Full()
        return f

    monkeypatch.setattr("gdflows.runs.files.open", opened, raising=False)


@pytest.mark.parametrize("bytes_", [0, 50, 300, 2000])
def test_a_disk_that_is_full_in_the_middle_of_the_state(tmp_path, monkeypatch, bytes_):
    folder = tmp_path / "one"
    broken_off(folder)
    before = (folder / "unfinished.pt").read_bytes()
    with monkeypatch.context() as patch:
        full_after(patch, bytes_, "unfinished.pt.new")
        with pytest.raises(InterruptedRunError, match="no room on the disk.*up to step 3 is kept"):
            record(folder)
    assert (folder / "unfinished.pt").read_bytes() == before
    assert listing(folder) == ["unfinished.pt"]
    whole = record(tmp_path / "whole")
    pd.testing.assert_frame_equal(record(folder).table, whole.table, check_exact=True)


@pytest.mark.parametrize("name", ["run.json.new", "table.csv.new"])
def test_a_disk_that_is_full_at_the_record(tmp_path, monkeypatch, name):
    whole = record(tmp_path / "whole")
    with monkeypatch.context() as patch:
        full_after(patch, 20, name)
        with pytest.raises(InterruptedRunError, match="cannot be written.*up to step 9 is kept"):
            record(tmp_path / "one")
    assert listing(tmp_path / "one") == ["unfinished.pt"]
    pd.testing.assert_frame_equal(record(tmp_path / "one").table, whole.table, check_exact=True)
    assert listing(tmp_path / "one") == ["run.json", "table.csv"]


def test_a_plan_goes_on_at_the_item_that_was_broken_off(tmp_path, monkeypatch):
    monkeypatch.setattr(Log, "seconds_between", 0.0)  # a checkpoint before every item

    def walk(fail):
        def study(log):
            for item in log.through(["a", "b", "c", "d"]):
                if item == fail:
                    raise KeyboardInterrupt
                log.rows.append({"item": item, "length": len(log.rows)})
            return log.table()

        return study

    whole = gf.runs.record(tmp_path / "whole", CONFIG, walk(None), resumable=True)
    assert list(whole.table["item"]) == ["a", "b", "c", "d"]
    with pytest.raises(KeyboardInterrupt):
        gf.runs.record(tmp_path / "broken", CONFIG, walk("c"), resumable=True)
    again = gf.runs.record(tmp_path / "broken", CONFIG, walk(None), resumable=True)
    pd.testing.assert_frame_equal(again.table, whole.table, check_exact=True)


def test_by_default_a_second_of_work_is_lost_at_most(tmp_path, monkeypatch):
    """The clock is ours: every step takes a tenth of a second, keeping the state no time."""
    now = [0.0]
    monkeypatch.setattr("gdflows.runs.log.time.perf_counter", lambda: now[0])
    saved = []

    def walk(log):
        for step in range(100):
            log.checkpoint(step, lambda step=step: saved.append(now[0]) or {"step": step})
            now[0] += 0.1
        return pd.DataFrame({"step": [0]})

    gf.runs.record(tmp_path / "one", CONFIG, walk, resumable=True)
    gaps = [b - a for a, b in zip([0.0, *saved], [*saved, now[0]], strict=True)]
    assert max(gaps) <= 1.1 + 1e-9 and len(saved) >= 9
