"""Files that are there whole or not at all, whenever the program is stopped."""

from __future__ import annotations

import json
import os
from pathlib import Path


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
