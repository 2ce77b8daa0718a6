"""The executor fails where it must. These run real kernels in the reader's environment."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nbformat
import pytest
from bookkit import capture, chapters, execute, files, progress, reader, report
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
        cell("import os; print(sorted(os.listdir()))", "['fates.ipynb']\n"),
        cell("import gdflows; print('site-packages' in gdflows.__file__)", "True\n"),
        cell("import os; print(os.environ['OMP_NUM_THREADS'])", "1\n"),
        cell("import importlib.util as u\nprint([n for n in ('nbval', 'pytest', 'jupytext', "
             "'sphinx') if u.find_spec(n)])", "[]\n"),
        cell("import matplotlib.pyplot as plt\nplt.plot([1, 2])\nplt.show()"),
        cell("1 / 0"),
        cell("print('echo')"),
    ])
    notebook.cells[8].outputs = [
        new_output("display_data", data={"text/plain": "<Figure size 10x10 with 1 Axes>"})
    ]
    return notebook, dict(execute.run({"fates": notebook}, limit=1200))["fates"]


def test_verdicts(seen):
    assert [c["verdict"] for c in seen[1]] == [
        capture.PASSED, capture.DIFFER, capture.PASSED, capture.UNRUN, capture.PASSED,
        capture.PASSED, capture.PASSED, capture.PASSED, capture.PASSED, capture.FAILED,
        capture.NOT_REACHED,
    ]


def test_messages_say_what_was_seen(seen):
    messages = [c["message"] for c in seen[1]]
    assert "42" in messages[1] and "41" in messages[1]
    assert "ZeroDivisionError" in messages[9]


def test_a_picture_is_kept_for_the_page(seen):
    assert "image/png" in seen[1][8]["outputs"][0]["data"]


def test_outputs_become_a_valid_notebook(seen):
    notebook = execute.with_outputs(nbformat.from_dict(seen[0]), seen[1])
    assert [c.execution_count for c in notebook.cells] == list(range(1, 12))


# ---- what hangs, what dies, and what is merely stopped


@pytest.fixture(scope="module")
def lost():
    """One run over a cell that hangs, a kernel that dies at once, and a chapter that is well."""
    def notebook(source):
        return new_notebook(cells=[cell("print(1)", "1\n"), cell(source), cell("print(2)", "2\n")])

    return dict(execute.run({
        "hangs": notebook("import time\nprint('so far', flush=True)\ntime.sleep(3000)"),
        "dies": notebook("import os\nos._exit(1)"),
        "well": notebook("x = 2"),
    }, limit=15))


@pytest.mark.parametrize(
    ("name", "fate"), [("hangs", capture.TOO_LONG), ("dies", capture.DIED), ("well", None)]
)
def test_one_chapter_stops_no_other(lost, name, fate):
    rest = [fate, capture.NOT_REACHED] if fate else [capture.PASSED, capture.PASSED]
    assert [c["verdict"] for c in lost[name]] == [capture.PASSED, *rest]


def test_a_lost_worker_is_a_chapter_that_failed():
    notebook = new_notebook(cells=[cell("1")] * 4)
    seen = [{"verdict": capture.PASSED}]
    found = execute.unfinished(notebook, seen, "worker 'gw0' crashed")
    assert [c["verdict"] for c in found] == [
        capture.PASSED, capture.DIED, capture.NOT_REACHED, capture.NOT_REACHED]
    assert "gw0" in found[1]["message"]
    assert execute.unfinished(notebook, None, "")[0]["verdict"] == capture.DIED


def test_a_cell_that_hangs_shows_where(lost):
    cell = lost["hangs"][1]
    assert "KeyboardInterrupt" in cell["message"] and "time.sleep" in cell["message"]
    assert cell["outputs"][0]["text"] == "so far\n"


def failed(verdict, message="", page="book/1-integrators/euler", limit=1200.0):
    verdicts = [capture.PASSED, verdict, capture.NOT_REACHED]
    return execute.Execution(page, "key", 1.0, verdicts, ["", message, ""], limit)


def test_a_limit_is_told_with_chapter_cell_and_remedy():
    text = str(report.failure(failed(capture.TOO_LONG, "\x1b[31mKeyboardInterrupt\x1b[0m: ")))
    assert text.startswith("book/1-integrators/euler: code cell 1 did not end within 20 min")
    assert "BOOK_CELL_MINUTES=40" in text and "\x1b" not in text
    first = chapters.code_cells("book/1-integrators/euler")[0].source.splitlines()[0]
    assert f"the cell begins: {first}" in text


def test_an_error_and_a_death_are_told():
    text = str(report.failure(failed(capture.FAILED, "Traceback\nValueError: no")))
    assert "code cell 1 raised ValueError: no" in text
    assert "memory" in str(report.failure(failed(capture.DIED)))
    assert report.failure(execute.Execution("p", "k", 1.0, [capture.PASSED], [""])) is None


@pytest.mark.parametrize("given", ["", None])
def test_a_cell_has_twenty_minutes_unless_told(monkeypatch, given):
    monkeypatch.delenv(execute.SETTING, raising=False)
    if given is not None:
        monkeypatch.setenv(execute.SETTING, given)
    assert execute.cell_limit() == 20 * 60
    monkeypatch.setenv(execute.SETTING, "45")
    assert execute.cell_limit() == 45 * 60
    assert execute.cell_limit("0.5") == 30


@pytest.mark.parametrize("given", ["soon", "0", "-1", "nan", "inf"])
def test_a_limit_that_is_none_is_named(monkeypatch, given):
    monkeypatch.setenv(execute.SETTING, given)
    with pytest.raises(chapters.BookError, match=f"{given!r} minutes.*BOOK_CELL_MINUTES"):
        execute.cell_limit()


def test_what_a_killed_run_leaves_is_not_taken_for_good(tmp_path, monkeypatch):
    monkeypatch.setattr(execute, "EXECUTED", tmp_path)
    done = failed(capture.FAILED, page="page")
    done.save()
    assert execute.Execution.load("page") == done
    whole = (tmp_path / "page.json").read_text()
    for text in ("", whole[:-9], "[]", '{"page": "page"}', '{"other": 1}'):
        (tmp_path / "page.json").write_text(text)
        assert execute.Execution.load("page") is None


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write(path, "old")

    def killed(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        files.write(path, "new")
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("sign", [signal.SIGTERM, signal.SIGINT])
def test_whoever_is_stopped_stops_what_it_started(tmp_path, sign):
    """A run that is terminated leaves no process that works on, nor one of those it started."""
    script = tmp_path / "script.py"
    script.write_text(f"""
import signal, subprocess, sys
sys.path.insert(0, {str(Path(execute.__file__).parents[1])!r})
from bookkit.execute import stopped_at_the_end
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
signal.signal(signal.SIGINT, signal.default_int_handler)
with stopped_at_the_end(["sh", "-c", "sleep 1000 & echo $! $$; exec >&-; wait"],
                        stdout=subprocess.PIPE, text=True) as child:
    print(child.stdout.readline(), flush=True)
    child.wait()
""")
    run = subprocess.Popen([sys.executable, script], stdout=subprocess.PIPE, text=True,
                           stderr=subprocess.DEVNULL)
    pids = [int(pid) for pid in run.stdout.readline().split()]
    run.send_signal(sign)
    run.wait()
    run.stdout.close()
    assert run.returncode != 0

    def running(pid):
        try:  # a process that ended and that nobody waited for is still listed
            return Path(f"/proc/{pid}/stat").read_text().split(") ")[1][0] != "Z"
        except OSError:
            return False

    for _ in range(100):
        if not any(map(running, pids)):
            break
        time.sleep(0.1)
    assert [pid for pid in pids if running(pid)] == []


# ---- what is said on the way


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


def test_a_line_for_each_chapter_and_the_time_to_go():
    clock, lines = Clock(), []
    told = progress.Progress({"a": 4, "b": 4, "c": 8}, {}, clock, lines.append)
    clock.now = 10.0
    told.at_work({"a": 3})
    assert lines == []  # not yet quiet for long
    clock.now = 40.0
    told.at_work({"b": 2})
    told.finish("a", 38.0)
    # 4 cells and half of 4 of 16 in 40 s: 10 more in 66.7 s
    assert lines == ["  1 of 3  a    38.0 s; about 67 s to go"]
    clock.now = 130.0
    told.at_work({"b": 3})
    assert lines[1] == "  at work for 2 min on b (cell 3 of 4 done); about 3 min to go"
    told.finish("b", 90.0, "FAILED in code cell 2")
    told.at_work({})
    told.finish("c", 9.0)
    assert lines[2].startswith("  2 of 3  b    90.0 s  FAILED in code cell 2; about")
    assert lines[3] == "  3 of 3  c     9.0 s"


def test_known_times_weigh_the_chapters():
    clock, lines = Clock(), []
    told = progress.Progress({"short": 10, "long": 10, "new": 10}, {"short": 1.0, "long": 59.0},
                             clock, lines.append)
    clock.now = 1.0
    told.finish("short", 1.0)
    assert told.left() == pytest.approx(59.0 + 30.0)  # 'new' at the others' time a cell


def test_lines_come_at_once_and_without_a_terminal(tmp_path):
    script = ("import sys, time; sys.path.insert(0, sys.argv[1])\n"
              "from bookkit.progress import say; say('line'); sys.stdin.read()")
    with subprocess.Popen(
        [sys.executable, "-c", script, str(Path(execute.__file__).parents[1])],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    ) as child:
        assert child.stdout.readline() == "line\n"  # while it still waits
        child.stdin.close()


def judged(verdict, strict):
    done = execute.Execution("page", "key", 1.0, [capture.PASSED, verdict], ["", "the message"])
    if verdict in capture.STOPPING:
        done.page = "book/1-integrators/euler"
    return report.judge([done], strict)


@pytest.mark.parametrize(
    ("verdict", "when_building", "when_testing"),
    [
        (capture.PASSED, False, False), (capture.DIFFER, False, True),
        (capture.UNRUN, False, True), (capture.FAILED, True, True),
        (capture.TOO_LONG, True, True), (capture.DIED, True, True),
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


def test_an_unpacked_source_distribution_has_the_files_that_git_tracks(tmp_path):
    for name in ("src/a.py", "src/deep/b.csv", "pyproject.toml", "other.txt",
                 "src/__pycache__/a.pyc", "src/g.egg-info/PKG-INFO"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(name)
    unpacked = files.own(tmp_path, "src", "pyproject.toml")
    (tmp_path / ".gitignore").write_text("__pycache__/\n*.egg-info/\n")
    subprocess.run(["git", "init", "--quiet", tmp_path], check=True)
    assert unpacked == files.own(tmp_path, "src", "pyproject.toml")
    assert [path.name for path in unpacked] == ["pyproject.toml", "a.py", "b.csv"]


def test_slow_chapters_are_marked_and_come_first():
    table = report.table([execute.Execution("fast", "", 1.0), execute.Execution("slow", "", 99.0)])
    lines = table.splitlines()
    assert lines[1].split()[0] == "slow" and "slower than 60 s" in lines[1]
    assert lines[2].split()[0] == "fast" and "slower" not in lines[2]
