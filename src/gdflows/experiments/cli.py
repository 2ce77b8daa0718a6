"""The command ``gdflows``: list, run, show."""

from __future__ import annotations

import functools
import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from gdflows import experiments, runs
from gdflows.errors import GdflowsError

app = typer.Typer(
    help="Gradient descent in continuous time: run the book's studies, look at their records.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
run_app = typer.Typer(help="Run a study and record it.", no_args_is_help=True)
app.add_typer(run_app, name="run")


@app.command("list")
def list_() -> None:
    """The studies that can be run, and the recorded runs that ship with the package."""
    typer.echo("Studies (gdflows run NAME --help):")
    for name, function in sorted(experiments.STUDIES.items()):
        typer.echo(f"  {name:24s} {inspect.getdoc(function).splitlines()[0]}")
    typer.echo("Recorded runs (gdflows show NAME):")
    for name in runs.available():
        typer.echo(f"  {name:24s} {runs.load(name).environment['command']}")


@app.command()
def show(
    name: Annotated[str, typer.Argument(help="A recorded run's name, or the folder of a run.")],
) -> None:
    """A run: where it came from, its configuration, and the head and tail of its table."""
    run = _or_exit(lambda: runs.load(name))
    typer.echo(repr(run))
    for key, value in run.config.items():
        typer.echo(f"  {key} = {value}")
    with pd.option_context("display.max_rows", 12, "display.width", 100):
        typer.echo(repr(run.table))


def command(name: str, study: Callable[..., pd.DataFrame]) -> Callable:
    """A study as a command: its keyword arguments, and where to put the record."""
    signature = inspect.signature(study)
    hints = typing.get_type_hints(study)

    @functools.wraps(study)
    def run(out: Path, **config) -> None:
        recorded = {"study": name} | {k: v for k, v in config.items() if k != "device"}
        device = config.get("device", "cpu")
        made = _or_exit(lambda: runs.record(out, recorded, lambda: study(**config), device=device))
        typer.echo(repr(made))
        typer.echo(f"Written to {out}")

    where = Annotated[Path, typer.Option("--out", help="Folder for the record.")]
    options = [
        inspect.Parameter(p.name, p.KEYWORD_ONLY, default=p.default, annotation=hints[p.name])
        for p in signature.parameters.values()
    ]
    first = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=where)
    run.__signature__ = signature.replace(parameters=[first, *options], return_annotation=None)
    run.__annotations__ = {p.name: p.annotation for p in (first, *options)}
    del run.__wrapped__
    return run


def _or_exit(action: Callable):
    """The action's result; an error that gdflows foresaw is told in a line, without a traceback."""
    try:
        return action()
    except GdflowsError as e:
        typer.echo(f"gdflows: {e}", err=True)
        raise typer.Exit(1) from e


for _name, _study in experiments.STUDIES.items():
    run_app.command(_name)(command(_name, _study))
