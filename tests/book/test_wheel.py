"""What is built for others, tested as installed: both wheels, in an environment without the clone.

`gdflows` is the package with the records that it reads itself; `gdflows-runs` the records that only
the book reads, five times as heavy.
"""

import os
import re
import subprocess
import sys
import sysconfig
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from bookkit import files
from bookkit.chapters import RUNS

import gdflows

ROOT = Path(__file__).resolve().parents[2]
RECORDED = ROOT / RUNS
#: Bytes. They were 557 thousand and 2.84 million with 101 records.
LIMIT = {"gdflows": 700_000, "gdflows_runs": 4_500_000}
OWN, BOOKS = "validity-wine", "eos-fc-elu"  # a record of each package

NAMES = r"""
import importlib, sys
for line in sys.stdin.read().split():
    module, _, name = line.rpartition(".")
    getattr(importlib.import_module(module), name)
import gdflows
print(gdflows.__file__)
"""


@pytest.fixture(scope="module")
def wheels(tmp_path_factory) -> dict[str, Path]:
    """Built from what git tracks, as a release builds them."""
    folder = tmp_path_factory.mktemp("wheels")
    copy, out = folder / "project", folder / "out"
    for path in files.own(ROOT):
        target = copy / path.relative_to(ROOT)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    pip("wheel", "--no-build-isolation", "--wheel-dir", out, copy, copy / RUNS)
    built = {path.name.split("-")[0]: path for path in out.glob("*.whl")}
    assert set(built) == set(LIMIT)
    return built


def pip(*arguments, python=sys.executable) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, *map(str, arguments[:1]), "--quiet",
         "--no-deps", "--no-index", "--disable-pip-version-check", *map(str, arguments[1:])],
        capture_output=True, text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def installed(wheels, tmp_path_factory):
    """Runs commands in a fresh environment with the first wheel, beside this one's packages."""
    where = tmp_path_factory.mktemp("installed")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", where / "env"], check=True)
    pip("install", wheels["gdflows"], python=where / "env/bin/python")
    # After the installation, so that pip does not take the clone's gdflows for this one. What is
    # on the path by a line of a .pth file brings no .pth files of its own: the clone stays out.
    (site,) = (where / "env/lib").glob("python*/site-packages")
    (site / "others.pth").write_text(sysconfig.get_path("purelib") + "\n")
    (where / "empty").mkdir()
    variables = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}

    def run(program, *arguments, **options):
        return subprocess.run([where / "env/bin" / program, *arguments], cwd=where / "empty",
                              env=variables, capture_output=True, text=True, **options)

    run.python = where / "env/bin/python"
    return run


def records(wheel: Path) -> set[str]:
    names = zipfile.ZipFile(wheel).namelist()
    return {Path(name).parent.name for name in names if name.endswith("/run.json")}


def test_their_sizes(wheels):
    sizes = {name: path.stat().st_size for name, path in wheels.items()}
    assert {name: size for name, size in sizes.items() if size > LIMIT[name]} == {}
    assert all(size > 0.3 * LIMIT[name] for name, size in sizes.items()), "a limit means nothing"


def test_every_module_and_every_record_travels_once(wheels):
    held = zipfile.ZipFile(wheels["gdflows"]).namelist()
    modules = {p.relative_to(ROOT / "src").as_posix() for p in files.own(ROOT, "src")
               if p.suffix == ".py" or p.name == "py.typed"}
    assert modules <= set(held)
    assert not [n for n in held if n.startswith(("tests", "tools", "book"))]
    mine, books = records(wheels["gdflows"]), records(wheels["gdflows_runs"])
    assert OWN in mine and BOOKS in books and not mine & books
    there = {p.parent.name for p in files.own(ROOT, RUNS) if p.name == "run.json"}
    assert mine | books == there


def test_both_have_one_version(wheels):
    project = tomllib.loads((RECORDED / "pyproject.toml").read_text())["project"]
    assert project["version"] == gdflows.__version__
    assert {path.name.split("-")[1] for path in wheels.values()} == {gdflows.__version__}
    assert metadata.version("gdflows") == gdflows.__version__


def test_what_reads_the_description_finds_it_whole(wheels):
    held = zipfile.ZipFile(wheels["gdflows"])
    (name,) = (n for n in held.namelist() if n.endswith("dist-info/METADATA"))
    text = held.read(name).decode()
    for line in ("License-Expression: MIT", "Requires-Python: >=3.11", "Requires-Dist: torch>=",
                 "Description-Content-Type: text/markdown", "Provides-Extra: runs"):
        assert f"\n{line}" in text, line


def test_every_public_name_is_there(installed):
    page = (ROOT / "book/appendix/api.md").read_text()
    public = [f"{module}.{name}"
              for module, body in re.findall(
                  r"^\.\. (?:current)?module:: (\S+)\n(.*?)(?=^\.\. (?:current)?module::|\Z)",
                  page, re.M | re.S)
              for block in re.findall(r"\.\. autosummary::\n((?: .*\n|\n)*)", body)
              for name in re.findall(r"^   (\w+)$", block, re.M)]
    assert len(public) > 100 and "gdflows.flows.NGF" in public
    done = installed("python", "-c", NAMES, input="\n".join(public))
    assert done.returncode == 0, done.stderr[-3000:]
    assert Path(done.stdout.strip()).is_relative_to(installed.python.parents[1])


def test_the_commands_work_and_the_books_runs_come_by_the_second_wheel(installed, wheels):
    said = installed("gdflows", "--version")
    assert said.stdout.strip() == f"gdflows {gdflows.__version__}", said.stderr
    assert f"Run {OWN}" in installed("gdflows", "show", OWN).stdout
    lacking = installed("gdflows", "show", BOOKS)
    assert lacking.returncode != 0 and "gdflows-runs" in lacking.stderr
    pip("install", wheels["gdflows_runs"], python=installed.python)
    assert f"Run {BOOKS}" in installed("gdflows", "show", BOOKS).stdout
    listed = installed("gdflows", "list").stdout
    assert OWN in listed and BOOKS in listed
    wrong = installed("gdflows", "show", "no-such-run")
    assert wrong.returncode != 0 and "gdflows-runs" not in wrong.stderr


def test_a_study_runs_and_is_read_again(installed):
    done = installed("gdflows", "run", "eos", "--steps", "20", "--no-picture", "--out", "run")
    assert done.returncode == 0, done.stderr[-3000:]
    shown = installed("gdflows", "show", "run")
    assert shown.returncode == 0 and "made by  gdflows run eos" in shown.stdout
