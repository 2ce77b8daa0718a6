"""What pins, locks and ships the project says the same everywhere."""

import re
import subprocess
import sys
import tarfile
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import yaml
from bookkit import files
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
LOCK = (ROOT / "requirements.lock").read_text()
WORKFLOWS = sorted((ROOT / ".github/workflows").glob("*.yml"))


def requirements(text: str) -> list[Requirement]:
    lines = (line.split("#")[0].strip().rstrip("\\").strip() for line in text.splitlines())
    return [Requirement(line) for line in lines if line and not line.startswith("--")]


def pins(text: str) -> dict[str, set[str]]:
    """Name: the versions that are pinned, for whatever system and Python."""
    found: dict[str, set[str]] = {}
    for need in requirements(text):
        (only,) = need.specifier
        assert only.operator == "==", f"{need} is no pin"
        found.setdefault(canonicalize_name(need.name), set()).add(only.version)
    return found


DIRECT, LOCKED = pins((ROOT / "requirements.txt").read_text()), pins(LOCK)


def test_the_lock_holds_every_pin():
    """If not: `make lock`."""
    assert {n: v for n, v in DIRECT.items() if n != "torch" and LOCKED.get(n) != v} == {}
    assert "torch" in DIRECT and len(LOCKED) > 3 * len(DIRECT)


def test_every_entry_of_the_lock_has_hashes():
    entries = re.findall(r"^[^\s#].*\n(?:[ \t].*\n)*", LOCK, re.M)
    assert len(entries) >= len(LOCKED)
    assert [e.splitlines()[0] for e in entries if "--hash=sha256:" not in e] == []


def test_the_lock_names_no_index_and_no_build_of_torch():
    assert not re.search(r"index|://|find-links", re.sub(r"^ *#.*", "", LOCK, flags=re.M))
    assert [n for n in LOCKED if n == "torch" or n.startswith(("nvidia-", "cuda-", "triton"))] == []


@pytest.mark.skipif(Path(sys.prefix) != ROOT / ".venv", reason="not the project's own .venv")
def test_what_is_installed_is_what_is_locked():
    installed = {canonicalize_name(d.name): d.version for d in metadata.distributions()}
    assert installed["torch"].split("+")[0] in DIRECT["torch"]
    both = set(installed) & set(LOCKED)
    assert {n: installed[n] for n in both if installed[n] not in LOCKED[n]} == {}


def test_the_pins_are_what_the_package_promises():
    wanted = [Requirement(line) for line in PROJECT["dependencies"]]
    for extra in ("data", "lightning", "huggingface", "trial"):
        wanted += [Requirement(line) for line in PROJECT["optional-dependencies"][extra]]
    for need in wanted:
        (version,) = DIRECT[canonicalize_name(need.name)]
        assert need.specifier.contains(version), f"{need} leaves out the pin {version}"


def test_every_promised_python_is_tried():
    promised = {c.rsplit(" ", 1)[-1] for c in PROJECT["classifiers"] if " :: Python :: 3." in c}
    jobs = yaml.safe_load((ROOT / ".github/workflows/test.yml").read_text())["jobs"]
    assert set(jobs["pythons"]["strategy"]["matrix"]["python"]) | {"3.11"} == promised
    assert PROJECT["requires-python"] == ">=3.11"
    assert any("lowest-direct" in step.get("run", "") for step in jobs["lowest"]["steps"])


def test_every_peer_has_a_ceiling():
    """A benchmark against a peer whose calls have changed would measure nothing."""
    for line in PROJECT["optional-dependencies"]["bench"]:
        assert any(s.operator == "<" for s in Requirement(line).specifier), line


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows_are_read_and_use_one_version_of_an_action(path):
    assert yaml.safe_load(path.read_text())["jobs"]
    used = [use for other in WORKFLOWS for use in re.findall(r"uses: (\S+)", other.read_text())]
    assert len(set(used)) == len({use.split("@")[0] for use in used})
    assert all(re.search(r"@v\d+$", use) for use in used)


def test_the_source_distribution_holds_the_project(tmp_path):
    """All that git tracks, so that its tests run from it."""
    copy = tmp_path / "project"
    expected = [path.relative_to(ROOT) for path in files.own(ROOT)]
    for path in expected:
        (copy / path).parent.mkdir(parents=True, exist_ok=True)
        (copy / path).write_bytes((ROOT / path).read_bytes())
    done = subprocess.run(
        [sys.executable, "-c", "from setuptools.build_meta import build_sdist; build_sdist('out')"],
        cwd=copy, capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    with tarfile.open(next((copy / "out").glob("*.tar.gz"))) as archive:
        held = {Path(*Path(name).parts[1:]) for name in archive.getnames()}
    assert [str(path) for path in expected if path not in held] == []
