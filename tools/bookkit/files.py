"""Files that are there whole or not at all, and which of them are the project's own."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

MADE = {"__pycache__", ".ipynb_checkpoints", ".git", ".venv", "_build", "generated"}


def write(path: Path, text: str) -> None:
    """Write beside it first, then put it in its place: a rename is done or not done."""
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_text(text)
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def read_json(path: Path):
    """What the file holds; None where there is none, or one that cannot be read."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, json.JSONDecodeError, UnicodeDecodeError):
        return None


def own(root: Path, *names: str) -> list[Path]:
    """The project's files below `names`: what git tracks or would track.

    In an unpacked source distribution there is no git to ask, and nothing but such files and what
    running it makes.
    """
    if (root / ".git").exists():
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", *names],
            cwd=root, check=True, capture_output=True, text=True,
        ).stdout
        found = {root / name for name in listed.split("\0") if name}
    else:
        tops = [root / name for name in names or (".",)]
        found = {path for top in tops for path in (top.rglob("*") if top.is_dir() else [top])
                 if not any(part in MADE or part.endswith(".egg-info")
                            for part in path.relative_to(root).parts)}
    return sorted(path for path in found if path.is_file())
