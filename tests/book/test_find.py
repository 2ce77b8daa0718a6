"""The search puts first the page that a reader looks for. Run in an engine, without a browser."""

import json
import re

import pytest
from bookkit import find
from bookkit.chapters import ROOT, pages
from py_mini_racer import MiniRacer

PART = {"1": "1-integrators", "2": "2-backward-error", "3": "3-principal-flow",
        "4": "4-edge-of-stability", "5": "5-drift", "6": "6-noise", "7": "7-bridges"}
# what readers type, and the page that must come first
QUERIES = {
    "edge of stability": "4/edge",
    "progressive sharpening": "4/edge",
    "catapult": "4/edge",
    "warm-up": "4/edge",
    "warmup": "4/edge",
    "neural tangent kernel": "1/following",
    "implicit regularization": "2/igr",
    "implicit gradient regularisation": "2/igr",
    "implicit gradient regularization": "2/igr",
    "backward error analysis": "2/analysis",
    "modified equation": "2/analysis",
    "B-series": "2/forest",
    "principal flow": "3/principal",
    "central flow": "4/constrained",
    "central flows": "4/constrained",
    "self-stabilization": "4/resonance",
    "rod flow": "4/two-points",
    "Adam": "4/adaptive",
    "RMSProp": "4/adaptive",
    "adaptive optimizers": "4/adaptive",
    "momentum": "1/inertia",
    "Nesterov": "1/inertia",
    "heavy ball": "1/inertia",
    "SDE": "6/equations",
    "stochastic differential equation": "6/equations",
    "linear scaling rule": "6/when",
    "batch size": "6/when",
    "label noise": "6/regularises",
    "stochastic edge of stability": "6/edge-of-noise",
    "weight averaging": "5/averaging",
    "learning rate schedule": "5/dal",
    "discretization drift": "5/drift",
    "loss spikes": "4/coefficients",
    "vanishing gradients": "1/depth",
    "saddle to saddle": "1/plateaus",
    "conservation laws": "1/symmetry",
    "Euler's method": "1/euler",
    "equilibrium propagation": "7/energies",
    "Hebbian learning": "7/rules",
    "glossary": "book/notation",
    "references": "book/appendix/bibliography",
    "install": "book/index",
    "SharpnessMonitor": "book/appendix/generated/gdflows.SharpnessMonitor",
    "gdflows.integrate": "book/appendix/generated/gdflows.integrate",
    "top_eigenpairs": "book/appendix/generated/gdflows.curvature.top_eigenpairs",
}


def page(short: str) -> str:
    part, _, name = short.partition("/")
    return f"book/{PART[part]}/{name}" if part in PART else short


@pytest.fixture(scope="module")
def ask(html, request):
    """The pages that a query finds, best first, as the page of the search shows them."""
    engine = MiniRacer()
    request.addfinalizer(engine.close)
    engine.eval("var Search = {setIndex(found) { globalThis.index = found; }};")
    for name in ("_static/language_data.js", "searchindex.js", "_static/find-words.js",
                 "_static/find.js"):
        engine.eval((html / name).read_text())
    return lambda query: [found[0] for found in json.loads(engine.eval(
        f"JSON.stringify(gdflowsRank(index, gdflowsFind, {json.dumps(query)}, "
        "((s) => (w) => s.stemWord(w))(new Stemmer())))"))]


@pytest.mark.parametrize("query", QUERIES)
def test_the_right_page_comes_first(ask, query):
    assert ask(query)[:1] == [page(QUERIES[query])], ask(query)[:4]


def test_spellings_find_the_same(ask):
    for one, other in (("regularise", "regularize"), ("centre", "center"),
                       ("optimisers", "optimizers"), ("discretisation", "discretization")):
        assert ask(one)[:3] == ask(other)[:3]


def test_chapters_come_before_the_package(ask):
    for query in ("sharpness", "flow", "noise", "hessian"):
        first = ask(query)[:5]
        assert not any("generated" in name for name in first), first


def test_nonsense_finds_nothing(ask):
    assert ask("xyzzyqwfp") == [] and ask("") == [] and ask("the of") == []


def test_other_names_are_of_pages_that_are_there():
    assert set(find.names(ROOT)) <= set(pages())


def test_telling_words_are_those_of_few_pages():
    made = find.telling({"a": {"flow": 9, "noise": 9}, "b": {"flow": 9}, "c": {"flow": 9}})
    assert made["a"]["noise"] == 100 > made["a"]["flow"]


def test_only_the_page_of_the_search_is_given_the_ranking(html):
    def loads(path):
        return re.search(r"find\.js", (html / path).read_text())

    assert loads("search.html") and not loads("book/notation.html")
