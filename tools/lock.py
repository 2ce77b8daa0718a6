"""Write requirements.lock: all that requirements.txt brings, exactly, with hashes. `make lock`.

uv resolves for all systems and Pythons at once. Left out are torch and what only its CUDA build
needs: there are several builds of one torch version (CUDA, CPU, a local one), so its hash says
which build and not whether it is the right one. tools/setup installs it by its exact pin.
"""

from __future__ import annotations

import re
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "requirements.lock"
UV = "uv==0.13.9"
LEFT_OUT = re.compile(r"(torch|triton|nvidia-.*|cuda-.*)==")
HEAD = """\
# Written by `make lock` from requirements.txt; never by hand. All distributions that the book and
# its tests are run with, for every system and Python, with the hashes of their files. torch and
# the parts of its CUDA build are not here: tools/setup installs torch by the pin of
# requirements.txt, and pip chooses the build.
"""


def uv() -> Path:
    """The resolver, in an environment of its own."""
    where = ROOT / "_build/uv"
    python = where / "bin/python"
    if not python.exists():
        venv.create(where, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", UV],
                   check=True)
    return where / "bin/uv"


def blocks(text: str) -> list[str]:
    """The entries of a lock file: a pin, its hashes, and the comment that says who asked."""
    return re.findall(r"^\S.*\n(?:[ \t].*\n)*", text, re.M)


def resolved() -> str:
    done = subprocess.run(
        [uv(), "pip", "compile", "--universal", "--generate-hashes", "--python-version", "3.11",
         "--no-header", "--no-config", "--quiet", "requirements.txt"],
        cwd=ROOT, capture_output=True, text=True,
    )
    if done.returncode:
        sys.exit(f"no lock was written: uv found no versions that fit together\n{done.stderr}")
    return done.stdout


def main() -> None:
    kept = [block for block in blocks(resolved()) if not LEFT_OUT.match(block)]
    LOCK.write_text(HEAD + "\n" + "".join(kept))
    print(f"wrote {LOCK.name}: {len(kept)} distributions")


if __name__ == "__main__":
    main()
