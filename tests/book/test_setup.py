"""tools/setup: what it installs and in which order, and what a set-up that failed leaves behind."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]

# Stands in for Python: makes a .venv that holds itself, and writes down what pip is asked for.
PYTHON = """#!/bin/sh
case "$*" in
    "-m venv .venv") mkdir -p .venv/bin; cp "$0" .venv/bin/python; touch .venv/fresh;;
    *"pip install"*) echo "$*" >> pip.log
        case "$*" in *"$FAIL_AT"*) [ -z "$FAIL_AT" ] || { [ "$STATUS" != INT ] || kill -INT $PPID
            [ "$STATUS" = INT ] && exit 1; exit "$STATUS"; };; esac;;
    *"pip check"*) exit "${CHECK:-0}";;
    *--version*) echo Python 3.11;;
esac
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "tools").mkdir()
    shutil.copy(ROOT / "tools/setup", tmp_path / "tools/setup")
    shutil.copy(ROOT / "requirements.txt", tmp_path)
    (tmp_path / "python").write_text(PYTHON)
    (tmp_path / "python").chmod(0o755)
    return tmp_path


def setup(project, fail_at="", status=1, **variables):
    (project / "pip.log").unlink(missing_ok=True)
    environment = {"PATH": os.environ["PATH"], "PYTHON": str(project / "python"),
                   "FAIL_AT": fail_at, "STATUS": str(status), **variables}
    done = subprocess.run([project / "tools/setup"], capture_output=True, text=True,
                          env=environment)
    return done, (project / "pip.log").read_text().splitlines()


def test_the_lock_then_torch_then_the_package(project):
    done, asked = setup(project)
    assert done.returncode == 0, done.stderr
    assert (project / ".venv/ready").exists() and not (project / ".venv/installing").exists()
    lock, torch, package = asked
    assert "--require-hashes --no-deps -r requirements.lock" in lock
    assert torch.split()[-1].startswith("torch==") and "index" not in torch
    assert package.endswith("--no-deps -e .")


def test_another_build_of_torch_can_be_named(project):
    _, asked = setup(project, TORCH_INDEX="https://example.org/cpu")
    assert ["--index-url https://example.org/cpu" in line for line in asked] == [
        False, True, False]


@pytest.mark.parametrize("at", ["requirements.lock", "torch==", "-e ."])
def test_a_failure_is_named_and_leaves_nothing_ready(project, at):
    setup(project)
    done, _ = setup(project, fail_at=at)
    assert done.returncode == 1
    assert "set-up failed: installing" in done.stderr and "remedy:" in done.stderr
    assert not (project / ".venv/ready").exists()
    (project / ".venv/fresh").unlink()
    done, _ = setup(project)  # pip undid what it did: .venv is used again
    assert done.returncode == 0 and not (project / ".venv/fresh").exists()


@pytest.mark.parametrize("status", [137, "INT"])  # pip killed; Ctrl-C, which reaches both
def test_after_a_kill_it_starts_anew(project, status):
    done, asked = setup(project, fail_at="torch==", status=status)
    assert done.returncode in (1, 130) and len(asked) == 2
    assert (project / ".venv/installing").exists()
    (project / ".venv/fresh").unlink()
    done, _ = setup(project)
    assert done.returncode == 0 and "interrupted: starting anew" in done.stdout
    assert (project / ".venv/fresh").exists()


def test_packages_that_do_not_fit_are_told(project):
    done, _ = setup(project, CHECK="1")
    assert done.returncode == 1 and "make lock" in done.stderr
    assert not (project / ".venv/ready").exists()
