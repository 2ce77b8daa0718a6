"""The command ``gdflows``: run studies, continue them, look at their records.

Nothing here loads torch or matplotlib before it is needed: listing and help are quick.
"""

from __future__ import annotations

import inspect
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from gdflows import __version__, runs
from gdflows.errors import GdflowsError, StoppedRun
from gdflows.experiments import drawing
from gdflows.experiments.declared import Declared, all_declared
from gdflows.runs.run import DESCRIPTION, NOT_KNOWN

app = typer.Typer(
    help="Gradient descent in continuous time: run the book's studies, look at their records.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
run_app = typer.Typer(
    help="Run a study and record it.", no_args_is_help=True, rich_markup_mode=None
)
app.add_typer(run_app, name="run")


def _names(incomplete: str) -> list[str]:
    return [name for name in runs.available() if name.startswith(incomplete)]


Names = Annotated[
    list[str], typer.Argument(help="Recorded runs, or folders.", autocompletion=_names)
]


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"gdflows {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")
    ] = False,
) -> None:
    """Gradient descent in continuous time: run the book's studies, look at their records."""


@app.command("list")
def list_() -> None:
    """The studies that can be run, and the recorded runs that are at hand."""
    typer.echo("Studies (gdflows run NAME --help):")
    for name, study in all_declared().items():
        typer.echo(f"  {name:28s} {study.title}")
    typer.echo("Recorded runs (gdflows show NAME):")
    for name in runs.available():
        typer.echo(f"  {name:28s} {_title(name)}")


def _title(name: str) -> str:
    try:
        meta = runs.describe(name)
    except GdflowsError as e:
        return str(e)
    return meta.get("title") or meta["environment"]["command"]


@app.command()
def show(
    name: Annotated[
        str,
        typer.Argument(
            help="A recorded run's name, or the folder of a run.", autocompletion=_names
        ),
    ],
) -> None:
    """A run: where it came from, its configuration, and the head and tail of its table."""
    run, meta = _or_exit(lambda: (runs.load(name), runs.describe(name)))
    if run.title:
        typer.echo(run.title)
    typer.echo(repr(run))
    data = run.environment.get("data", {})
    said = ", ".join(f"{k} (SHA-256 {v})" for k, v in data.items())
    typer.echo(f"  commit   {run.environment.get('commit', NOT_KNOWN)}")
    typer.echo(f"  data     {said or NOT_KNOWN}")
    kept = meta.get("table")
    said = f"as it was recorded (SHA-256 {kept['sha256']})" if kept else NOT_KNOWN
    typer.echo(f"  table    {said}")
    for key, value in run.config.items():
        typer.echo(f"  {key} = {value}")
    import pandas as pd

    with pd.option_context("display.max_rows", 12, "display.width", 100):
        typer.echo(repr(run.table))


@app.command()
def resume(
    folder: Annotated[Path, typer.Argument(help="The folder of a run that was broken off.")],
    device: Annotated[
        str, typer.Option(help="Where to go on; if empty, where it was. Elsewhere bits may differ.")
    ] = "",
    picture: Annotated[bool, typer.Option(help="Draw the run when it is done.")] = True,
) -> None:
    """Continue a run that was killed, to the same bits as if it had not been."""
    kept = _or_exit(lambda: runs.unfinished(folder))
    config = dict(kept["config"])
    name = config.pop("study", None)
    if name not in all_declared():
        _fail(
            f"{folder} was made by {name!r}, which is no study of this version: continue it with "
            f"gdflows {kept['versions']['packages']['gdflows']}."
        )
    if kept["device"] is not None and "device" in _options(name):
        config["device"] = device or _there(kept["device"], folder)
    _carry_out(name, config, folder, picture=picture)


def _there(device: str, folder: Path) -> str:
    """The device on which a run was begun, if this machine has it."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        _fail(
            f"{folder} was begun on {device}, which this machine does not have. Continue it there, "
            f"or, with other roundings, here: gdflows resume {folder} --device cpu"
        )
    return device.partition(":")[0]  # the number may be another today


@app.command()
def plot(
    names: Names,
    out: Annotated[
        Path | None, typer.Option("--out", help="The picture; default: in the run's folder.")
    ] = None,
) -> None:
    """Draw a run, or several of one study together."""
    found = _or_exit(lambda: [runs.load(name) for name in names])
    studies = {run.config.get("study") for run in found}
    if len(studies) > 1:
        _fail("only runs of one study can be drawn together.")
    name = studies.pop()
    if drawing.picture_of(name) is None:
        _fail(f"the study {name!r} has no picture; look at its table: gdflows show {names[0]}")
    if out is None:
        folder = Path(names[0])
        if not folder.is_dir():
            _fail("a shipped run has no folder of yours: say where with --out FILE.png")
        out = folder / "picture.png"
    _or_exit(lambda: drawing.draw(found, out))
    typer.echo(f"Drawn to {out}")


@app.command()
def compare(names: Names) -> None:
    """Runs side by side: where their configurations differ, and their last rows."""
    import pandas as pd

    found = _or_exit(lambda: [runs.load(name) for name in names])
    configs = pd.DataFrame([run.config for run in found], index=[run.name for run in found]).T
    differing = configs[configs.astype(str).nunique(axis=1) > 1]
    last = {run.name: run.table.iloc[-1] for run in found if len(run.table)}
    seconds = pd.DataFrame({run.name: [run.environment["seconds"]] for run in found})
    seconds.index = ["seconds"]
    with pd.option_context("display.width", 120, "display.max_rows", 100):
        typer.echo("Configurations differ in" if len(differing) else "The same configuration.")
        if len(differing):
            typer.echo(differing.to_string())
        typer.echo("Last rows")
        typer.echo(pd.concat([pd.DataFrame(last), seconds]).to_string())


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
        if (folder / DESCRIPTION).exists():
            typer.echo(f"{folder} is there already")
            continue
        words = [study, "--out", str(folder), f"--{key.replace('_', '-')}", value, *context.args]
        code = program.main(words, prog_name="gdflows run", standalone_mode=False)
        if code:
            raise typer.Exit(code)


def command(study: Declared) -> Callable:
    """A study as a command: its options, and where to put the record."""

    def run(out: Path | None, title: str, picture: bool, **config) -> None:
        _carry_out(study.name, config, out, title=title, picture=picture)

    run.__doc__ = study.summary
    helps = study.helps()
    options = [
        (
            "out",
            Path | None,
            None,
            "Folder for the record; if none, the next of runs/NAME-1, …",
            (),
        ),
        ("title", str, "", "What the run shows, in a line; kept in the record.", ()),
        ("picture", bool, True, "Draw the run into its folder, if the study has a picture.", ()),
    ]
    for p in study.options:
        # The data are what other programs call a dataset.
        names = ("--data", "--dataset") if p.name == "data" else ()
        options.append((p.name, p.annotation, p.default, helps.get(p.name, ""), names))
    run.__signature__ = inspect.Signature(
        [
            inspect.Parameter(
                name, inspect.Parameter.KEYWORD_ONLY, default=default,
                annotation=Annotated[kind, typer.Option(*names, help=help_)],
            )
            for name, kind, default, help_, names in options
        ]
    )  # fmt: skip
    run.__annotations__ = {p.name: p.annotation for p in run.__signature__.parameters.values()}
    return run


def _carry_out(
    name: str, config: dict, out: Path | None, *, title: str = "", picture: bool = True
) -> None:
    """Run a study and record it; tell where, and what to type next."""
    with _told():
        from gdflows import parallel
        from gdflows.experiments.registry import RESUMABLE, carry_out, find
        from gdflows.runs.log import of_first
        from gdflows.runs.progress import lines

        find(name)
        recorded = {"study": name} | {k: v for k, v in config.items() if k != "device"}
        with parallel.group(config.get("device", "cpu")) as device, lines():
            if "device" in config:
                config["device"] = device
            chosen = out if out is not None else of_first(lambda: _next_folder(name))
            if parallel.first() and out is None:
                typer.echo(f"Recording to {chosen}")
            try:
                made = runs.record(
                    chosen,
                    recorded,
                    lambda *log: carry_out(name, config, *log),
                    device=device,
                    resumable=name in RESUMABLE,
                    title=title,
                )
            finally:
                if out is None and parallel.first():
                    _remove_if_empty(chosen)
            if not parallel.first():
                return
        typer.echo(repr(made))
        typer.echo(f"Written to {chosen}")
        if picture and drawing.picture_of(name):
            drawing.draw([made], chosen / "picture.png")
            typer.echo(f"Drawn to {chosen / 'picture.png'}")
        typer.echo(f"Next: {_next_command(name, chosen)}")


def _next_folder(name: str) -> Path:
    """The first free one of ``runs/NAME-1``, ``runs/NAME-2``, …; made, so that it is taken."""
    number = 1
    while True:
        folder = Path("runs") / f"{name}-{number}"
        try:
            folder.mkdir(parents=True)
            return folder
        except FileExistsError:
            number += 1


def _remove_if_empty(folder: Path) -> None:
    try:
        folder.rmdir()
    except OSError:
        pass


def _next_command(name: str, folder: Path) -> str:
    """Compare with a run of the same study that lies beside it, or else look at this one."""
    for other in sorted(folder.parent.iterdir()):
        try:
            same = other != folder and runs.describe(other)["config"].get("study") == name
        except GdflowsError:
            continue
        if same:
            return f"gdflows compare {shlex.join(map(str, (other, folder)))}"
    return f"gdflows show {shlex.quote(str(folder))}"


def _options(study: str) -> list[str]:
    return [p.name for p in all_declared()[study].options]


def _fail(message: str) -> None:
    typer.echo(f"gdflows: {message}", err=True)
    raise typer.Exit(1)


@contextmanager
def _told() -> Iterator[None]:
    """An error that gdflows foresaw is told in a line, without a traceback."""
    try:
        yield
    except GdflowsError as e:
        _fail(str(e))
    except StoppedRun as e:
        typer.echo(f"gdflows: {e}", err=True)
        raise typer.Exit(128 + e.signal) from None


def _or_exit(action: Callable):
    with _told():
        return action()


for _study in all_declared().values():
    run_app.command(_study.name)(command(_study))
