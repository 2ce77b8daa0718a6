"""A headless Chromium, to see pages as a reader does. Only what the tests and look.py need."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
QUIET = (
    "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
    "--disable-background-networking", "--disable-component-update", "--disable-sync",
    "--disable-default-apps", "--disable-extensions", "--hide-scrollbars", "--mute-audio",
)


def find() -> str | None:
    return next(filter(None, map(shutil.which, NAMES)), None)


@dataclass
class Rendered:
    """A page after its scripts ran."""

    dom: str
    hosts: list[str]  # other hosts that were asked for something
    errors: list[str]  # errors on the console


def chromium(arguments: list[str], timeout: float = 600) -> subprocess.CompletedProcess:
    with tempfile.TemporaryDirectory(prefix="chromium-") as profile:
        return subprocess.run(
            [find(), *QUIET, f"--user-data-dir={profile}", *arguments],
            capture_output=True, text=True, errors="replace", timeout=timeout,
        )


def render(url: str, milliseconds: int = 15_000) -> Rendered:
    """Open the page, let its scripts run for so much virtual time, and tell what happened."""
    with tempfile.TemporaryDirectory(prefix="netlog-") as folder:
        log = Path(folder, "net.json")
        done = chromium([
            "--dump-dom", f"--virtual-time-budget={milliseconds}", f"--log-net-log={log}",
            "--enable-logging=stderr", "--v=0", url,
        ])
        hosts = other_hosts(log.read_text(), urlsplit(url).hostname)
    console = re.findall(r":(?:ERROR|INFO):CONSOLE[^\]]*\] (.*)", done.stderr)
    return Rendered(done.stdout, hosts, [line for line in console if is_error(line)])


def is_error(line: str) -> bool:
    """Whether a line of the console tells of an error; a page's own name may hold the word."""
    words = re.sub(r"\w+://\S+", "", line)
    return bool(re.search(r"[Ee]rror|Failed|Uncaught|Refused", words))


def other_hosts(net_log: str, own: str | None) -> list[str]:
    """Hosts in Chromium's own log of its requests."""
    try:
        log = json.loads(net_log)
    except json.JSONDecodeError:  # the browser closed before it ended the list
        log = json.loads(net_log.rstrip().rstrip(",") + "]}")
    found = set()
    for event in log["events"]:
        what = event.get("params")
        # the browser itself also asks for things (updates, the time): those have no origin
        if isinstance(what, dict) and what.get("initiator", "not an origin") != "not an origin":
            parts = urlsplit(str(what.get("url", "")))
            if parts.scheme in ("http", "https", "ws", "wss") and parts.hostname != own:
                found.add(parts.hostname)
    return sorted(found)
