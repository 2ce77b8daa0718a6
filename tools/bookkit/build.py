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
import time
from importlib import metadata
from pathlib import Path

from jupyter_cache import get_cache
from jupyter_cache.base import CacheBundleIn
from myst_nb.core.read import read_myst_markdown_notebook

from .chapters import ROOT, BookError, chapters, load_config, pages, source
from .execute import EXECUTED, Execution, executed_notebook, stopped_at_the_end
from .files import own, read_json, write
from .progress import QUIET, say, span
from .report import Failure, failures

BUILD = ROOT / "_build"
HTML = BUILD / "html"
CACHE = BUILD / ".jupyter_cache"
STAMP = BUILD / "built.json"
FAILURES = BUILD / "failures.json"  # what the pages of chapters that failed say; see failed.py
ANSI = re.compile(r"\x1b\[[\d;]*m")
TELLING = re.compile(r"\b(WARNING|ERROR|CRITICAL)\b|\w*(Error|Exception): ")


def fill_cache(failed: dict[str, Failure]) -> None:
    """One record a chapter: its code cells, without the bootstrap, with the executed outputs.

    A chapter that failed has outputs up to the cell that did.
    """
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
            reached = page not in failed or k < failed[page].cell
            cell.outputs, cell.execution_count = done.outputs if reached else [], k
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
    digest = hashlib.sha256(sys.version.encode())
    for path in own(ROOT, "_config.yml", "_toc.yml", "requirements.txt", "requirements.lock",
                    "book", "src", "tools"):
        digest.update(path.relative_to(ROOT).as_posix().encode() + b"\0")
        if path.suffix != ".ipynb":  # of these only the presence matters (launch buttons)
            digest.update(path.read_bytes() + b"\0")
    for page in chapters():
        digest.update((EXECUTED / f"{page}.ipynb").read_bytes())
        digest.update(json.dumps(Execution.load(page).claims).encode())
    digest.update(repr(sorted(f"{d.name}{d.version}" for d in metadata.distributions())).encode())
    return digest.hexdigest()


def build(force: bool = False) -> bool:
    """Build the pages if anything changed. True if they were built.

    Chapters that failed stop nothing: their pages say so, and all others are as they should be.
    """
    failed = {found.page: found for found in failures([Execution.load(p) for p in chapters()])}
    want = inputs_hash()
    have = read_json(STAMP) or {}
    current = have.get("inputs") == want and have.get("failed") == sorted(failed)
    if not force and current and (HTML / "index.html").exists():
        return False
    STAMP.unlink(missing_ok=True)
    shutil.rmtree(HTML, ignore_errors=True)
    shutil.rmtree(BUILD / "notebooks", ignore_errors=True)
    shutil.rmtree(ROOT / "book/appendix/generated", ignore_errors=True)
    fill_cache(failed)
    write(FAILURES, json.dumps({page: vars(found) for page, found in failed.items()}))
    say(f"building {len(pages())} pages")
    # references into a chapter that failed lead nowhere: warnings are errors only without one
    strict = [] if failed else ["-W"]
    program = Path(sys.executable).with_name("jupyter-book")
    log = BUILD / "build.log"
    status = logged([program, "build", ".", "--all", *strict, "-n", "--keep-going"], log)
    missing = [page for page in pages() if not (HTML / f"{page}.html").exists()]
    if status or missing:
        lines = ANSI.sub("", log.read_text(errors="replace")).splitlines()
        telling = [line for line in lines if TELLING.search(line)]
        raise BookError("building the pages failed:\n" + "\n".join(telling[:30] or lines[-40:])
                        + f"\nThe whole log: {log}")
    write(STAMP, json.dumps({"inputs": want, "failed": sorted(failed)}))
    return True


def logged(command: list, log: Path) -> int:
    """Run it with its words in `log`; once a minute say that it is at work. Its exit status."""
    begun = time.monotonic()
    with log.open("w") as out, stopped_at_the_end(
        command, cwd=ROOT, stdout=out, stderr=subprocess.STDOUT
    ) as child:
        while True:
            try:
                return child.wait(QUIET)
            except subprocess.TimeoutExpired:
                words = re.split(r"[\r\n]+", ANSI.sub("", log.read_text(errors="replace")))
                last = next((line for line in reversed(words) if re.search(r"\w", line)), "")
                say(f"  at work for {span(time.monotonic() - begun)}: {last.strip()[:80]}")


def address() -> str:
    return (HTML / "index.html").as_uri()


def why_not_built() -> str:
    """What is wrong with the built pages as a whole; empty if nothing is."""
    stamp = read_json(STAMP)
    if stamp is None:
        return "the book is not built, or its last build failed: run `make book` first"
    failed = ", ".join(stamp.get("failed", ()))
    return f"chapters failed when the book was built: {failed}" if failed else ""
