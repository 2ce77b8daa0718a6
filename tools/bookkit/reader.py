"""The environment of a reader on Colab, imitated on this machine without a network.

`_build/reader` is a virtual environment that holds the distributions of tools/colab.txt with
what they depend on (links to those of the book's own environment) and gdflows with its book's
runs, installed as a reader installs them: built from what git tracks, not editable. So an
execution of a chapter also proves that the chapter needs nothing else, and that the package's data
travels with it.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from .chapters import ROOT, RUNS, BookError
from .files import own, read_json, write

KERNEL = "gdflows-reader"
PACKAGE_FILES = ("pyproject.toml", "README.md", "LICENSE", "LICENSE-text", "src")


def package_files(root: Path = ROOT) -> list[Path]:
    """What of the package git tracks, or would track: all that reaches a reader."""
    return own(root, *PACKAGE_FILES)


def package_hash(root: Path = ROOT) -> str:
    """Changes when anything under src/, or how it is installed, changes."""
    digest = hashlib.sha256()
    for path in package_files(root):
        if path.name in ("README.md", "LICENSE", "LICENSE-text") and path.parent == root:
            continue
        digest.update(f"{path.relative_to(root)}\0".encode() + path.read_bytes() + b"\0")
    return digest.hexdigest()


def allowed() -> dict[str, metadata.Distribution]:
    """tools/colab.txt and all it depends on, as far as installed here."""
    lines = (ROOT / "tools/colab.txt").read_text().splitlines()
    wanted = [(line.strip(), ()) for line in lines if line.strip() and line[0] != "#"]
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    while wanted:
        name, extras = wanted.pop()
        if (canonicalize_name(name), extras) in seen:
            continue
        seen.add((canonicalize_name(name), extras))
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue
        found[canonicalize_name(name)] = distribution
        for line in distribution.requires or []:
            need = Requirement(line)
            environments = [{"extra": extra} for extra in extras or ("",)]
            if need.marker is None or any(need.marker.evaluate(e) for e in environments):
                wanted.append((need.name, tuple(sorted(need.extras))))
    return found


def make_environment(where: Path) -> Path:
    """A fresh environment with what Colab has, without gdflows. Returns its python."""
    shutil.rmtree(where, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", where], check=True)
    python = where / "bin/python"
    site = Path(
        subprocess.run(
            [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
            check=True, capture_output=True, text=True,
        ).stdout.strip()
    )
    for distribution in allowed().values():
        base = Path(distribution.locate_file("")).resolve()
        for top in {file.parts[0] for file in distribution.files or []} - {"..", "__pycache__"}:
            link = site / top
            if not link.exists() and (base / top).exists():
                link.symlink_to(base / top)
    return python


def environment(where: Path) -> dict[str, str]:
    """The variables a kernel of the environment `where` starts with: ours, none of the user's."""
    variables = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "JUPYTER"))}
    variables.update(
        OMP_NUM_THREADS="1",
        MKL_NUM_THREADS="1",
        PYTHONNOUSERSITE="1",
        PYTHONDONTWRITEBYTECODE="1",
        PYDEVD_DISABLE_FILE_VALIDATION="1",
        IPYTHONDIR=str(where / "ipython"),
        MPLCONFIGDIR=str(where / "matplotlib"),
        JUPYTER_PATH=str(where / "share/jupyter"),
        JUPYTER_CONFIG_DIR=str(where / "config"),
    )
    variables.pop("VIRTUAL_ENV", None)
    if "GDFLOWS_DATA" in variables:  # the kernel starts elsewhere
        variables["GDFLOWS_DATA"] = str((ROOT / variables["GDFLOWS_DATA"]).resolve())
    return variables


def snapshot(where: Path, root: Path = ROOT) -> str:
    """A git repository of what a reader's pip would fetch. Returns its git+file:// address."""
    shutil.rmtree(where, ignore_errors=True)
    for path in package_files(root):
        target = where / path.relative_to(root)
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(path, target)
    git = ["git", "-C", str(where), "-c", "user.name=book", "-c", "user.email=book@localhost",
           "-c", "commit.gpgsign=false", "-c", "core.hooksPath=/dev/null"]
    for arguments in (["init", "--quiet"], ["add", "--all", "--force"],
                      ["commit", "--quiet", "--message", "snapshot"]):
        subprocess.run([*git, *arguments], check=True, capture_output=True)
    return where.as_uri()


def install_gdflows(python: Path, address: str) -> None:
    command = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet",
               "--force-reinstall", "--no-build-isolation", "--no-deps", "--no-index",
               "--disable-pip-version-check", f"gdflows[data] @ git+{address}",
               f"gdflows-runs @ git+{address}#subdirectory={RUNS}"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BookError(f"installing gdflows for the chapters failed:\n{done.stdout}{done.stderr}")


def stamp() -> dict:
    return {
        "package": package_hash(),
        "environment": sorted(
            f"{d.name}=={d.version}@{d.locate_file('')}" for d in allowed().values()
        ),
        "python": sys.version,
        "root": str(ROOT),
    }


def ready(where: Path = ROOT / "_build/reader") -> Path:
    """The reader's environment with the package as it is now, made only if something changed."""
    mark, want = where / "ready.json", stamp()
    have = read_json(mark) or {}
    if have == want:
        return where / "bin/python"
    mark.unlink(missing_ok=True)
    print("making the environment of a reader on Colab", flush=True)
    python = where / "bin/python"
    if {**have, "package": ""} != {**want, "package": ""}:
        python = make_environment(where)
    install_gdflows(python, snapshot(ROOT / "_build/snapshot"))
    spec = where / f"share/jupyter/kernels/{KERNEL}/kernel.json"
    spec.parent.mkdir(parents=True, exist_ok=True)
    spec.write_text(json.dumps({
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "A reader's Python", "language": "python",
        "env": {"PYTHONPATH": ""},  # whatever the process that starts it has there
    }))
    # matplotlib's font list, made once here and not inside some chapter's first figure
    done = subprocess.run(
        [python, "-c", "import gdflows, matplotlib.font_manager"],
        env=environment(where), cwd=where, capture_output=True, text=True,
    )
    if done.returncode:
        raise BookError(f"gdflows, installed as a reader installs it, fails:\n{done.stderr}")
    write(mark, json.dumps(want))
    return python
