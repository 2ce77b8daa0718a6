"""The command ``gdflows``: run studies, continue them, look at their records."""

from __future__ import annotations

import inspect
import typing
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import pandas as pd
import typer

from gdflows import experiments, parallel, runs
from gdflows.errors import GdflowsError
from gdflows.experiments.registry import PICTURES, RESUMABLE, carry_out, options

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


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of a run that was broken off.")],
) -> None:
    """Continue a run that was killed, to the same bits as if it had not been."""
    kept = _or_exit(lambda: runs.unfinished(folder))
    config = dict(kept["config"])
    name = config.pop("study")
    if kept["device"] is not None and "device" in _names(name):
        config["device"] = kept["device"]
    _carry_out(name, config, folder)


@app.command()
def plot(
    names: Annotated[list[str], typer.Argument(help="Recorded runs of one study, or folders.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture; default: in the run's folder.")
    ] = None,
) -> None:
    """Draw a run, or several of one study together."""
    found = _or_exit(lambda: [runs.load(name) for name in names])
    studies = {run.config.get("study") for run in found}
    name = studies.pop()
    picture = PICTURES.get(name)
    if studies or picture is None:
        _fail(
            "only runs of one study can be drawn together."
            if studies
            else f"the study {name!r} has no picture; look at its table: gdflows show {names[0]}"
        )
    if out is None:
        folder = Path(names[0])
        if not folder.is_dir():
            _fail("a shipped run has no folder of yours: say where with --out FILE.png")
        out = folder / "picture.png"
    import matplotlib.pyplot as plt

    from gdflows import plotting

    plt.switch_backend("agg")
    plotting.style()
    figure = plt.figure(figsize=(7, 5.5))
    picture(figure, found)
    figure.savefig(out)
    typer.echo(f"Drawn to {out}")


@app.command()
def compare(
    names: Annotated[list[str], typer.Argument(help="Recorded runs, or folders.")],
) -> None:
    """Runs side by side: where their configurations differ, and their last rows."""
    found = _or_exit(lambda: [runs.load(name) for name in names])
    configs = pd.DataFrame([run.config for run in found], index=[run.name for run in found]).T
    differing = configs[configs.astype(str).nunique(axis=1) > 1]
    last = pd.DataFrame({run.name: run.table.iloc[-1] for run in found})
    seconds = pd.DataFrame({run.name: [run.environment["seconds"]] for run in found})
    seconds.index = ["seconds"]
    with pd.option_context("display.width", 120, "display.max_rows", 100):
        typer.echo("Configurations differ in" if len(differing) else "The same configuration.")
        if len(differing):
            typer.echo(differing.to_string())
        typer.echo("Last rows")
        typer.echo(pd.concat([last, seconds]).to_string())


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def sweep(
    context: typer.Context,
    study: Annotated[str, typer.Argument(help="The study.")],
    over: Annotated[str, typer.Option("--over", help="As in lr=0.01,0.02,0.05.")],
    out: Annotated[Path, typer.Option("--out", help="Folder for the records' folders.")],
) -> None:
    """Run a study once for each value of an option; all its other options are taken too.

    A value whose run is finished already is skipped, and one that was broken off continued, so
    the same command continues a sweep.
    """
    key, _, values = over.partition("=")
    if not key or not values:
        _fail(f"--over must be like lr=0.01,0.02, got {over!r}.")
    program = typer.main.get_command(run_app)
    for value in values.split(","):
        folder = out / f"{key}={value}"
        if (folder / "run.json").exists():
            typer.echo(f"{folder} is there already")
            continue
        words = [study, "--out", str(folder), f"--{key.replace('_', '-')}", value, *context.args]
        code = program.main(words, prog_name="gdflows run", standalone_mode=False)
        if code:
            raise typer.Exit(code)


def command(name: str, study: Callable[..., pd.DataFrame]) -> Callable:
    """A study as a command: its keyword arguments, and where to put the record."""
    hints = typing.get_type_hints(study, include_extras=True)

    def run(out: Path, **config) -> None:
        _carry_out(name, config, out)

    run.__doc__ = study.__doc__
    where = Annotated[Path, typer.Option("--out", help="Folder for the record.")]
    # The data are what other programs call a dataset.
    hints |= {"data": Annotated[str, typer.Option("--data", "--dataset")]}
    parameters = [
        inspect.Parameter(p.name, p.KEYWORD_ONLY, default=p.default, annotation=hints[p.name])
        for p in options(study)
    ]
    first = inspect.Parameter("out", inspect.Parameter.KEYWORD_ONLY, annotation=where)
    run.__signature__ = inspect.Signature([first, *parameters])
    run.__annotations__ = {p.name: p.annotation for p in (first, *parameters)}
    return run


def _carry_out(name: str, config: dict, out: Path) -> None:
    recorded = {"study": name} | {k: v for k, v in config.items() if k != "device"}
    with parallel.group(config.get("device", "cpu")) as device:
        if "device" in config:
            config["device"] = device
        made = _or_exit(
            lambda: runs.record(
                out,
                recorded,
                lambda *log: carry_out(name, config, *log),
                device=device,
                resumable=name in RESUMABLE,
            )
        )
        if parallel.first():
            typer.echo(repr(made))
            typer.echo(f"Written to {out}")


def _names(study: str) -> list[str]:
    return [p.name for p in options(experiments.STUDIES[study])]


def _fail(message: str) -> None:
    typer.echo(f"gdflows: {message}", err=True)
    raise typer.Exit(1)


def _or_exit(action: Callable):
    """The action's result; an error that gdflows foresaw is told in a line, without a traceback."""
    try:
        return action()
    except GdflowsError as e:
        _fail(str(e))


for _name, _study in experiments.STUDIES.items():
    run_app.command(_name)(command(_name, _study))
