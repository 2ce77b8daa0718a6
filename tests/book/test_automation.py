"""What runs at GitHub names what exists: targets, files, jobs, settings, forms."""

import re
from pathlib import Path

import pytest
import yaml
from bookkit.chapters import RUNS

ROOT = Path(__file__).resolve().parents[2]
GITHUB = ROOT / ".github"
WORKFLOWS = {path.stem: yaml.safe_load(path.read_text())
             for path in sorted((GITHUB / "workflows").glob("*.yml"))}
FORMS = sorted(set((GITHUB / "ISSUE_TEMPLATE").glob("*.yml"))
               - {GITHUB / "ISSUE_TEMPLATE/config.yml"})
TARGETS = set(re.findall(r"^([a-z]+):", (ROOT / "Makefile").read_text(), re.M))
#: Made while a workflow runs.
MADE = ("_build", ".venv", "dist", "made")
KINDS = {"markdown", "textarea", "input", "dropdown", "checkboxes"}


def triggers(workflow: dict) -> dict:
    found = workflow.get("on", workflow.get(True))  # YAML 1.1 reads `on` as true
    return found if isinstance(found, dict) else {found: None}


def steps(name: str):
    for job in WORKFLOWS[name]["jobs"].values():
        yield from job["steps"]


def missing(text: str) -> list[str]:
    """Targets of make, and paths in the repository, that a script names and that are not there."""
    script = re.sub(r"^\s*#.*$", "", text, flags=re.M)
    wrong = [f"make {t}" for t in re.findall(r"\bmake ([a-z]+)", script) if t not in TARGETS]
    tops = "|".join(re.escape(p.name) for p in ROOT.iterdir()
                    if p.name not in (*MADE, ".git") and not p.name.endswith(".egg-info"))
    for path in re.findall(rf"(?<![\w/.-])(?:\./)?((?:{tops})(?:/[\w./*-]+)?)(?![\w-])", script):
        if not any(ROOT.glob(path.rstrip("/."))):
            wrong.append(path)
    return wrong


@pytest.mark.parametrize("name", WORKFLOWS)
def test_a_workflow_names_what_exists(name):
    workflow = WORKFLOWS[name]
    assert workflow["name"] == name and workflow["permissions"]
    jobs = workflow["jobs"]
    for job in jobs.values():
        assert job["timeout-minutes"] <= 120
        needed = job.get("needs", [])
        assert set([needed] if isinstance(needed, str) else needed) <= set(jobs)
    scripts = [step["run"] for step in steps(name) if "run" in step]
    assert [wrong for text in scripts for wrong in missing(text)] == []
    for text in scripts:
        for other in re.findall(r"gh workflow run (\w+)\.yml", text):
            assert "workflow_dispatch" in triggers(WORKFLOWS[other])


def test_the_search_for_what_is_missing_finds_it():
    assert missing("make nonsense\ncat tools/nonsense.py\npytest tests/book src/nonsense") == [
        "make nonsense", "tools/nonsense.py", "src/nonsense"]
    assert missing("make book\ncat tools/book.py ./src/gdflows \"book/**/*.md\" .ci/run") == []


def test_publishing_waits_for_a_tag_and_one_setting():
    release, archive = WORKFLOWS["release"], WORKFLOWS["archive"]
    assert triggers(release)["push"] == {"tags": ["v*"]}
    assert release["permissions"] == {"contents": "read"}
    publish, announce = release["jobs"]["publish"], release["jobs"]["announce"]
    for words in ("github.ref_type == 'tag'", "vars.PUBLISH == 'true'"):
        assert words in publish["if"]
    assert "publish" in announce["needs"] and "build" in publish["needs"]
    assert archive["jobs"]["archive"]["if"] == "vars.PUBLISH == 'true'"
    # by the workflow's own identity, not by a password
    assert publish["permissions"] == {"id-token": "write"} and publish["environment"] == "pypi"
    texts = "".join(path.read_text() for path in (GITHUB / "workflows").glob("*.yml"))
    assert "secrets." not in texts
    assert set(re.findall(r"\bvars\.(\w+)", texts)) == {"PUBLISH"}


def test_a_release_builds_tests_and_prints_what_it_publishes():
    build = WORKFLOWS["release"]["jobs"]["build"]["steps"]
    scripts = "\n".join(step.get("run", "") for step in build)
    for words in ("make setup", "tests/book/test_wheel.py", "make pdf", "build --outdir dist .",
                  f"build --outdir dist {RUNS}", "twine check --strict"):
        assert words in scripts, words
    sent = [step["with"] for step in build if "upload-artifact" in step.get("uses", "")]
    from bookkit import printed

    assert printed.PDF.relative_to(ROOT).as_posix() in [each["path"] for each in sent]
    names = {each["name"] for each in sent}
    fetched = [step["with"] for step in steps("release") if "download" in step.get("uses", "")]
    assert {each["name"] for each in fetched if "name" in each} <= names


@pytest.mark.parametrize("path", FORMS, ids=lambda path: path.stem)
def test_a_form_for_issues_is_whole(path):
    form = yaml.safe_load(path.read_text())
    assert form["name"] and form["description"] and form["labels"]
    ids = [part["id"] for part in form["body"] if part["type"] != "markdown"]
    assert ids and len(ids) == len(set(ids))
    assert all(part["type"] in KINDS and part["attributes"]["label"] for part in form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_updates_look_where_something_is_pinned():
    entries = yaml.safe_load((GITHUB / "dependabot.yml").read_text())
    assert entries["version"] == 2
    kinds = {entry["package-ecosystem"]: entry for entry in entries["updates"]}
    assert set(kinds) == {"github-actions", "pip"}
    pinned = (ROOT / "requirements.txt").read_text()
    for entry in kinds.values():
        assert entry["directory"] == "/" and entry["schedule"]["interval"] == "monthly"
        for name in (rule["dependency-name"] for rule in entry.get("ignore", ())):
            assert re.search(rf"^{re.escape(name)}==", pinned, re.M), name
    for pattern in kinds["pip"]["groups"]["book"]["patterns"]:
        assert re.search(rf"^{re.escape(pattern).replace(chr(92) + '*', '.*')}.*==", pinned, re.M)
