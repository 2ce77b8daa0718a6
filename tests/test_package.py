"""The package as a whole: what it promises to run as written, and what importing it costs."""

import subprocess
import sys

import pytest
import torch

import gdflows as gf


def test_the_promised_lines_run_as_written():
    A = torch.diag(torch.tensor([1.0, 3.0], dtype=torch.float64))
    E = gf.Objective(lambda theta: 0.5 * theta @ A @ theta, dim=2)
    theta = torch.tensor([1.0, 1.0], dtype=torch.float64)
    assert float(E.value(theta)) == 2.0
    assert E.grad(theta).tolist() == [1.0, 3.0]
    assert E.hvp(theta, theta).tolist() == [1.0, 3.0]
    assert torch.equal(E.hessian(theta), A)
    assert E.third(theta, theta, theta).shape == (2,)
    assert E.cost["gradients"] > 0 and E.cost["hvps"] > 0
    path = gf.integrate(gf.flows.NGF(E), theta, t=2.0, rtol=1e-10)
    assert path.times[-1] == 2.0 and path.states.shape == (len(path.times), 2)
    igr = gf.integrate(gf.flows.IGR(E, lr=0.1), theta, t=2.0)
    assert igr.states[-1, 1] < path.states[-1, 1]  # IGR descends faster
    gd = gf.descend(E, theta, lr=0.1, steps=20)
    assert gd.states.shape == (21, 2)


def test_importing_is_light():
    # sympy and matplotlib take longer to import than a short training script takes to run
    heavy = ("sympy", "matplotlib", "sklearn", "pooch")
    code = (
        "import sys, gdflows\n"
        f"print([m for m in {heavy!r} if m in sys.modules])\n"
        "gdflows.plotting.COLOURS\n"
        "print('matplotlib' in sys.modules)"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.split("\n")[:2] == ["[]", "True"]


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'flow'"):
        gf.flow  # noqa: B018
    assert {"bseries", "plotting", "problems", "runs"} <= set(dir(gf))


def test_every_public_name_has_a_docstring():
    bare = []
    for module in (gf, gf.flows, gf.curvature, gf.problems, gf.runs, gf.probes, gf.plotting):
        names = getattr(module, "__all__", [n for n in vars(module) if not n.startswith("_")])
        for name in names:
            thing = getattr(module, name)
            own = getattr(thing, "__module__", "").startswith("gdflows")
            if own and callable(thing) and not (thing.__doc__ or "").strip():
                bare.append(f"{module.__name__}.{name}")
    assert not bare
