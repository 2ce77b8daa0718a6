"""What the studies say of themselves, read from their source without running it.

So the command line can list them and show their options without loading torch.
"""

from __future__ import annotations

import ast
import inspect
import re
import typing
from collections.abc import Callable
from functools import cache
from importlib.resources import files
from typing import Literal, NamedTuple

#: Where the studies are; importing one of these registers its own.
MODULES = (
    "adaptive_edge", "constrained", "costs", "drift_rates", "eos", "label_drift", "leaderboard",
    "loss_rises", "penalty", "practice", "predictions", "scaling_rules", "step_size",
    "stochastic_edge", "trained_steps", "trial.study", "trial.tuned", "verdicts",
)  # fmt: skip
_TYPES = {"Literal": Literal, "bool": bool, "float": float, "int": int, "str": str}
_ENTRY = re.compile(r"^(\w+(?:, \w+)*)(?: :.*)?$", re.MULTILINE)
_ROLE = re.compile(r":\w+:`~?([^`]*)`|``([^`]*)``|`([^`]*)`")


class Declared(NamedTuple):
    """A study's name, options and docstring.

    The options are keyword-only parameters with their types as annotations.
    """

    name: str
    options: tuple[inspect.Parameter, ...]
    doc: str

    @property
    def title(self) -> str:
        """The docstring's first line."""
        return self.doc.splitlines()[0]

    @property
    def summary(self) -> str:
        """The title, and what the table holds."""
        table = _section(self.doc, "Returns").partition("\n")[2]
        words = f"{self.title}\n\n" + (f"The table: {_one_line(table)}" if table else "")
        return words.strip()

    def helps(self) -> dict[str, str]:
        """What the docstring says of each option."""
        found = {}
        text = _section(self.doc, "Parameters")
        starts = list(_ENTRY.finditer(text))
        for start, following in zip(starts, [*starts[1:], None], strict=True):
            entry = text[start.end() : following.start() if following else None]
            help_ = _one_line(entry)
            found |= dict.fromkeys(start[1].split(", "), help_)
        return found


def of_function(name: str, function: Callable) -> Declared:
    """What a function declares, as it is loaded."""
    hints = typing.get_type_hints(function)
    parameters = inspect.signature(function).parameters.values()
    options = tuple(
        p.replace(annotation=hints.get(p.name, str)) for p in parameters if p.name != "log"
    )
    return Declared(name, options, inspect.getdoc(function) or name)


@cache
def all_declared() -> dict[str, Declared]:
    """All studies of the package, by name."""
    found = [study for module in MODULES for study in _in_source(module)]
    return {study.name: study for study in sorted(found, key=lambda s: s.name)}


def _in_source(module: str) -> list[Declared]:
    *rooms, last = module.split(".")
    source = files("gdflows.experiments").joinpath(*rooms, f"{last}.py").read_text("utf-8")
    tree, constants, found = ast.parse(source), {}, []
    for node in tree.body:
        if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name):
            constants[node.targets[0].id] = node.value
        elif isinstance(node, ast.FunctionDef) and (name := _registered(node)):
            arguments = node.args
            options = [
                inspect.Parameter(
                    a.arg, inspect.Parameter.KEYWORD_ONLY,
                    default=ast.literal_eval(constants.get(getattr(value, "id", None), value)),
                    annotation=_type(a.annotation),
                )
                for a, value in zip(arguments.kwonlyargs, arguments.kw_defaults, strict=True)
            ]  # fmt: skip
            found.append(Declared(name, tuple(options), ast.get_docstring(node)))
    return found


def _registered(node: ast.FunctionDef) -> str | None:
    """The name under which a function is a study."""
    for call in node.decorator_list:
        if isinstance(call, ast.Call) and getattr(call.func, "id", None) == "study":
            return ast.literal_eval(call.args[0])
    return None


def _type(annotation: ast.expr):
    """One of the few types that an option can have."""
    return eval(ast.unparse(annotation), {"__builtins__": {}, **_TYPES})


def _section(doc: str, title: str) -> str:
    """A numpydoc section's text."""
    found = re.search(rf"^{title}\n-+\n(.*?)(?=^\w[\w ]*\n---|\Z)", doc, re.MULTILINE | re.DOTALL)
    return found[1].strip("\n") if found else ""


def _one_line(text: str) -> str:
    return " ".join(_ROLE.sub(lambda m: m[1] or m[2] or m[3] or "", text).split())
