"""The practitioner's script, run as a stranger would: a copy of it in an empty folder."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from bookkit.chapters import ROOT

import gdflows as gf
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


def rates(said: str) -> list[list[float]]:
    """The rows of the tables of rates: factor, lr, loss, gain and its error."""
    return [
        [float(word) for word in line.split()]
        for line in said.splitlines()
        if re.fullmatch(r"\s+[\d.]+(\s+-?[\d.e-]+){4}", line)
    ]


# -- what the chapter shows of it: transcripts -----------------------------------------------------

BESIDE = ROOT / "book/7-bridges"


def transcript(name: str) -> tuple[list[str], str]:
    """The command and what it said."""
    first, said = (BESIDE / f"{name}.txt").read_text().split("\n", 1)
    program, *words = first.removeprefix("$ ").split()
    assert (program, words[0]) == ("python", "train.py")
    return words[1:], said


def test_the_transcript_says_what_is_recorded():
    """To the last digit shown: the first initialisation of the record is this run."""
    _, said = transcript("train-shakespeare")
    table = gf.runs.load("practice-shakespeare-gpt").table.query("seed == 0")
    for row in table[(table.part == "run") & (table.step % 50 == 0)].itertuples():
        line = f"held-out loss {row.loss:.3f}, sharpness at {row.ratio:.2f} of the edge"
        assert f"step {row.step}: {line}" in said
    look = table[table.part == "look"].iloc[0]
    assert f"stable rate is {look.suggested:.1f} times" in said
    assert f"in batches below {look.noise_scale:.0f}\n" in said
    tried = table[table.part == "rate"]
    shown = rates(said)
    assert [row[2:] for row in shown] == [
        [float(f"{x:.4g}") for x in row] for row in zip(tried.loss, tried.gain, tried.error)
    ]
    assert "spikes at steps []" in said


@pytest.mark.parametrize("name", ["train-shakespeare", "train-shakespeare-fast"])
def test_the_beginning_of_a_transcript_again(tmp_path, name):
    """Fifty of its steps, where the plays are at hand."""
    folder = os.environ.get("GDFLOWS_DATA")
    (file, *rest), said = transcript(name)
    if not folder or not (Path(folder) / file).exists():
        pytest.skip(f"GDFLOWS_DATA names no folder with {file}")
    (tmp_path / file).write_bytes((Path(folder) / file).read_bytes())
    short = SCRIPT.replace("3e-3, 40, 200, 16, 32, 0", "3e-3, 40, 50, 16, 32, 0")
    short = short.replace("for ahead in (20, 80)", "for ahead in ()")
    assert short.count("40, 50, 16") == 1 == short.count("for ahead in ()")
    again = run(tmp_path, short, file, *rest)
    number = r"loss (\S+), sharpness at (\S+) of"
    (loss, ratio), (first, look) = (
        map(float, re.search(number, t).groups()) for t in (again, said)
    )
    # Fifty steps of another machine's roundings: the loss to some thousandths, the look to a tenth.
    assert loss == pytest.approx(first, abs=0.01) and ratio == pytest.approx(
        look, rel=0.1, abs=0.02
    )


# -- the script itself -----------------------------------------------------------------------------


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
    assert [row[2] for row in rates(said)] == pytest.approx(tried, abs=2e-3) and len(tried) == 10
    assert "spikes at steps []" in said


def test_a_spike_is_seen_and_put_down_to_its_batch(tmp_path):
    """One batch with labels that are off by one."""
    broken = (
        shortened(SCRIPT)
        .replace("3e-3, 10, 20, 16", "3e-3, 10, 90, 16")
        .replace(
            "return x[rows], y[rows]", "return x[rows], (y[rows] + (step == 80)) % len(letters)"
        )
    )
    (tmp_path / "mine.txt").write_text(text("numerals"))
    said = run(tmp_path, broken, "mine.txt")
    assert re.search(r"spikes at steps \[80[,\]]", said), said
    assert "The first batch did it" in said, said
