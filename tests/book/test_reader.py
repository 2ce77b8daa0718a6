"""A reader on Colab: only what Colab has, an empty folder, one .ipynb, gdflows not yet there."""

import json
import os
import subprocess
import sys

import nbformat
import pytest
from bookkit import reader
from bookkit.chapters import BOOTSTRAP, chapters, notebook_path

# The simplest chapter will do: each chapter's own execution is a proof of its needs.
PAGE = next(page for page in chapters() if page != "book/index")

RUN = """
import sys, nbformat
from nbclient import NotebookClient
notebook = nbformat.read(sys.argv[1], 4)
NotebookClient(notebook, timeout=1200, startup_timeout=600, kernel_name="colab").execute()
"""


@pytest.fixture
def colab(tmp_path):
    """A fresh environment without gdflows, and what is needed to run a notebook in it."""
    python = reader.make_environment(tmp_path / "environment")
    kernels = tmp_path / "environment/share/jupyter/kernels/colab"
    kernels.mkdir(parents=True)
    (kernels / "kernel.json").write_text(json.dumps({
        "argv": [str(python), "-m", "ipykernel_launcher", "-f", "{connection_file}"],
        "display_name": "colab", "language": "python", "env": {"PYTHONPATH": ""},
    }))
    variables = reader.environment(tmp_path / "environment")
    # no network: what builds the package is the setuptools that Colab has
    variables.update(PIP_NO_INDEX="1", PIP_NO_BUILD_ISOLATION="0", PIP_CONFIG_FILE=os.devnull,
                     PIP_DISABLE_PIP_VERSION_CHECK="1", HOME=str(tmp_path))
    folder = tmp_path / "content"
    folder.mkdir()

    def run(notebook):
        nbformat.write(notebook, folder / "chapter.ipynb")
        return subprocess.run([sys.executable, "-c", RUN, "chapter.ipynb"], cwd=folder,
                              env=variables, capture_output=True, text=True)

    return run


def test_a_chapter_runs_from_its_first_cell(colab, tmp_path):
    notebook = nbformat.read(notebook_path(PAGE), 4)
    address = reader.snapshot(tmp_path / "repository")
    notebook.cells[0].source = BOOTSTRAP.replace("{address}", address)
    done = colab(notebook)
    assert done.returncode == 0, done.stderr[-3000:]


def test_an_address_that_fails_is_named(colab, tmp_path):
    address = (tmp_path / "nowhere").as_uri()
    notebook = nbformat.read(notebook_path(PAGE), 4)
    notebook.cells = notebook.cells[:1]
    notebook.cells[0].source = BOOTSTRAP.replace("{address}", address)
    done = colab(notebook)
    assert done.returncode != 0
    assert f"gdflows could not be installed from {address}" in done.stderr
    assert "Check that address and the network" in done.stderr
