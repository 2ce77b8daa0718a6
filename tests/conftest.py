"""What several tests share."""

import pytest
import torch

import gdflows as gf


@pytest.fixture(autouse=True)
def _one_thread():
    # The same sums in the same order on every machine.
    torch.set_num_threads(1)


@pytest.fixture
def net():
    """A small smooth network on random data, float64: (objective, its module)."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(12, 3, generator=g, dtype=torch.float64)
    y = torch.randn(12, 2, generator=g, dtype=torch.float64)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = torch.nn.Sequential(
            torch.nn.Linear(3, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2)
        ).double()
    return gf.Objective.from_module(model, squared, (x, y)), model


def squared(output, target):
    r = output - target
    return 0.5 * (r * r).sum() / len(r)


def pytest_terminal_summary(terminalreporter):
    """Which recorded runs were not repeated, and why: a skip alone is easily overlooked."""
    notes: dict[str, list[str]] = {}
    for reports in terminalreporter.stats.values():
        for report in reports:
            if getattr(report, "when", None) != "call":
                continue
            for key, value in report.user_properties:
                if key == "recorded run":
                    name, _, what = value.partition("|")
                    notes.setdefault(name, []).append(what)
    if not notes:
        return
    repeated = [n for n, whats in notes.items() if any(w.startswith("repeated") for w in whats)]
    rest = sorted(set(notes) - set(repeated))
    terminalreporter.section(f"recorded runs: {len(repeated)} repeated, {len(rest)} not", "-")
    for name in rest:
        terminalreporter.write_line(f"  {name:28s} {'; '.join(sorted(notes[name]))}")
