"""The book's command line. `make help` lists what a reader or author needs; this is underneath.

    python tools/book.py execute [--only PAGE] [--force] [--strict]
    python tools/book.py build                       execute what changed, build the pages
    python tools/book.py notebooks                   also write the notebooks beside the chapters
    python tools/book.py pdf                         print the built pages into one PDF
    python tools/book.py check                       do the notebooks match their chapters?
    python tools/book.py claims                      what the ledger of the last execution lacks
    python tools/book.py address                     put _config.yml's address into the notebooks
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import signal
import sys
import time

from bookkit import build, execute, notebooks
from bookkit.chapters import ROOT, BookError, chapters
from bookkit.report import failures, judge, table


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


def report(executions, built: bool, started: float) -> None:
    print(table(executions))
    print("the pages were built anew" if built else "the pages were up to date")
    print(f"took {time.monotonic() - started:.1f} s; open {build.address()}", flush=True)


def stop_at(problems: list[str], executions, built: bool = False) -> None:
    """Fail with all that is wrong, if anything is."""
    if not problems:
        return
    failed = [found.page for found in failures(executions)]
    lines = [f"{len(failed)} of {len(executions)} chapters failed: {', '.join(failed)}"]
    if built:
        lines.append("Their pages say so; the other pages are as they should be.")
    raise BookError("\n\n".join(["\n".join(lines), *problems] if failed else problems))


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
    for each in commands.choices.values():
        each.add_argument("--cell-minutes", metavar="M",
                          help="give up a cell after so many minutes (default "
                               f"{execute.CELL_MINUTES:g}, or {execute.SETTING})")
    commands.add_parser("pdf").add_argument("--only", nargs="+", metavar="PAGE")
    commands.add_parser("check")
    commands.add_parser("claims")
    commands.add_parser("address")
    options = parser.parse_args()
    started = time.monotonic()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that what it started is stopped
    try:
        with alone():
            run(options, started)
    except BookError as error:
        sys.exit(f"\n{error}\n")
    except KeyboardInterrupt:
        print("\nstopped. The chapters that were done are kept; the same command goes on.",
              file=sys.stderr)
        sys.exit(130)


def run(options, started: float) -> None:
    if options.command == "execute":
        limit = execute.cell_limit(options.cell_minutes)
        executions = execute.execute(options.only, options.force, limit)
        print(table(executions))
        stop_at(judge(executions, options.strict), executions)
    elif options.command in ("build", "notebooks"):
        limit = execute.cell_limit(options.cell_minutes)
        if options.command == "notebooks":
            notebooks.ensure()
        executions = execute.execute(limit=limit)
        built = build.build(options.force)
        problems = judge(executions, options.strict)
        if options.command == "notebooks" and not problems:
            notebooks.write()
        report(executions, built, started)
        stop_at(problems, executions, built=True)
    elif options.command == "pdf":
        from bookkit import printed  # needs a browser, and pypdf

        sheets, wide = printed.make(options.only)
        print(f"{sheets} pages in {printed.PDF.relative_to(ROOT)}")
        if wide:
            raise BookError("some things are wider than the paper:\n" + "\n".join(wide))
    elif options.command == "check":
        problems = notebooks.check()
        if problems:
            raise BookError("\n".join(problems))
        print("every notebook matches its chapter")
    elif options.command == "claims":
        problems = [line for page in chapters() for line in execute.unproved(page)]
        if problems:
            raise BookError("\n".join(problems))
        print("every claim holds, every number of chapters with a ledger is held")
    else:
        notebooks.readdress()


if __name__ == "__main__":
    main()
