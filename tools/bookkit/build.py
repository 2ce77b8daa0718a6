"""Build the HTML pages from what was executed. MyST-NB executes nothing here.

Its cache is filled with our executions; `nb_kernel_rgx_aliases` in _config.yml names a kernel
that does not exist, so a chapter missing in the cache stops the build instead of being executed
in some other environment.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import read_myst_markdown_notebook

from .chapters import ROOT, BookError, chapters, load_config, source
from .execute import EXECUTED, Execution, executed_notebook

BUILD = ROOT / "_build"
HTML = BUILD / "html"
CACHE = BUILD / ".jupyter_cache"
STAMP = BUILD / "built.json"
ANSI = re.compile(r"\x1b\[[\d;]*m")
TELLING = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|\w*(Error|Exception): ")


def fill_cache() -> None:
    """One record a chapter: its code cells, without the bootstrap, with the executed outputs."""
    shutil.rmtree(CACHE, ignore_errors=True)
    cache = get_cache(str(CACHE))
    cache.change_cache_limit(10_000)
    kernel = next(iter(load_config()["sphinx"]["config"]["nb_kernel_rgx_aliases"].values()))
    for page in chapters():
        notebook = read_myst_markdown_notebook(source(page).read_text(), path=source(page))
        notebook.metadata["kernelspec"]["name"] = kernel
        run = executed_notebook(page).cells[1:]
        code = [cell for cell in notebook.cells if cell.cell_type == "code"]
        if [c.source for c in code] != [c.source for c in run]:
            raise BookError(f"{page}: its code cells are not those that were executed")
        for k, (cell, done) in enumerate(zip(code, run, strict=True), start=1):
            cell.outputs, cell.execution_count = done.outputs, k
            for output in cell.outputs:
                if output.output_type == "execute_result":
                    output.execution_count = k
        seconds = Execution.load(page).seconds
        cache.cache_notebook_bundle(
            CacheBundleIn(notebook, str(source(page)), data={"execution_seconds": seconds}),
            check_validity=False, overwrite=True,
        )


def inputs_hash() -> str:
    """Changes when anything the pages are made from does."""
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard",
         "_config.yml", "_toc.yml", "requirements.txt", "book", "src", "tools"],
        cwd=ROOT, check=True, capture_output=True, text=True,
    ).stdout
    digest = hashlib.sha256(sys.version.encode())
    for name in sorted(set(listed.split("\0")) - {""}):
        path = ROOT / name
        if path.is_file():
            digest.update(name.encode() + b"\0")
            if path.suffix != ".ipynb":  # of these only the presence matters (launch buttons)
                digest.update(path.read_bytes() + b"\0")
    for page in chapters():
        digest.update((EXECUTED / f"{page}.ipynb").read_bytes())
    digest.update(repr(sorted(f"{d.name}{d.version}" for d in metadata.distributions())).encode())
    return digest.hexdigest()


def build(force: bool = False) -> bool:
    """Build the pages if anything changed. True if they were built."""
    want = inputs_hash()
    have = json.loads(STAMP.read_text()) if STAMP.exists() else {}
    if not force and have.get("inputs") == want and (HTML / "index.html").exists():
        return False
    STAMP.unlink(missing_ok=True)
    shutil.rmtree(HTML, ignore_errors=True)
    shutil.rmtree(BUILD / "notebooks", ignore_errors=True)
    shutil.rmtree(ROOT / "book/appendix/generated", ignore_errors=True)
    fill_cache()
    program = Path(sys.executable).with_name("jupyter-book")
    log = BUILD / "build.log"
    with log.open("w") as out:
        done = subprocess.run(
            [program, "build", ".", "--all", "-W", "-n", "--keep-going"],
            cwd=ROOT, stdout=out, stderr=subprocess.STDOUT,
        )
    if done.returncode:
        lines = ANSI.sub("", log.read_text(errors="replace")).splitlines()
        telling = [line for line in lines if TELLING.search(line)]
        raise BookError("building the pages failed:\n" + "\n".join(telling[:30] or lines[-40:])
                        + f"\nThe whole log: {log}")
    STAMP.write_text(json.dumps({"inputs": want}))
    return True


def address() -> str:
    return (HTML / "index.html").as_uri()


