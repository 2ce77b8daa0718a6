"""The tests of the book look at what `make book` built; they do not build it."""

import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tools"))


@pytest.fixture(scope="session")
def html() -> Path:
    folder = ROOT / "_build/html"
    if not (ROOT / "_build/built.json").exists():
        pytest.fail("the book is not built, or its last build failed: run `make book` first")
    return folder
