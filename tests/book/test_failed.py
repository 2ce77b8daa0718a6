"""A chapter that fails: its page says so, all others are built, and it is one failure."""

import json
import os
import shutil
import subprocess
import sys

import nbformat
import pytest
from bookkit import build, capture, chapters, execute, report
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_notebook, new_output
from test_plain import build as build_sample

FAILURE = report.Failure("everything", 2, "raised ValueError: no", "think again", "2 + 2",
                         "Traceback <1>\nValueError: no")


@pytest.fixture(scope="module")
def pages(tmp_path_factory):
    """The sample book, one of its two chapters failed."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "_build").mkdir()
    (folder / "_build/failures.json").write_text(json.dumps({"everything": vars(FAILURE)}))
    done = build_sample(folder)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    read = {name: BeautifulSoup((folder / f"_build/html/{name}.html").read_text(), "html.parser")
            for name in ("everything", "other")}
    return read


def test_the_page_says_it_first_of_all(pages):
    title = pages["everything"].select_one("article h1")
    box = title.find_next_sibling()
    assert "chapter-failed" in box["class"] and "danger" in box["class"]
    text = box.text
    for told in ("did not run to its end", "Code cell 2 raised ValueError: no.", "think again",
                 "2 + 2", "Traceback <1>"):
        assert told in text


def test_no_other_page_says_it(pages):
    assert not pages["other"].select(".chapter-failed")
    assert pages["other"].select_one("article h1")


@pytest.fixture
def desk(tmp_path, monkeypatch):
    """`build.build` on two pages, with a stand-in for Sphinx that does as it is told."""
    told = {"failed": [], "status": 0, "skip": [], "commands": []}
    for name in ("HTML", "STAMP", "FAILURES", "CACHE", "BUILD"):
        path = getattr(build, name).relative_to(build.BUILD)
        monkeypatch.setattr(build, name, tmp_path / path)
    monkeypatch.setattr(build, "ROOT", tmp_path)
    monkeypatch.setattr(build, "pages", lambda: ["a", "b"])
    monkeypatch.setattr(build, "chapters", lambda: ["a", "b"])
    monkeypatch.setattr(build, "inputs_hash", lambda: "inputs")
    monkeypatch.setattr(build, "fill_cache", lambda failed: None)
    monkeypatch.setattr(build.Execution, "load", lambda page: page)
    monkeypatch.setattr(build, "failures", lambda _: told["failed"])

    def sphinx(command, log):
        told["commands"].append(command)
        log.write_text("WARNING: a label\n")
        build.HTML.mkdir(parents=True)
        for page in {"a", "b", "index"} - set(told["skip"]):
            (build.HTML / f"{page}.html").write_text("")
        return told["status"]

    monkeypatch.setattr(build, "logged", sphinx)
    return told


def failed(page):
    return report.Failure(page, 1, "raised", "", "", "")


def test_pages_are_built_around_a_failure(desk):
    desk["failed"] = [failed("b")]
    assert build.build()
    assert "-W" not in desk["commands"][0]  # references into the failed chapter lead nowhere
    assert "b" in build.why_not_built()
    assert not build.build()  # nothing changed
    desk["failed"] = []
    assert build.build()
    assert "-W" in desk["commands"][1]
    assert build.why_not_built() == ""


def test_a_build_that_fails_is_not_taken_for_good(desk):
    desk["status"] = 1
    with pytest.raises(chapters.BookError, match="a label"):
        build.build()
    assert "make book" in build.why_not_built()
    desk.update(status=0, skip=["b"])
    with pytest.raises(chapters.BookError, match="failed"):
        build.build()
    assert "make book" in build.why_not_built()


def test_a_stamp_cut_short_is_no_stamp(desk):
    build.build()
    build.STAMP.write_text(build.STAMP.read_text()[:-5])
    assert "make book" in build.why_not_built()
    assert build.build()


@pytest.mark.parametrize("wrong", [1, 2])
def test_outputs_are_kept_up_to_the_cell_that_failed(tmp_path, monkeypatch, wrong):
    """What jupyter-cache is given: nothing of the failed cell, nothing after it."""
    source = tmp_path / "page.md"
    source.write_text("---\njupytext:\n  text_representation:\n    format_name: myst\n"
                      "kernelspec:\n  name: python3\n---\n# T\n\n"
                      + "".join(f"```{{code-cell}} ipython3\n{k}\n```\n\n" for k in (1, 2)))
    cells = [new_code_cell(str(k), outputs=[new_output("stream", name="stdout", text="x")])
             for k in range(3)]
    executed = tmp_path / "executed"
    executed.mkdir()
    nbformat.write(new_notebook(cells=cells), executed / "page.ipynb")
    monkeypatch.setattr(execute, "EXECUTED", executed)
    monkeypatch.setattr(build, "CACHE", tmp_path / "cache")
    monkeypatch.setattr(build, "chapters", lambda: ["page"])
    monkeypatch.setattr(build, "source", lambda page: source)
    execute.Execution("page", "", 1.0, [capture.PASSED] * 3, [""] * 3).save()
    build.fill_cache({"page": report.Failure("page", wrong, "", "", "", "")})
    record = build.get_cache(str(tmp_path / "cache")).list_cache_records()[0]
    kept = build.get_cache(str(tmp_path / "cache")).get_cache_bundle(record.pk).nb
    code = [cell for cell in kept.cells if cell.cell_type == "code"]
    assert [bool(cell.outputs) for cell in code] == [k < wrong for k in (1, 2)]


def test_a_failed_build_is_one_failure_of_make_test(tmp_path):
    """tools/test leaves out the test that the book is built where the build said so itself."""
    root = tmp_path / "root"
    (root / "tools").mkdir(parents=True)
    (root / ".venv/bin").mkdir(parents=True)
    shutil.copy(build.ROOT / "tools/test", root / "tools/test")
    python = root / ".venv/bin/python"
    python.write_text('#!/bin/sh\necho "$@" >> log\ncase "$*" in *build*) exit $BOOK;; esac\n')
    python.chmod(0o755)

    def run(status):
        (root / "log").unlink(missing_ok=True)
        done = subprocess.run([root / "tools/test"], capture_output=True, text=True,
                              env={**os.environ, "BOOK": status})
        return done, (root / "log").read_text().splitlines()[-1]

    done, pytest_line = run("1")
    assert done.returncode == 1 and done.stderr.count("failed:") == 1
    assert "--deselect tests/book/test_pages.py::test_the_book_is_built" in pytest_line
    done, pytest_line = run("0")
    assert done.returncode == 0 and "--deselect" not in pytest_line


def test_without_pages_one_test_fails_and_the_rest_skip(tmp_path):
    """The tests of the pages, in a checkout that was never built."""
    root = tmp_path / "root"
    root.mkdir()
    for name in ("src", "book", "_toc.yml", "_config.yml"):
        (root / name).symlink_to(build.ROOT / name)
    for name in ("tools", "tests/book"):  # copied: they find their root from where they lie
        shutil.copytree(build.ROOT / name, root / name)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "addopts=",
         "tests/book/test_pages.py", "tests/book/test_notebooks.py",
         "-k", "built or links or browser or description or every_notebook or mathjax"],
        cwd=root, capture_output=True, text=True,
    )
    assert "1 failed" in done.stdout, done.stdout[-2000:]
    assert "test_the_book_is_built" in done.stdout
