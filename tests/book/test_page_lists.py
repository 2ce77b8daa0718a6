"""The lists at the end of the book: figures, theorems, corrections, terms, bibliography."""

import re

import pytest
from bookkit import bibliography, lists
from bookkit.chapters import ROOT, chapters, load_config, pages, source
from bs4 import BeautifulSoup


def read(html, page):
    return BeautifulSoup((html / f"{page}.html").read_text(), "html.parser")


# ---- figures: which record they are drawn from


def sources(*cells):
    traced = lists.Sources(list(cells))
    return [traced.cell(cell) for cell in cells]


def test_a_figure_is_recorded_where_its_data_were_read():
    read, plot = sources("run = gf.runs.load('penalty-digits')", "t = run.table\nax.plot(t.x)")
    assert read == plot == {"penalty-digits"}


def test_a_figure_is_live_where_nothing_was_read():
    _, live, mixed = sources("run = gf.runs.load('penalty-digits')", "ax.plot(x)",
                             "y = x\nfor a in run.table:\n    y = a\nax.plot(y)")
    assert live == set() and mixed == {"penalty-digits"}


def test_a_name_given_anew_forgets():
    assert sources("run = gf.runs.load('penalty-digits')", "run = 3", "ax.plot(run)")[2] == set()


def test_names_put_together_are_found():
    made, = sources("r = {n: gf.runs.load(f'penalty-{n}') for n in ('digits', 'digits-ce')}")
    assert made == {"penalty-digits", "penalty-digits-ce"}


def test_a_functions_records_are_those_of_its_calls():
    _, drawn = sources("def read():\n    return gf.runs.load('penalty-digits')", "ax.plot(read())")
    assert drawn == {"penalty-digits"}


def test_what_a_function_or_a_comprehension_binds_is_its_own():
    read = "found = gf.runs.load('penalty-digits')"
    assert sources(read, "def f(x):\n    found = x\n    return found", "ax.plot(f(1))")[2] == set()
    assert sources(read, "ax.plot([found for found in x])")[1] == set()
    assert sources(read, "def f():\n    return found", "ax.plot(f())")[2] == {"penalty-digits"}


def test_names_given_together_forget_and_parts_do_not():
    read = "found = gf.runs.load('penalty-digits')"
    assert sources(read, "size, found = 1, 2", "ax.plot(found)")[2] == set()
    assert sources(read, "found['x'] = 2", "ax.plot(found)")[2] == {"penalty-digits"}


def test_the_records_of_a_plan_are_found():
    whole, looks = sources("r = plan.recorded()", "r = plan.recorded(plan.EDGES)")
    assert len(whole) > 20 and looks and all(name.endswith("-edges") for name in looks)


def test_every_figure_of_the_chapters_is_listed(html):
    made = str(read(html, lists.PAGE).find("article"))
    for page in chapters():
        for name, caption, _ in lists.figures(page, ROOT):
            assert f"#{name}" in made, name
            assert len(caption) > 10


def test_recorded_figures_lead_to_their_records(html):
    section = read(html, lists.PAGE).find(id="figures-and-how-each-was-made")
    recorded = [item for item in section.find_all("li") if "Recorded:" in item.text]
    assert len(recorded) > 20
    for item in recorded:
        assert item.find("a", href=re.compile("#record-")), item.text


def test_every_record_has_command_device_and_time(html):
    section = read(html, lists.PAGE).find(id="recorded-runs")
    told = {item.find("strong").text: item for item in section.select("p.record")}
    assert set(told) == {path.parent.name for path in lists.RECORDED.glob("*/run.json")}
    for name, item in told.items():
        command = item.find("code").text
        assert command.startswith(("gdflows run ", "bench_")) and "--title" not in command, name
        assert re.search(r"\. .+, \d+(\.\d)? (s|min|h), 20\d\d-\d\d-\d\d", item.text), item.text


# ---- theorems, corrections, terms


def test_every_theorem_is_listed(html):
    made = str(read(html, lists.PAGE).find("article"))
    labels = [label for page in pages()
              for _, _, label in lists.THEOREM.findall(source(page).read_text())]
    assert len(labels) > 50
    assert [label for label in labels if f"#{label}" not in made] == []


def test_every_correction_is_listed(html):
    boxes = sum(len(re.findall(r"^:class: correction$", source(page).read_text(), re.M))
                for page in pages())
    assert boxes == sum(line.startswith("**In ") for line in lists.list_corrections(ROOT)) > 10


def test_a_passage_keeps_its_references_elsewhere():
    assert lists.moved("{doc}`../index`", "book/1-integrators/euler") == "{doc}`/book/index`"
    assert lists.moved("{doc}`so <depth>`", "book/1-integrators/euler") == (
        "{doc}`so </book/1-integrators/depth>`")


def test_first_sentences():
    assert lists.first_sentence("At $x = 0.5$ it bends. More.") == "At $x = 0.5$ it bends."


def test_terms_have_their_definitions_at_hand(html):
    text = (html / "_static/terms.js").read_text()
    ids = {tag["id"] for tag in read(html, lists.GLOSSARY).select("dl.glossary dt[id]")}
    assert len(ids) >= len(lists.glossary(ROOT)) > 30
    assert all(f'"{name}"' in text for name in ids)


# ---- bibliography


def test_every_entry_leads_to_a_paper_back_to_chapters_and_can_be_copied(html):
    boxes = read(html, bibliography.BIBLIOGRAPHY).select("div.citation")
    cited = bibliography.citing(ROOT)
    assert len(boxes) == len(cited)
    for box in boxes:
        assert box.find("a", href=re.compile("^https://")), box.text
        assert box.select_one(".cited-in a.internal"), box.text
        assert re.match(r"@\w+\{", box.select_one("details.bibtex pre").text)


@pytest.mark.parametrize("fields, what", [
    ("  note = {arXiv:2101.12176},", "arXiv:2101.12176"), ("  eprint = {2404.19261},",
                                                          "arXiv:2404.19261"),
    ("  doi = {10.1137/1.2},", "DOI"), ("  title = {On {R}--K},", "search")])
def test_addresses_of_papers(fields, what):
    kind, url = bibliography.address(f"@misc{{a,\n{fields}\n}}")
    assert kind == what and url.startswith("https://")


def test_every_chapter_says_how_to_cite_it(html):
    title = load_config()["title"]
    for page in chapters():
        entry = read(html, page).select("details.bibtex pre")[-1].text
        assert title in entry and entry.startswith("@")
