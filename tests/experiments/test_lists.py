"""Options of studies that are lists as text: what is none is refused, and says which it was."""

import pytest

from gdflows.arguments import chosen, numbers, wholes
from gdflows.errors import InputError
from gdflows.experiments import registry
from gdflows.experiments.declared import all_declared

#: The others are one word each.
WORDS = {"activation", "data", "device", "dtype", "init", "optimizer", "unit", "loss"}
LISTS = [
    (name, option.name)
    for name, study in all_declared().items()
    for option in study.options
    if option.annotation is str and option.name not in WORDS
]


@pytest.mark.parametrize(("name", "option"), LISTS)
def test_what_is_no_list_is_refused(name, option):
    given = {option: "a,"}
    if option == "svag":
        given["svag_at"] = "8"
    with pytest.raises(InputError, match=r"a"):
        registry.carry_out(name, given)


def test_lists_are_read():
    assert numbers("0.1, 2", "rates") == [0.1, 2.0] and numbers("", "rates") == []
    assert wholes("6-7", "widths", separator="-") == [6, 7]
    assert chosen("b,a", "letter", "abc") == ["b", "a"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: numbers("1,x", "rates"), "rates must be numbers with commas between them.*'1,x'"),
        (lambda: numbers("inf", "rates"), "rates must be numbers"),
        (lambda: wholes("2.5", "batches"), "batches must be whole numbers"),
        (lambda: wholes("0", "batches"), "Each of batches must be a whole number of at least 1"),
        (lambda: wholes("6-x", "widths", separator="-"), "with hyphens between"),
        (lambda: chosen("d", "letter", "abc"), "Unknown letter 'd'; choose among a, b, c"),
        (lambda: chosen("", "letter", "abc"), "Unknown letter ''"),
    ],
    ids=["word", "infinite", "part", "least", "hyphens", "name", "none"],
)
def test_what_is_none_is_refused(call, said):
    with pytest.raises(InputError, match=said):
        call()
