"""The examples in the docstrings give what they say."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch

import gdflows

MODULES = ["gdflows"] + sorted(
    module.name
    for module in pkgutil.walk_packages(gdflows.__path__, "gdflows.")
    if not module.name.endswith("__main__")
)
NEEDS = {
    "gdflows.training.lightning": "lightning",
    "gdflows.adapters.lightning": "lightning",
    "gdflows.training.huggingface": "transformers",
    "gdflows.adapters.huggingface": "transformers",
}
FLAGS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE


def examples(name):
    """The docstrings of a module that have examples. Of another module's names, none."""
    return [
        found
        for found in doctest.DocTestFinder().find(importlib.import_module(name))
        if found.examples
    ]


@pytest.mark.parametrize("name", MODULES)
def test_examples_give_what_they_say(name, tmp_path, monkeypatch):
    if name in NEEDS:
        pytest.importorskip(NEEDS[name])
    monkeypatch.chdir(tmp_path)
    told = []
    runner = doctest.DocTestRunner(optionflags=FLAGS)
    before = torch.get_default_dtype()
    for test in examples(name):
        runner.run(test, out=told.append)
    assert "".join(told) == ""
    assert torch.get_default_dtype() == before, "an example leaves another dtype behind"


def test_the_examples_are_found_and_none_is_skipped():
    found = [
        example
        for name in MODULES
        if name not in NEEDS
        for test in examples(name)
        for example in test.examples
    ]
    assert len(found) > 100
    assert [e.source for e in found if doctest.SKIP in e.options] == []


API = Path(__file__).resolve().parents[1] / "book/appendix/api.md"


def public() -> list[tuple[str, object]]:
    """The names of the API reference and what they are, but for data: tables have no docstring."""
    found, module = [], ""
    for line in API.read_text().splitlines():
        if named := re.match(r"\.\. (?:current)?module:: (\S+)", line):
            module = named[1]
        elif named := re.fullmatch(r"   ([A-Za-z_]\w*)", line):
            what = getattr(importlib.import_module(module), named[1])
            if callable(what):
                found.append((f"{module}.{named[1]}", what))
    return found


def test_every_public_name_has_an_example():
    names = public()
    assert len(names) > 200
    parser, bare = doctest.DocTestParser(), []
    for name, what in names:
        found = parser.get_examples(inspect.getdoc(what) or "")
        if not any(doctest.SKIP not in example.options for example in found):
            bare.append(name)
    # It trains with the Trainer of transformers, which writes files: tests/training has it.
    assert bare == ["gdflows.adapters.huggingface.ClosureTrainer"]
