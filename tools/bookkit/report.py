"""What the executions came to, in words: what is wrong, and how long each chapter took."""

from __future__ import annotations

import re
import sys
from dataclasses import dataclass

from . import capture
from .chapters import code_cells
from .execute import SETTING, Execution
from .progress import span

SLOW, TOTAL = 60.0, 15 * 60.0  # seconds: a chapter, and all of them on 2 workers
ANSI = re.compile(r"\x1b\[[\d;]*m")
LINES = 25  # of a traceback: its end says most


@dataclass(frozen=True)
class Failure:
    """Why a chapter has no complete page."""

    page: str
    cell: int  # 1 is the chapter's first; 0 the notebook's, which looks for the package
    reason: str
    remedy: str
    code: str
    details: str

    def __str__(self) -> str:
        lines = [f"{self.page}: code cell {self.cell} {self.reason}"]
        if self.remedy:
            lines.append(f"  remedy: {self.remedy}")
        if self.code:
            lines.append(f"  the cell begins: {self.code.splitlines()[0]}")
        return "\n".join([*lines, *(f"  | {line}" for line in self.details.splitlines())])


def failure(done: Execution) -> Failure | None:
    """What the chapter did not get over, if anything."""
    k = done.broken
    if k is None:
        return None
    details = ANSI.sub("", done.messages[k]).strip()
    verdict, remedy = done.verdicts[k], ""
    if verdict == capture.TOO_LONG:
        minutes = done.limit / 60
        reason = f"did not end within {span(done.limit)}, the limit for one cell"
        remedy = (f"on a slow or busy machine run the same with {SETTING}={2 * minutes:g} before "
                  "it; elsewhere the cell hangs")
    elif verdict == capture.DIED:
        reason = "was the last: the process that ran it is gone"
        remedy = "too little memory? Close other programs and run the same again"
    else:
        last = [line for line in details.splitlines() if line.strip()]
        reason = f"raised {last[-1].strip()}" if last else "failed"
    cells = code_cells(done.page)
    code = cells[k - 1].source if 0 < k <= len(cells) else ""
    return Failure(done.page, k, reason, remedy, code, "\n".join(details.splitlines()[-LINES:]))


def failures(executions: list[Execution]) -> list[Failure]:
    return [found for found in map(failure, executions) if found]


def judge(executions: list[Execution], strict: bool) -> list[str]:
    """What is wrong. A cell that fails always is; outputs that differ only where `strict`."""
    problems = [str(found) for found in failures(executions)]
    for done in executions:
        for k, (verdict, message) in enumerate(zip(done.verdicts, done.messages, strict=True)):
            if verdict == capture.DIFFER:
                text = f"{done.page}: code cell {k} gives other output than is stored\n{message}"
                if strict:
                    problems.append(text + "\nIf the new output is right: `make notebooks`.")
                else:
                    print(f"note: {text}\n", file=sys.stderr)
        if strict and done.count(capture.UNRUN):
            problems.append(f"{done.page}: {done.count(capture.UNRUN)} code cells have no stored "
                            "output to compare with: run `make notebooks` and commit")
    return problems


def table(executions: list[Execution]) -> str:
    """Chapters, slowest first."""
    width = max([len(e.page) for e in executions] + [len("all, one after another")])
    lines = [f"  {'chapter':<{width}}  seconds"]
    for done in sorted(executions, key=lambda e: -e.seconds):
        mark = f"  slower than {SLOW:.0f} s" if done.seconds > SLOW else ""
        lines.append(f"  {done.page:<{width}}  {done.seconds:7.1f}{mark}")
    total = sum(e.seconds for e in executions)
    mark = f"  more than {TOTAL / 60:.0f} minutes on two workers" if total > 2 * TOTAL else ""
    lines.append(f"  {'all, one after another':<{width}}  {total:7.1f}{mark}")
    return "\n".join(lines)
