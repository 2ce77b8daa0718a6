"""RMSProp and Adam with gradients that are drawn, on many paths at once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gdflows.arguments import whole
from gdflows.errors import InputError
from gdflows.flows.adaptive import AdaptiveRule, Averages
from gdflows.flows.covariance import as_covariance
from gdflows.objective import Objective
from gdflows.objective.batched import Batched
from gdflows.walking.draws import Draws
from gdflows.walking.ensemble import Ensemble, Observe
from gdflows.walking.paths import Many, starts
from gdflows.walking.sgd import kind_of_noise, looks, noisy_gradient


def adaptive_sgd(
    objective: Objective,
    theta0: Tensor,
    lr: float,
    steps: int,
    *,
    covariance,
    optimizer: str = "rmsprop",
    beta: float | None = None,
    betas: tuple[float, float] | None = None,
    eps: float = 1e-8,
    averages: Averages | None = None,
    noise: str = "gaussian",
    svag: int = 1,
    parts: int = 1,
    paths: int = 1000,
    seed: int = 0,
    at: Sequence[int] | None = None,
    antithetic: bool = False,
    keep: str = "last",
    observe: Observe | None = None,
    chunk: int | None = None,
    progress: bool | None = None,
) -> Ensemble:
    r"""RMSProp or Adam on gradients :math:`\nabla E(\theta) + \xi`, many runs at once.

    The discrete original against which :class:`gdflows.flows.AdaptiveModifiedEquation` is held.

    Parameters
    ----------
    objective, theta0, lr, steps, covariance, noise, parts
        As for :func:`gdflows.walking.sgd`.
    optimizer : {"rmsprop", "rmsprop-scalar", "adam"}
        As torch has them; see :class:`gdflows.flows.AdaptiveRule`.
    beta, betas, eps
        As in :class:`gdflows.flows.AdaptiveRule`.
    averages : Averages, optional
        What the optimiser remembers at the start; by default nothing, as at its first step. With
        rows, ``(paths, D)``, each path its own.
    svag : int
        l: each step becomes l² steps with the rate h/l, the noise l²Σ, 1 − βᵢ divided by l², ε
        times l (and ν times l²). As l grows it tends to the equation of order 1 at the *same* h,
        without (∇E)² in the drift of ν. It needs ``averages``.
    paths, seed, at, antithetic, keep, observe, chunk, progress
        As for :func:`gdflows.walking.sgd`.

    Returns
    -------
    Ensemble
        At the times k·h, of θ.

    Raises
    ------
    InputError
        For arguments that cannot be used, or paths that would not fit in memory.
    IntegrationError
        If a path runs away until it is no longer finite.

    References
    ----------
    Malladi, Lyu, Panigrahi and Arora (2022), section 6, for SVAG.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, start = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> seen = gf.walking.adaptive_sgd(E, start, 0.01, 20, covariance=1.0, paths=100)
    >>> bool(seen.mean[-1] < 1)
    True
    """
    rule = AdaptiveRule(optimizer, lr, beta=beta, betas=betas, eps=eps)
    steps, svag, parts = whole(steps, "steps"), whole(svag, "svag"), whole(parts, "parts")
    kind = kind_of_noise(noise, covariance, antithetic=antithetic, parts=parts, svag=svag)
    if svag > 1 and averages is None:
        raise InputError(
            "svag needs averages: it is a test of the equation, which begins when the optimiser "
            "is on its way. See gdflows.flows.settled_averages."
        )
    when = looks(at, steps)
    law = as_covariance(covariance, objective.dim)
    start = starts(objective, theta0, whole(paths, "paths"))
    law.check(start[0])
    gradient = Batched(objective).grad
    gradient(start[:1])
    noisy = noisy_gradient(law, gradient, noise, svag**2, parts)
    first, second, taken = _checked(rule, averages, start, paths)
    if svag > 1:
        rule, second, taken = _slowed(rule, svag), svag**2 * second, svag**2 * taken
    dim = start.shape[1]
    steps_taken = torch.full_like(second[..., :1], taken)
    memory = torch.cat([first, second, steps_taken], -1)

    def step(x: Tensor, draws: Draws) -> Tensor:
        theta, first, second = x[:, :dim], x[:, dim : 2 * dim], x[:, 2 * dim : -1]
        known = rule.update(Averages(first, second, int(x[0, -1])), noisy(theta, draws))
        count = torch.full_like(x[:, -1:], known.step)
        return torch.cat([theta + rule.move(known), known.first, known.second, count], 1)

    rows = len(memory) if memory.ndim == 2 else len(start)
    many = Many(paths, seed, antithetic, kind, keep, observe, chunk, progress)
    name = rule.name if svag == 1 else f"{rule.name} SVAG-{svag}"
    return many.walk(
        objective,
        torch.cat([start.expand(rows, -1), memory.expand(rows, -1)], 1),
        [k * lr for k in when],
        [((b - a) * svag**2, step) for a, b in zip(when, when[1:], strict=False)],
        channels=law.channels,
        label=name,
        companions=memory.shape[-1],
    )


def _checked(rule: AdaptiveRule, averages: Averages | None, start: Tensor, paths: int) -> Averages:
    """The averages at the start, of all paths or a row for each."""
    if averages is None or averages.first.ndim < 2:
        return rule.checked(averages, start[0])
    if not len(averages.first) == len(averages.second) == paths:
        raise InputError(
            f"averages have {len(averages.first)} and {len(averages.second)} rows for {paths} "
            "paths: give one for each."
        )
    pairs = zip(averages.first, averages.second, strict=True)
    rows = [rule.checked(Averages(a, b, averages.step), start[0]) for a, b in pairs]
    return Averages(*(torch.stack([row[i] for row in rows]) for i in (0, 1)), rows[0].step)


def _slowed(rule: AdaptiveRule, l: int) -> AdaptiveRule:  # noqa: E741, the paper's letter
    """The rule that takes l² steps for one."""
    beta1, beta2 = (1 - (1 - b) / l**2 for b in (rule.beta1, rule.beta2))
    given = {"betas": (beta1, beta2)} if rule.corrected else {"beta": beta2}
    return AdaptiveRule(rule.name, rule.lr / l, eps=rule.eps * l, **given)
