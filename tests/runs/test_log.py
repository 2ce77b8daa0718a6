"""A run that is broken off goes on from its last checkpoint."""

import pandas as pd
import pytest
import torch

import gdflows as gf
from gdflows.errors import InputError, InterruptedRunError

CONFIG = {"study": "test", "lr": 0.1}


def study(stop_at=None, error=None):
    def walk(log):
        x = log.state["x"] if log.state else torch.tensor(1.0)
        for step in range(log.state["step"] if log.state else 0, 10):
            log.checkpoint(step, lambda s=step, x=x: {"x": x, "step": s}, now=True)
            if step == stop_at:
                raise error
            x = x * 0.9
            log.rows.append({"step": step, "x": float(x)})
        return log.table()

    return walk


def record(folder, config=CONFIG, **kwargs):
    return gf.runs.record(folder, config, study(**kwargs), resumable=True)


@pytest.mark.parametrize("stop_at", [0, 1, 7])
@pytest.mark.parametrize(
    "error", [KeyboardInterrupt(), torch.OutOfMemoryError("no"), OSError(28, "No space left")]
)
def test_continues_to_the_same_table(tmp_path, stop_at, error):
    whole = record(tmp_path / "whole")
    expected = KeyboardInterrupt if isinstance(error, KeyboardInterrupt) else InterruptedRunError
    with pytest.raises(expected) as raised:
        record(tmp_path / "broken", stop_at=stop_at, error=error)
    if expected is InterruptedRunError:
        assert f"after step {stop_at}" in str(raised.value) and "resume" in str(raised.value)
    assert not (tmp_path / "broken" / "run.json").exists()
    assert gf.runs.unfinished(tmp_path / "broken")["step"] == stop_at
    with pytest.raises(InputError, match="not a complete run"):
        gf.runs.load(tmp_path / "broken")
    resumed = record(tmp_path / "broken")
    pd.testing.assert_frame_equal(resumed.table, whole.table, check_exact=True)
    assert sorted(p.name for p in (tmp_path / "broken").iterdir()) == ["run.json", "table.csv"]


def test_another_configuration_does_not_continue_it(tmp_path):
    with pytest.raises(KeyboardInterrupt):
        record(tmp_path / "one", stop_at=3, error=KeyboardInterrupt())
    with pytest.raises(InputError, match=r"lr: 0\.1, not 0\.2"):
        record(tmp_path / "one", CONFIG | {"lr": 0.2})
    assert gf.runs.unfinished(tmp_path / "one")["step"] == 3


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
    (tmp_path / "one" / "unfinished.pt").write_bytes(b"half a file")
    with pytest.raises(InputError, match="cannot be read"):
        gf.runs.unfinished(tmp_path / "one")


def test_a_plan_goes_on_at_the_item_that_was_broken_off(tmp_path):
    def walk(fail):
        def study(log):
            log._between = -1.0  # a checkpoint before every item
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
