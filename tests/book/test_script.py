"""The practitioner's script, run as a stranger would: a copy of it in an empty folder."""

import os
import re
import subprocess
import sys

import pytest
from bookkit.chapters import ROOT

from gdflows.experiments.practice import practice
from gdflows.problems import text

SCRIPT = (ROOT / "book/7-bridges/train.py").read_text()
# What is made shorter, for the time's sake; each must be there to be changed.
SHORTER = {
    "LR, WARMUP, STEPS, BATCH, LENGTH, SEED = 3e-3, 40, 200, 16, 32, 0":
        "LR, WARMUP, STEPS, BATCH, LENGTH, SEED = 3e-3, 10, 20, 16, 32, 0",
    "every=50": "every=10",
    "for ahead in (20, 80)": "for ahead in (2, 5)",
}  # fmt: skip


def shortened(script: str) -> str:
    for old, new in SHORTER.items():
        assert script.count(old) == 1, old
        script = script.replace(old, new)
    return script


def run(folder, script: str, *arguments: str) -> str:
    (folder / "train.py").write_text(script)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "error"}
    done = subprocess.run(
        [sys.executable, "train.py", *arguments],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip
    assert done.returncode == 0 and not done.stderr, done.stderr
    return done.stdout


def test_it_says_what_the_study_records(tmp_path):
    """So the record in the chapter is the script's own output."""
    (tmp_path / "mine.txt").write_text(text("numerals"))
    said = run(tmp_path, shortened(SCRIPT), "mine.txt")
    table = practice(data="numerals-32", steps=20, warmup=10, every=10, at="20", horizons="2-5")
    for row in table[table.part == "run"].itertuples():
        line = rf"step {row.step}: held-out loss (\S+), sharpness at (\S+) of the edge"
        loss, ratio = map(float, re.search(line, said).groups())
        assert loss == pytest.approx(row.loss, abs=2e-3)
        assert ratio == pytest.approx(row.ratio, abs=0.02)
    look = table[table.part == "look"].iloc[0]
    largest = float(re.search(r"largest stable rate is (\S+) times", said).group(1))
    assert largest == pytest.approx(look.suggested, rel=0.1, abs=0.1)
    noise = float(re.search(r"outweighs the gradient in batches below (\S+)", said).group(1))
    assert noise == pytest.approx(look.noise_scale, rel=0.05, abs=0.6)
    tried = table[table.part == "rate"].loss.tolist()
    shown = [line.split()[2] for line in said.splitlines() if re.match(r"\s+\d\.\d+ \d", line)]
    assert list(map(float, shown)) == pytest.approx(tried, abs=2e-3) and len(tried) == 10
    assert "spikes at steps []" in said


def test_a_spike_is_seen_and_put_down_to_its_batch(tmp_path):
    """One batch with labels that are off by one."""
    broken = shortened(SCRIPT).replace("3e-3, 10, 20, 16", "3e-3, 10, 90, 16").replace(
        "return x[rows], y[rows]", "return x[rows], (y[rows] + (step == 80)) % len(letters)"
    )
    (tmp_path / "mine.txt").write_text(text("numerals"))
    said = run(tmp_path, broken, "mine.txt")
    assert re.search(r"spikes at steps \[80[,\]]", said), said
    assert "The first batch did it" in said, said
