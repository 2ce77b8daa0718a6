"""The recorded runs, what data they were made of, and what is noted down of their checks."""

from unittest import mock

from gdflows import runs
from gdflows.experiments.trial import suite, tasks

ALL = runs.available()
#: Those of studies; the others are of benchmarks, and hold times.
STUDIED = [name for name in ALL if "study" in runs.load(name).config]


class _AskedFor(Exception):
    """Which set a task wants."""


def data_of(name: str) -> str | None:
    """The name of the data set of a recorded run; None if its data are random numbers."""
    config = runs.load(name).config
    if "data" in config:
        return config["data"]

    def ask(data, **_):
        raise _AskedFor(data)

    with mock.patch.object(tasks.problems, "load", ask):
        try:
            if config["study"] == "tuned-trial":
                suite.SUITE[config["task"]].data()
            else:
                tasks.TASKS[config["name"]][0]()
        except _AskedFor as asked:
            return asked.args[0]
    return None


DATA = {name: data_of(name) for name in STUDIED}


def note(record_property, name: str, what: str) -> None:
    """For the table at the end of the tests, which tests/conftest.py prints."""
    record_property("recorded run", f"{name}|{what}")
