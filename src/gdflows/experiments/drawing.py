"""Pictures of runs, in files. What draws is loaded when it is needed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from gdflows.errors import InputError
from gdflows.runs import Run


def picture_of(study: str | None) -> Callable | None:
    """What draws the runs of a study on a figure, if anything does."""
    from gdflows.experiments import registry

    registry.know_all()
    return registry.PICTURES.get(study)


def draw(found: Sequence[Run], out: Path) -> None:
    """Draw runs of one study, which has a picture, to a file.

    Raises
    ------
    InputError
        If matplotlib is missing, a table is not one of that study, or the file cannot be written.
    """
    try:
        import matplotlib.pyplot as plt
    except ImportError:
        raise InputError(
            "Pictures need matplotlib, which is not installed: pip install matplotlib"
        ) from None
    from gdflows import plotting

    plt.switch_backend("agg")
    plotting.style()
    figure = plt.figure(figsize=(7, 5.5))
    try:
        picture_of(found[0].config["study"])(figure, found)
    except (AttributeError, KeyError, ValueError, TypeError) as e:
        names = ", ".join(run.name for run in found)
        raise InputError(
            f"the table of {names} is not one that this version can draw ({e!r})."
        ) from e
    try:
        figure.savefig(out)
    except (OSError, ValueError) as e:
        raise InputError(f"{out} cannot be written: {e}") from e
    plt.close(figure)
