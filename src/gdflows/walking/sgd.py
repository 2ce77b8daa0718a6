"""Stochastic gradient descent itself, on many paths at once."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import InputError
from gdflows.flows.base import check_lr
from gdflows.flows.covariance import Covariance, PerSampleNoise, as_covariance
from gdflows.objective import Objective
from gdflows.objective.batched import Batched
from gdflows.walking.draws import Draws
from gdflows.walking.ensemble import Ensemble, Observe
from gdflows.walking.paths import Many, starts

NOISES = ("gaussian", "three-point", "batches", "epochs")


def sgd(
    objective: Objective,
    theta0: Tensor,
    lr: float,
    steps: int,
    *,
    covariance,
    noise: str = "gaussian",
    momentum: float = 0.0,
    nesterov: bool = False,
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
    r"""SGD, :math:`\theta \leftarrow \theta - h(\nabla E(\theta) + \xi)`, many runs at once.

    The discrete original against which a stochastic modified equation is held.

    Parameters
    ----------
    objective : Objective
        The loss; fit for ``torch.func.vmap``.
    theta0 : Tensor
        Start of all paths, shape ``(D,)``, or of each, ``(paths, D)``.
    lr : float
        The learning rate h.
    steps : int
        How many steps; with ``svag`` still steps of length h in flow time.
    covariance
        Of ξ, as for :class:`gdflows.flows.StochasticModifiedEquation`.
    noise : {"gaussian", "three-point", "batches", "epochs"}
        The law of ξ. ``"batches"`` draws batches from the data, with what they do to all
        derivatives, anew in each step; ``"epochs"`` takes all samples once before any comes
        again, in an order drawn anew for each epoch and path. Both need a covariance that is a
        :class:`gdflows.flows.PerSampleNoise`.
    momentum, nesterov
        In torch's form, as for :func:`gdflows.descend`. From rest.
    svag : int
        l: each step becomes l steps of length h/l, with the gradient's noise
        :math:`\frac{1 + \sqrt{2l-1}}2\,\xi_1 + \frac{1 - \sqrt{2l-1}}2\,\xi_2`, of the
        covariance lΣ. As l grows SVAG tends to the equation of SGD at the *same* h; where it
        leaves SGD behind, so does the equation.
    parts : int
        Take ξ as the scaled sum of so many increments. The law of Gaussian noise is the same; the
        same seed then gives the noise that :func:`gdflows.integrate` sees with ``step=h/parts``.
    paths, seed, antithetic, keep, observe, chunk, progress
        As for :func:`gdflows.walking.walk_paths`.
    at : sequence of int, optional
        After which steps to look, increasing from 0; by default 0 and ``steps``.

    Returns
    -------
    Ensemble
        At the times k·h.

    Raises
    ------
    InputError
        For arguments that cannot be used, or paths that would not fit in memory.
    IntegrationError
        If a path runs away until it is no longer finite.

    References
    ----------
    Li, Malladi and Arora (2021), section 4.2, for SVAG.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0])
    >>> seen = gf.walking.sgd(E, torch.zeros(1).double(), 0.1, 100, covariance=1.0, paths=10_000)
    >>> abs(float(seen.variance[-1]) - 0.1 / 1.9) < 0.005  # h s/(λ(2 − hλ))
    True
    """
    lr, steps = check_lr(lr), whole(steps, "steps")
    momentum = number(momentum, "momentum")
    if not 0 <= momentum < 1:
        raise InputError(f"momentum must be in [0, 1), got {momentum}.")
    if nesterov and not momentum:
        raise InputError("nesterov is for momentum: give momentum as well.")
    svag, parts = whole(svag, "svag"), whole(parts, "parts")
    kind = kind_of_noise(noise, covariance, antithetic=antithetic, parts=parts, svag=svag)
    when = looks(at, steps)
    law = as_covariance(covariance, objective.dim)
    start = starts(objective, theta0, whole(paths, "paths"))
    law.check(start[0])
    gradient = Batched(objective).grad
    gradient(start[:1])
    noisy = noisy_gradient(law, gradient, noise, svag, parts)
    h, dim = lr / svag, start.shape[1]

    def step(x: Tensor, draws: Draws) -> Tensor:
        if not momentum:
            return x - h * noisy(x, draws)
        theta, v = x.split(dim, 1)
        push = noisy(theta, draws)
        v = momentum * v + push
        push = push + momentum * v if nesterov else v
        return torch.cat([theta - h * push, v], 1)

    many = Many(paths, seed, antithetic, kind, keep, observe, chunk, progress)
    name = ("Nesterov" if nesterov else "heavy ball") if momentum else "SGD"
    return many.walk(
        objective,
        torch.cat([start, torch.zeros_like(start)], 1) if momentum else start,
        [k * lr for k in when],
        [((b - a) * svag, step) for a, b in zip(when, when[1:], strict=False)],
        channels=law.channels,
        label=name if svag == 1 else f"SVAG-{svag}",
        companions=dim if momentum else 0,
    )


def noisy_gradient(
    law: Covariance, gradient: Callable[[Tensor], Tensor], noise: str, svag: int, parts: int
) -> Callable[[Tensor, Draws], Tensor]:
    """The gradient with its noise at the rows of ``(P, D)``, for SVAG that of two draws."""
    root = (2 * svag - 1) ** 0.5
    weights = ((1 + root) / 2, (1 - root) / 2) if svag > 1 else (1.0,)

    def of_batches(x: Tensor, draws: Draws) -> Tensor:
        drawn = (law.channels, law.batch_size, law.replacement)
        return sum(w * law.of_batches(x, draws.batches(*drawn)) for w in weights)

    def of_epochs(x: Tensor, draws: Draws) -> Tensor:
        return law.of_batches(x, draws.next_batches(law.channels, law.batch_size))

    def with_noise(x: Tensor, draws: Draws) -> Tensor:
        z = sum(w * draws.normal(parts) for w in weights)
        return gradient(x) - law.apply(x, z)  # so that z moves a path as it moves the flow's

    return {"batches": of_batches, "epochs": of_epochs}.get(noise, with_noise)


def _require_epochs(law: PerSampleNoise, svag: int) -> None:
    if svag > 1:
        raise InputError("SVAG draws its noise anew in each step: leave svag out with epochs.")
    if law.replacement:
        raise InputError("In an epoch no sample comes twice: leave replacement=True out.")
    if law.channels % law.batch_size:
        raise InputError(
            f"{law.channels} samples do not make whole batches of {law.batch_size}, and the rest "
            "of an epoch would weigh more: take a size that divides them."
        )


def kind_of_noise(noise: str, covariance, *, antithetic: bool, parts: int, svag: int) -> str:
    """Which numbers are drawn for it; refuses a law that there is not, or does not fit the rest."""
    if noise not in NOISES:
        raise InputError(f"noise must be one of {NOISES}, got {noise!r}.")
    drawn = noise in ("batches", "epochs")
    if drawn and not isinstance(covariance, PerSampleNoise):
        raise InputError(f"noise={noise!r} needs covariance=gdflows.flows.PerSampleNoise(...).")
    if drawn and (antithetic or parts > 1):
        raise InputError("Batches have neither antithetic pairs nor parts.")
    if noise == "epochs":
        _require_epochs(covariance, svag)
    return "gaussian" if drawn else noise


def looks(at: Sequence[int] | None, steps: int) -> list[int]:
    """After which steps to look."""
    if at is None:
        return [0, steps]
    when = [whole(k, "Each of at", 0) for k in at]
    if len(when) < 2 or when[0] != 0 or when != sorted(set(when)) or when[-1] > steps:
        raise InputError(f"at must increase from 0 to {steps} at most, with two entries at least.")
    return when
