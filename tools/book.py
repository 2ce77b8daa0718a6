"""The book's command line. `make help` lists what a reader or author needs; this is underneath.

    python tools/book.py execute [--only PAGE] [--force] [--strict]
    python tools/book.py build                       execute what changed, build the pages
    python tools/book.py notebooks                   also write the notebooks beside the chapters
    python tools/book.py check                       do the notebooks match their chapters?
    python tools/book.py address                     put _config.yml's address into the notebooks
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import sys
import time

from bookkit import build, execute, notebooks
from bookkit.chapters import ROOT, BookError


@contextlib.contextmanager
def alone():
    """One run at a time in a working tree: they share _build."""
    (ROOT / "_build").mkdir(exist_ok=True)
    with (ROOT / "_build/lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("another run is at work here: waiting for it", flush=True)
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def executed(only=None, force=False, strict=False) -> list:
    executions = execute.execute(only, force)
    problems = execute.judge(executions, strict)
    if problems:
        raise BookError("\n\n".join(problems))
    return executions


def report(executions, built: bool, started: float) -> None:
    print(execute.table(executions))
    print("the pages were built anew" if built else "the pages were up to date")
    print(f"took {time.monotonic() - started:.1f} s; open {build.address()}")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    one = commands.add_parser("execute")
    one.add_argument("--only", nargs="+", metavar="PAGE")
    one.add_argument("--force", action="store_true")
    one.add_argument("--strict", action="store_true")
    for name in ("build", "notebooks"):
        two = commands.add_parser(name)
        two.add_argument("--strict", action="store_true")
        two.add_argument("--force", action="store_true")
    commands.add_parser("check")
    commands.add_parser("address")
    options = parser.parse_args()
    started = time.monotonic()
    try:
        with alone():
            run(options, started)
    except BookError as error:
        sys.exit(f"\n{error}\n")


def run(options, started: float) -> None:
    if options.command == "execute":
        print(execute.table(executed(options.only, options.force, options.strict)))
    elif options.command == "build":
        executions = executed(strict=options.strict)
        report(executions, build.build(options.force), started)
    elif options.command == "notebooks":
        notebooks.ensure()
        executions = executed(strict=options.strict)
        built = build.build(options.force)
        notebooks.write()
        report(executions, built, started)
    elif options.command == "check":
        problems = notebooks.check()
        if problems:
            raise BookError("\n".join(problems))
        print("every notebook matches its chapter")
    else:
        notebooks.readdress()


if __name__ == "__main__":
    main()
