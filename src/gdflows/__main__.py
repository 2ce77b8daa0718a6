"""``python -m gdflows``: the command ``gdflows``, for launchers that want a module."""

from gdflows.experiments.cli import app

if __name__ == "__main__":
    app(prog_name="gdflows")
