"""Kills, races, flipped bits, damaged tables: nothing is lost, nothing goes unnoticed.

``GDFLOWS_FAULTS=full`` tries ten times as many.
"""

import json
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest

import gdflows as gf
from gdflows.errors import InputError

FULL = os.environ.get("GDFLOWS_FAULTS") == "full"
KILLS, RACES, BITS, TABLES = (200, 50, 500, 100) if FULL else (10, 4, 60, 30)

posix = pytest.mark.skipif(os.name != "posix", reason="needs fork and timer signals")


def program(what, place, count):
    words = [sys.executable, str(Path(__file__).with_name("faults.py")), what, place, count, 0]
    done = subprocess.run(
        list(map(str, words)), capture_output=True, text=True, timeout=1800, cwd=place,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout.splitlines()[-1])
    print(what, result)
    return result


@posix
def test_killed_at_any_moment_and_continued_to_the_same_bytes(tmp_path):
    seen = program("kills", tmp_path, KILLS)
    assert seen["killed"] >= KILLS and seen["runs"] >= 1 and seen["littered"] == 0


@posix
def test_two_at_once_in_one_folder_never_mix(tmp_path):
    program("races", tmp_path, RACES)


@pytest.fixture(scope="module")
def record(tmp_path_factory):
    """A record, and the state that it had on the way."""
    folder = tmp_path_factory.mktemp("faults") / "one"
    config = {"study": "eos", "lr": 0.1, "data": "gratings"}
    kept = []

    def study(log):
        for step in range(40):
            log.checkpoint(step, lambda step=step: {"step": step}, now=True)
            log.rows.append({"step": step, "loss": 1 / (step + 3), "ratio": step / 7})
        kept.append((folder / "unfinished.pt").read_bytes())
        return log.table()

    gf.runs.record(folder, config, study, resumable=True)
    return folder, kept[0]


def flipped(content, rng):
    at, bit = rng.randrange(len(content)), rng.randrange(8)
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


def test_every_flipped_bit_of_a_state_is_noticed(record, tmp_path):
    file, rng = tmp_path / "unfinished.pt", random.Random(0)
    file.write_bytes(record[1])
    gf.runs.unfinished(tmp_path)
    for _ in range(BITS):
        file.write_bytes(flipped(record[1], rng))
        with pytest.raises(InputError, match="is damaged"):
            gf.runs.unfinished(tmp_path)


def read(folder):
    """What load tells, as one thing to compare; None if it refuses."""
    try:
        run = gf.runs.load(folder)
    except InputError:
        return None
    return run.name, run.config, run.environment, run.title, run.table.to_csv()


@pytest.mark.parametrize("name", ["run.json", "table.csv"])
def test_every_flipped_bit_of_a_record_is_noticed(record, tmp_path, name):
    folder, rng = record[0], random.Random(1)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    right, content = read(tmp_path), (tmp_path / name).read_bytes()
    unlike = 0
    for _ in range(BITS):
        (tmp_path / name).write_bytes(flipped(content, rng))
        now = read(tmp_path)
        assert now is None or now == right  # 1e-9 and 1E-9 are one number
        unlike += now is None
    assert unlike >= 0.95 * BITS


def cut(lines, rng):
    whole = "\n".join(lines)
    return whole[: rng.randrange(len(whole))].split("\n")


def digit(lines, rng):
    row = rng.randrange(1, len(lines))
    places = [i for i, c in enumerate(lines[row]) if c.isdigit()]
    at = rng.choice(places)
    other = rng.choice([d for d in "0123456789" if d != lines[row][at]])
    return [*lines[:row], lines[row][:at] + other + lines[row][at + 1 :], *lines[row + 1 :]]


def rename(lines, rng):
    names = lines[0].split(",")
    names[rng.randrange(len(names))] += rng.choice("abc_")
    return [",".join(names), *lines[1:]]


def lose(lines, rng):
    row = rng.randrange(1, len(lines))
    return [*lines[:row], *lines[row + 1 :]]


def swap(lines, rng):
    a, b = rng.sample(range(1, len(lines)), 2)
    lines = list(lines)
    lines[a], lines[b] = lines[b], lines[a]
    return lines


def twice(lines, rng):
    row = rng.randrange(1, len(lines))
    return [*lines[:row], lines[row], *lines[row:]]


def test_every_damaged_table_is_noticed_by_load_show_compare_and_plot(record, tmp_path):
    from typer.testing import CliRunner

    from gdflows.experiments.cli import app

    folder, rng = record[0], random.Random(2)
    for file in folder.iterdir():
        (tmp_path / file.name).write_bytes(file.read_bytes())
    lines = (folder / "table.csv").read_text().split("\n")[:-1]
    damages = (cut, digit, rename, lose, swap, twice)
    for number in range(TABLES):
        damage = damages[number % len(damages)]
        (tmp_path / "table.csv").write_text("\n".join([*damage(lines, rng), ""]))
        with pytest.raises(InputError, match="not the table that was recorded"):
            gf.runs.load(tmp_path)
        if number < len(damages):
            for command in ("show", "compare", "plot"):
                said = CliRunner().invoke(app, [command, str(tmp_path)])
                assert said.exit_code == 1 and "not the table that was recorded" in said.stderr
