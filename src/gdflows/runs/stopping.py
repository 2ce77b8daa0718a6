"""Ctrl-C and SIGTERM: a run stops where its state is whole."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from gdflows.errors import StoppedRun

_USUAL = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Stop:
    """Whether a signal has asked the run to stop: its number, or None."""

    def __init__(self):
        self.asked: int | None = None


@contextmanager
def stopping(at_checkpoint: bool) -> Iterator[Stop]:
    """Within this a first signal is noted for the next checkpoint; a second one stops at once.

    Parameters
    ----------
    at_checkpoint : bool
        Whether there are checkpoints; if not, the first stops at once.

    Notes
    -----
    Handlers that somebody else has set stay, and threads other than the first have none.
    """
    stop, ours = Stop(), {}

    def handle(number, frame):
        again = stop.asked is not None
        stop.asked = number
        if again or not at_checkpoint:
            raise StoppedRun("", number)
        # Not through sys.stderr, which may be in the middle of a write.
        os.write(2, b"\ngdflows: stops when this step is done; once more: at once\n")

    if threading.current_thread() is threading.main_thread():
        ours = {n: usual for n, usual in _USUAL.items() if signal.getsignal(n) == usual}
    for number in ours:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, usual in ours.items():
            signal.signal(number, usual)
