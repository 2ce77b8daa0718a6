"""The executor fails where it must. These run real kernels in the reader's environment."""

import nbformat
import pytest
from bookkit import capture, execute, reader
from nbformat.v4 import new_code_cell, new_notebook, new_output


def cell(source, stored=None, count=1, tags=()):
    outputs = [] if stored is None else [new_output("stream", name="stdout", text=stored)]
    return new_code_cell(source, outputs=outputs, execution_count=count,
                         metadata={"tags": list(tags)} if tags else {})


@pytest.fixture(scope="module")
def seen():
    """One run over a notebook in which every cell has another fate, and over a slow start."""
    notebook = new_notebook(cells=[
        cell("print(6 * 7)", "42\n"),
        cell("print(6 * 7)", "41\n"),
        cell("print(6 * 7)", "41\n", tags=["nbval-ignore-output"]),
        cell("print(6 * 7)", count=None),
        cell("1 / 0"),
        cell("import os; print(sorted(os.listdir()))", "['fates.ipynb']\n"),
        cell("import gdflows; print('site-packages' in gdflows.__file__)", "True\n"),
        cell("import os; print(os.environ['OMP_NUM_THREADS'])", "1\n"),
        cell("import importlib.util as u\nprint([n for n in ('nbval', 'pytest', 'jupytext', "
             "'sphinx') if u.find_spec(n)])", "[]\n"),
        cell("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"),
    ])
    notebook.cells[-1].outputs = [
        new_output("display_data", data={"text/plain": "<Figure size 10x10 with 1 Axes>"})
    ]
    return notebook, execute.run({"fates": notebook})["fates"]


def test_verdicts(seen):
    assert [c["verdict"] for c in seen[1]] == [
        capture.PASSED, capture.DIFFER, capture.PASSED, capture.UNRUN, capture.FAILED,
        capture.PASSED, capture.PASSED, capture.PASSED, capture.PASSED, capture.PASSED,
    ]


def test_messages_say_what_was_seen(seen):
    messages = [c["message"] for c in seen[1]]
    assert "42" in messages[1] and "41" in messages[1]
    assert "ZeroDivisionError" in messages[4]


def test_a_picture_is_kept_for_the_page(seen):
    assert "image/png" in seen[1][-1]["outputs"][0]["data"]


def test_outputs_become_a_valid_notebook(seen):
    notebook = execute.with_outputs(nbformat.from_dict(seen[0]), seen[1])
    assert [c.execution_count for c in notebook.cells] == list(range(1, 11))


def judged(verdict, strict):
    done = execute.Execution("page", "key", 1.0, [capture.PASSED, verdict], ["", "the message"])
    return execute.judge([done], strict)


@pytest.mark.parametrize(
    ("verdict", "when_building", "when_testing"),
    [
        (capture.PASSED, False, False), (capture.DIFFER, False, True),
        (capture.UNRUN, False, True), (capture.FAILED, True, True),
    ],
)
def test_what_stops_which_command(verdict, when_building, when_testing):
    assert bool(judged(verdict, strict=False)) == when_building
    assert bool(judged(verdict, strict=True)) == when_testing


def test_key_follows_code_outputs_and_surroundings():
    def key(*cells, around="a"):
        return execute.key(new_notebook(cells=list(cells)), around)

    base = key(cell("x = 1", "1\n"))
    assert key(cell("x = 1", "1\n", count=7)) == base  # numbering is nothing
    assert key(cell("x = 2", "1\n")) != base
    assert key(cell("x = 1", "2\n")) != base
    assert key(cell("x = 1", "1\n", tags=["nbval-ignore-output"])) != base
    assert key(cell("x = 1", "1\n"), around="b") != base


def test_a_change_in_src_changes_what_the_key_sees(tmp_path):
    import subprocess

    (tmp_path / "src/gdflows/data").mkdir(parents=True)
    code, data = tmp_path / "src/gdflows/a.py", tmp_path / "src/gdflows/data/run.csv"
    code.write_text("x = 1\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    hashes = [reader.package_hash(tmp_path)]
    code.write_text("x = 2\n")
    hashes.append(reader.package_hash(tmp_path))
    data.write_text("1,2\n")  # a file that git would track, not yet added
    hashes.append(reader.package_hash(tmp_path))
    (tmp_path / "src/gdflows/__pycache__").mkdir()
    (tmp_path / ".gitignore").write_text("__pycache__/\n")
    (tmp_path / "src/gdflows/__pycache__/a.pyc").write_text("")
    assert len(set(hashes)) == 3
    assert reader.package_hash(tmp_path) == hashes[-1]


def test_slow_chapters_are_marked_and_come_first():
    table = execute.table([execute.Execution("fast", "", 1.0), execute.Execution("slow", "", 99.0)])
    lines = table.splitlines()
    assert lines[1].split()[0] == "slow" and "slower than 60 s" in lines[1]
    assert lines[2].split()[0] == "fast" and "slower" not in lines[2]
