"""What the README prints runs as printed."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.M | re.S)


def commands() -> list[list[str]]:
    """Every line of the shell's blocks, and what the text names as a command of ours."""
    lines = [line for block in blocks("bash") for line in block.splitlines()]
    text = re.sub(r"^```.*?^```", "", README, flags=re.M | re.S)
    lines += re.findall(r"`((?:gdflows|make|\w+=\w+ make) [^`]+)`", text)
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


def test_its_python_runs_in_order_in_an_empty_folder(tmp_path):
    script, empty = tmp_path / "script.py", tmp_path / "empty"
    empty.mkdir()
    script.write_text("\n".join(blocks("python")))
    assert len(blocks("python")) > 3
    done = subprocess.run(
        [sys.executable, "-W", "error::DeprecationWarning:gdflows", script],
        cwd=empty,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "Warning" not in done.stderr
    assert len(done.stdout.splitlines()) >= 4
    assert list(empty.iterdir()) == []


@pytest.mark.parametrize(
    "words",
    sorted(
        {tuple(w[:3]) if w[1] == "run" else tuple(w[:2]) for w in commands() if w[0] == "gdflows"}
    ),
    ids=" ".join,
)
def test_its_commands_exist(words):
    from typer.testing import CliRunner

    from gdflows.experiments.cli import app

    arguments = [word for word in words[1:] if not re.fullmatch("[A-Z]+", word)]
    done = CliRunner().invoke(app, [*arguments, "--help"])
    assert done.exit_code == 0, done.output


def test_its_targets_extras_and_settings_exist():
    makefile = (ROOT / "Makefile").read_text()
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    tools = "".join(
        p.read_text()
        for p in (ROOT / "tools").rglob("*")
        if p.is_file() and p.suffix in ("", ".py")
    )
    for words in commands():
        settings = [word.split("=")[0] for word in words if re.match(r"[A-Z_]+=", word)]
        rest = [word for word in words if "=" not in word or word.startswith("--")]
        assert all(name in tools for name in settings), words
        if rest[0] == "make":
            assert re.search(rf"^{rest[1]}:", makefile, re.M), words
        elif rest[0] == "pip":
            named = re.findall(r"\.\[(\w+)\]", rest[2])
            assert rest[1] == "install" and set(named) <= set(extras), words
        else:
            assert rest[0] == "gdflows", words


def test_its_links_into_the_repository_lead_somewhere():
    named = re.findall(r"\]\((?!https?:|#)([^)#]+)", README)
    assert named and [name for name in named if not (ROOT / name).exists()] == []
