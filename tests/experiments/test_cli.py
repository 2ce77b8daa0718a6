"""The command line, with a study of its own."""

from typing import Literal

import pandas as pd
import pytest
import typer
from typer.testing import CliRunner

from gdflows.errors import InputError
from gdflows.experiments import cli, registry
from gdflows.experiments.registry import study


@pytest.fixture
def run(monkeypatch):
    for registered in ("STUDIES", "CHECKS"):
        kept = dict(getattr(registry, registered))
        monkeypatch.setattr(f"gdflows.experiments.registry.{registered}", kept)

    @study("toy", keys=("network",), check=lambda config: {})
    def toy(*, network: Literal["a", "b"] = "a", lr: float = 0.1, device: str = "cpu"):
        """A toy. Nothing more."""
        if lr < 0:
            raise InputError(f"The learning rate lr must be positive, got {lr}.")
        return pd.DataFrame({"network": [network], "lr": [lr]})

    app = typer.Typer()
    app.command("toy")(cli.command("toy", toy))
    app.command("show")(cli.show)
    return lambda *args: CliRunner().invoke(app, [str(a) for a in args])


def test_run_records_and_show_tells(run, tmp_path):
    out = tmp_path / "mine"
    made = run("toy", "--lr", 0.3, "--network", "b", "--out", out)
    assert made.exit_code == 0, made.output
    shown = run("show", out)
    assert shown.exit_code == 0
    for words in ("study = toy", "network = b", "lr = 0.3", "1 rows × 2 columns"):
        assert words in shown.output
    assert "device = " not in shown.output  # where it ran is environment, not configuration


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


def test_unknown_choice_is_refused(run, tmp_path):
    result = run("toy", "--network", "c", "--out", tmp_path / "x")
    assert result.exit_code == 2 and not (tmp_path / "x").exists()


def test_list_names_every_study():
    result = CliRunner().invoke(cli.app, ["list"])
    assert result.exit_code == 0
    assert all(name in result.output for name in registry.STUDIES)


def test_a_study_must_be_nameable_and_complete():
    with pytest.raises(InputError, match="keyword-only with a default"):

        @study("no-default", keys=(), check=dict)
        def no_default(*, lr):
            """Bad."""
