"""The command line, with a study of its own, and what it needs to be listed and shown."""

import ast
import inspect
import json
import shlex
import subprocess
import sys
from typing import Literal

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

import gdflows as gf
from gdflows.errors import InputError
from gdflows.experiments import STUDIES, cli, registry
from gdflows.experiments.declared import all_declared, of_function
from gdflows.experiments.registry import study
from gdflows.runs import progress


@pytest.fixture
def run(monkeypatch):
    for registered in ("STUDIES", "CHECKS"):
        kept = dict(getattr(registry, registered))
        monkeypatch.setattr(f"gdflows.experiments.registry.{registered}", kept)

    @study("toy", keys=("network",), check=lambda config: {})
    def toy(*, network: Literal["a", "b"] = "a", lr: float = 0.1, device: str = "cpu"):
        """A toy. Nothing more.

        Parameters
        ----------
        network : {"a", "b"}
            One of ``"a"`` and
            :func:`gdflows.b`.
        lr, device
            Both.

        Returns
        -------
        pandas.DataFrame
            One row.
        """
        if lr < 0:
            raise InputError(f"The learning rate lr must be positive, got {lr}.")
        return pd.DataFrame({"network": [network], "lr": [lr]})

    app = typer.Typer(rich_markup_mode=None)
    app.command("toy")(cli.command(of_function("toy", toy)))
    app.command("show")(cli.show)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def test_run_records_and_show_tells(run, tmp_path):
    out = tmp_path / "mine"
    made = run("toy", "--lr", 0.3, "--network", "b", "--title", "Mine", "--out", out)
    assert made.exit_code == 0, made.output
    assert made.output.endswith(f"Written to {out}\nNext: gdflows show {out}\n")
    shown = run("show", out)
    assert shown.exit_code == 0
    for words in ("study = toy", "network = b", "lr = 0.3", "1 rows × 2 columns", "Mine"):
        assert words in shown.output
    assert "device = " not in shown.output  # where it ran is environment, not configuration


def test_options_are_described(run):
    said = " ".join(run("toy", "--help").output.split())
    assert "A toy. Nothing more. The table: One row." in said
    assert '--network <a|b> One of "a" and gdflows.b. [default: a]' in said
    assert "--lr <float> Both. [default: 0.1] --device <str> Both." in said


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("toy", "--lr", "-1", "--out", "OUT"), "must be positive"),
        (("show", "OUT"), "No run named"),
    ],
)
def test_foreseen_errors_are_a_line_without_traceback(run, tmp_path, arguments, words):
    result = run(*(tmp_path / "none" if a == "OUT" else a for a in arguments))
    assert result.exit_code == 1
    assert words in result.stderr and "Traceback" not in result.output
    assert not (tmp_path / "none").exists()


def test_unknown_choice_is_refused(run, tmp_path):
    result = run("toy", "--network", "c", "--out", tmp_path / "x")
    assert result.exit_code == 2 and not (tmp_path / "x").exists()


def test_list_names_every_study_and_titles_every_run():
    result = CliRunner().invoke(cli.app, ["list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in STUDIES)
    told = dict(line.strip().split(maxsplit=1) for line in result.output.splitlines())
    for name in gf.runs.available():
        assert told[name] and not told[name].startswith("gdflows run"), name


@pytest.mark.parametrize("command", ["show", "plot", "compare"])
def test_a_malformed_record_is_named(tmp_path, command):
    run = gf.runs.load("bench-central")
    run.save(tmp_path / "one")
    (tmp_path / "one" / "run.json").write_text("{}")
    result = CliRunner().invoke(cli.app, [command, str(tmp_path / "one")])
    assert result.exit_code == 1 and "run.json is damaged" in result.stderr


def test_a_table_of_other_columns_is_not_drawn(tmp_path):
    run = gf.runs.load("eos-adam")
    gf.runs.Run("one", run.config, run.table[["step"]], run.environment).save(tmp_path / "one")
    result = CliRunner().invoke(cli.app, ["plot", str(tmp_path / "one")])
    assert result.exit_code == 1 and "the table of one is not one" in result.stderr
    assert CliRunner().invoke(cli.app, ["compare", str(tmp_path / "one")]).exit_code == 0


def test_a_study_must_be_nameable_and_complete():
    with pytest.raises(InputError, match="keyword-only with a default"):

        @study("no-default", keys=(), check=dict)
        def no_default(*, lr):
            """Bad."""


# -- what is read from the source is what is loaded ------------------------------------------------


def test_what_is_declared_is_what_is_loaded():
    assert list(all_declared()) == sorted(STUDIES)
    for name, function in STUDIES.items():
        declared, loaded = all_declared()[name], of_function(name, function)
        assert declared.doc == loaded.doc == inspect.getdoc(function)
        assert [str(p) for p in declared.options] == [str(p) for p in loaded.options], name
        helps = declared.helps()
        assert all(helps.get(p.name) for p in declared.options), name


RECORDED = [name for name in gf.runs.available() if "study" in gf.runs.describe(name)["config"]]


@pytest.mark.parametrize("name", RECORDED)
def test_the_command_of_a_record_gives_its_configuration(name, monkeypatch):
    """Also after defaults have changed: who types what a chapter shows must get that run."""
    meta, seen = gf.runs.describe(name), {}

    def carry_out(study, config, out, **rest):
        seen.update({"study": study} | config)

    monkeypatch.setattr(cli, "_carry_out", carry_out)
    program, verb, *words = shlex.split(meta["environment"]["command"])
    assert (program, verb) == ("gdflows", "run")
    typer.main.get_command(cli.run_app).main(words, standalone_mode=False)
    seen.pop("device", None)  # some studies have none
    younger = seen.keys() - meta["config"].keys()
    assert not any(seen.pop(option) for option in younger)  # those that came later are off
    assert seen == meta["config"]


# -- what it costs to list and show ----------------------------------------------------------------

LIGHT = """
import sys
HEAVY = {"torch", "matplotlib", "sklearn", "pooch", "scipy", "sympy"}

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            raise ImportError(f"{name} was wanted")

sys.meta_path.insert(0, Missing())
from gdflows.experiments.cli import app
from typer.testing import CliRunner
import json
out = {}
for words in json.loads(sys.argv[1]):
    result = CliRunner().invoke(app, words)
    out[" ".join(words)] = [result.exit_code, result.output, repr(result.exception)]
print(json.dumps(out))
"""


def test_listing_showing_and_help_need_neither_torch_nor_matplotlib():
    commands = [["--help"], ["--version"], ["list"], ["show", "eos-adam"], ["run", "--help"]]
    commands += [["run", name, "--help"] for name in STUDIES]
    commands += [["compare", "eos-adam", "eos-heavy-ball"], ["resume", "--help"]]
    words = [sys.executable, "-c", LIGHT, json.dumps(commands)]
    done = subprocess.run(words, capture_output=True, text=True, check=True)
    for command, (code, output, exception) in json.loads(done.stdout).items():
        assert code == 0, (command, exception, output)
    assert json.loads(done.stdout)["--version"][1] == f"gdflows {gf.__version__}\n"
    assert "--install-completion" in json.loads(done.stdout)["--help"][1]


# -- progress --------------------------------------------------------------------------------------


def test_progress_is_told_in_lines_where_there_is_no_terminal(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])

    def work():
        for _ in progress.progress(range(20, 100), initial=20, total=100):
            now[0] += 2.0  # seconds

    work()
    assert capsys.readouterr().err == ""  # unasked for, nothing: a notebook would keep it
    with progress.lines():
        work()
    assert capsys.readouterr().err.splitlines() == [
        "step 23 of 100, about 3 min left",
        "step 28 of 100, about 2 min left",
        "step 38 of 100, about 2 min left",
        "step 58 of 100, about 1 min left",
        "step 88 of 100, about 24 s left",
    ]


def test_every_study_shows_progress():
    for module in {function.__module__ for function in STUDIES.values()}:
        tree = ast.parse(inspect.getsource(sys.modules[module]))
        called = {getattr(n.func, "attr", getattr(n.func, "id", "")) for n in ast.walk(tree)
                  if isinstance(n, ast.Call)}  # fmt: skip
        assert called & {"progress", "Progress", "through"}, module
