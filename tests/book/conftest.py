"""The tests of the book look at what `make book` built; they do not build it."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tools"))


@pytest.fixture(scope="session")
def html() -> Path:
    """The built pages. Where there are none, `test_the_book_is_built` fails and the rest skip."""
    from bookkit import build

    if build.why_not_built():
        pytest.skip(build.why_not_built())
    return build.HTML
