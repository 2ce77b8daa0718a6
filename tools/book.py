"""The book's command line. `make help` lists what a reader or author needs; this is underneath.

    python tools/book.py execute [--only PAGE] [--force] [--strict]
    python tools/book.py build                       execute what changed, build the pages
    python tools/book.py notebooks                   also write the notebooks beside the chapters
    python tools/book.py check                       do the notebooks match their chapters?
    python tools/book.py address                     put _config.yml's address into the notebooks
"""

from __future__ import annotations

import argparse
import sys
import time

from bookkit import build, execute
from bookkit.chapters import BookError


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
        if options.command == "execute":
            print(execute.table(executed(options.only, options.force, options.strict)))
        elif options.command == "build":
            executions = executed(strict=options.strict)
            report(executions, build.build(options.force), started)
        else:
            from bookkit import notebooks

            if options.command == "notebooks":
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
    except BookError as error:
        sys.exit(f"\n{error}\n")


if __name__ == "__main__":
    main()
