"""What a release says of itself: one version, its citation, its changelog."""

import re
from datetime import date
from pathlib import Path

import pytest
import yaml
from packaging.version import Version

import gdflows
from bookkit import files

ROOT = Path(__file__).resolve().parents[2]
CITATION = yaml.safe_load((ROOT / "CITATION.cff").read_text())
CHANGELOG = (ROOT / "book/appendix/changelog.md").read_text()
KINDS = {"Added", "Changed", "Deprecated", "Removed", "Fixed", "Security"}  # Keep a Changelog
RELEASED = re.findall(r"^## (\d\S*) – (\d{4}-\d\d-\d\d)$", CHANGELOG, re.M)


def test_the_version_is_written_in_one_place():
    """What else names it is compared with it, below."""
    said = re.escape(gdflows.__version__)
    line = re.compile(rf"^\s*_*version_*\s*[=:]\s*[\"']?{said}[\"']?\s*$", re.M)
    found = [
        path.relative_to(ROOT).as_posix()
        for path in files.own(ROOT, "src", "tools", "pyproject.toml", "_config.yml", "CITATION.cff")
        if path.suffix in (".py", ".toml", ".yml", ".cff", "") and line.search(path.read_text())
    ]
    assert found == ["CITATION.cff", "src/gdflows/__init__.py"]


def test_the_citation_is_that_of_the_version():
    assert str(CITATION["version"]) == gdflows.__version__
    for key in ("cff-version", "message", "title", "authors", "license", "date-released"):
        assert CITATION[key], key
    assert CITATION["date-released"] == date.fromisoformat(dict(RELEASED)[gdflows.__version__])


def test_the_changelog_begins_with_what_is_not_released_and_the_newest_version():
    heads = re.findall(r"^## (.+)$", CHANGELOG, re.M)
    assert heads == ["Unreleased", *(f"{version} – {day}" for version, day in RELEASED)]
    versions = [Version(version) for version, _ in RELEASED]
    assert versions == sorted(versions, reverse=True)
    assert versions[0] == Version(gdflows.__version__)
    days = [day for _, day in RELEASED]
    assert days == sorted(days, reverse=True)


@pytest.mark.parametrize("part", re.split(r"^## ", CHANGELOG, flags=re.M)[1:],
                         ids=lambda part: part.split()[0])
def test_its_entries_are_of_the_usual_kinds(part):
    kinds = re.findall(r"^### (.+)$", part, re.M)
    assert kinds and set(kinds) <= KINDS and len(set(kinds)) == len(kinds)
    for body in re.split(r"^### .+$", part, flags=re.M)[1:]:
        lines = [line for line in body.splitlines() if line]
        assert lines and all(line.startswith("- ") for line in lines)


def test_the_page_on_dependencies_names_every_pin():
    page = (ROOT / "book/appendix/depend.md").read_text()
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| `")]
    assert all(cell.strip() for row in rows for cell in row)
    named = {name for row in rows for name in re.findall(r"`([\w-]+)`", row[0])} - {"data", "trial"}
    pinned = re.findall(r"^([\w-]+)==", (ROOT / "requirements.txt").read_text(), re.M)
    assert sorted(named) == sorted(pinned)
