"""What a wide random network does to signals and to gradients, before any training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gdflows.arguments import number, whole
from gdflows.errors import ConvergenceError, InputError, NonFiniteError
from gdflows.problems.building import ACTIVATIONS

_TOLERANCE = 1e-12
_SMALL = 1e-4  # what is smaller than that is accurate in absolute terms
_ENDLESS = 1e12


@dataclass(frozen=True)
class MeanField:
    r"""Signals and gradients of wide random networks: what :func:`mean_field` returns.

    Attributes
    ----------
    q : numpy.ndarray
        Variance of the pre-activations :math:`q_1, \dots, q_N`, shape ``(..., N)``; the last is
        the output's.
    r : numpy.ndarray
        Mean square of what enters each layer, :math:`r_0, \dots, r_{N-1}`, shape ``(..., N)``.
    chi : numpy.ndarray
        Factors :math:`\chi_1, \dots, \chi_{N-1}` of the squared error signal, shape
        ``(..., N - 1)``.

    Examples
    --------
    >>> from gdflows.problems import mean_field
    >>> field = mean_field("relu", 2**0.5, depth=3)  # He's scale keeps signals and gradients
    >>> field.r.round(6).tolist(), field.gradients.round(6).tolist()
    ([1.0, 1.0, 1.0], [1.0, 1.0, 1.0])
    """

    q: np.ndarray
    r: np.ndarray
    chi: np.ndarray

    @property
    def errors(self) -> np.ndarray:
        r"""Limits of :math:`\|\partial f/\partial z_j\|^2`, which is that of the biases too.

        :math:`\chi_j \chi_{j+1} \cdots \chi_{N-1}` for j = 1 ... N, shape ``(..., N)``; the last
        is 1.
        """
        behind = np.cumprod(self.chi[..., ::-1], axis=-1)[..., ::-1]
        return np.concatenate([behind, np.ones((*self.chi.shape[:-1], 1))], axis=-1)

    @property
    def gradients(self) -> np.ndarray:
        r"""Limits of :math:`\|\partial f/\partial W_j\|^2/n` for j = 1 ... N, shape ``(..., N)``.

        :math:`r_{j-1}\chi_j \cdots \chi_{N-1}`, where n is the width.
        """
        return self.r * self.errors


def mean_field(
    activation: str | Callable[[Tensor], Tensor],
    sigma_w,
    sigma_b=0.0,
    depth: int = 50,
    *,
    signal: float = 1.0,
) -> MeanField:
    r"""Signals and gradients, layer by layer, in a random network of infinite width.

    Layer j computes :math:`z_j = W_j x_{j-1} + b_j`, :math:`x_j = \varphi(z_j)`, for j = 1 ... N;
    the last is linear with one output f. Weights are independent normal of variance
    :math:`\sigma_w^2/n`, with n the number of inputs of the layer, biases of variance
    :math:`\sigma_b^2`.

    Parameters
    ----------
    activation : str or callable
        A name that :func:`mlp` takes, ``"linear"``, or an elementwise function of a tensor that
        torch can differentiate.
    sigma_w, sigma_b : float or array_like
        The scales. Arrays are broadcast against one another.
    depth : int
        N, at least 1.
    signal : float
        Mean square of the input's entries, :math:`r_0 = \|x_0\|^2/n_0`.

    Returns
    -------
    MeanField
        The sequences, with the shape of the scales in front.

    Raises
    ------
    InputError
        If the activation is unknown, a scale is negative or not finite, or the depth is below 1.
    NonFiniteError
        If the activation is not finite on the whole line, or too large for float64.

    Notes
    -----
    .. math::

        q_j = \sigma_w^2 r_{j-1} + \sigma_b^2, \qquad
        r_j = \mathbb{E}\,\varphi(\sqrt{q_j} Z)^2, \qquad
        \chi_j = \sigma_w^2\, \mathbb{E}\,\varphi'(\sqrt{q_j} Z)^2

    with Z standard normal [1]_, [2]_. At finite width these are the leading terms: corrections
    are of the order of depth over width. The averages are Gauss-Legendre sums on intervals that
    halve towards 0, where activations have their kinks.

    References
    ----------
    .. [1] B. Poole, S. Lahiri, M. Raghu, J. Sohl-Dickstein and S. Ganguli, "Exponential
       expressivity in deep neural networks through transient chaos", NeurIPS, 2016.
    .. [2] S. Schoenholz, J. Gilmer, S. Ganguli and J. Sohl-Dickstein, "Deep information
       propagation", ICLR, 2017.

    Examples
    --------
    >>> from gdflows.problems import mean_field
    >>> mean_field("relu", 2**0.5, depth=4).gradients.round(12)
    array([1., 1., 1., 1.])
    """
    squares = _squares(activation)
    sigma_w, sigma_b = _scales(sigma_w, sigma_b)
    depth = whole(depth, "depth")
    signal = number(signal, "signal")
    if signal < 0:
        raise InputError(f"signal is a mean square, at least 0, got {signal}.")
    q, chi = [], []
    r = [np.full(sigma_w.shape, signal)]
    for j in range(depth):
        q.append(sigma_w**2 * r[-1] + sigma_b**2)
        if j < depth - 1:
            value, slope = squares(q[-1])
            r.append(value)
            chi.append(sigma_w**2 * slope)
    empty = np.empty((*sigma_w.shape, 0))
    return MeanField(
        q=np.stack(q, axis=-1),
        r=np.stack(r, axis=-1),
        chi=np.stack(chi, axis=-1) if chi else empty,
    )


def mean_field_limit(
    activation: str | Callable[[Tensor], Tensor], sigma_w, sigma_b=0.0
) -> tuple[np.ndarray, np.ndarray]:
    r"""Where the signal of :func:`mean_field` settles after many layers, and :math:`\chi` there.

    Parameters
    ----------
    activation, sigma_w, sigma_b
        As in :func:`mean_field`.

    Returns
    -------
    q : numpy.ndarray
        The limit :math:`q^*` of the variance of the pre-activations, from the start
        :math:`q_0 = 1`; infinite where the signal grows without bound. The shape is that of the
        scales.
    chi : numpy.ndarray
        :math:`\chi^*`, by which a layer multiplies the squared error signal: below 1 it vanishes
        towards the input, above it explodes. The line :math:`\chi^* = 1` is the critical one.

    Raises
    ------
    InputError
        As in :func:`mean_field`.
    ConvergenceError
        If the signal does not settle.
    NonFiniteError
        As in :func:`mean_field`.

    Notes
    -----
    Layers are gone through one by one, with a step of Steffensen's method after each two where
    they approach rest and the step comes closer to it.

    Examples
    --------
    >>> from gdflows.problems import mean_field_limit
    >>> [float(v.round(3)) for v in mean_field_limit("tanh", 2**0.5)]
    [0.618, 1.106]
    """
    squares = _squares(activation)
    sigma_w, sigma_b = _scales(sigma_w, sigma_b)
    shape = sigma_w.shape
    ws, bs = sigma_w.ravel() ** 2, sigma_b.ravel() ** 2
    settled = np.ones(ws.size)
    moving = np.arange(ws.size)
    for sweep in range(200):
        w, b, q = ws[moving], bs[moving], settled[moving]

        def layer(q, w=w, b=b):
            return w * squares(q, slope=False) + b

        first = layer(q)
        off = np.abs(first - q)
        at_rest = (off <= _TOLERANCE * np.maximum(q, _SMALL)) | (q >= _ENDLESS)
        second = layer(first)
        best = second
        if sweep >= 5:
            bend = second - 2 * first + q
            with np.errstate(divide="ignore", invalid="ignore"):
                leap = q - (first - q) ** 2 / bend
            contracts = np.abs(second - first) < off
            usable = contracts & np.isfinite(leap) & (leap >= 0)
            leap = np.where(usable, leap, second)
            closer = np.abs(layer(leap) - leap) <= np.abs(layer(second) - second)
            best = np.where(closer, leap, second)
        settled[moving] = np.where(at_rest, q, np.minimum(best, _ENDLESS))
        moving = moving[~at_rest]
        if not moving.size:
            break
    else:
        w, b = np.sqrt(ws[moving[0]]), np.sqrt(bs[moving[0]])
        raise ConvergenceError(
            f"The signal does not settle at sigma_w = {w:g}, sigma_b = {b:g}: its variance goes "
            "on moving after 200 sweeps. Look at the layers with mean_field."
        )
    chi = ws * squares(settled)[1]
    settled[settled >= _ENDLESS] = np.inf
    return settled.reshape(shape), chi.reshape(shape)


def _squares(activation) -> Callable:
    """From q to E φ(√q Z)² and, if asked, E φ'(√q Z)², both of q's shape."""
    if activation == "linear":
        function = torch.nn.Identity()
    elif isinstance(activation, str):
        if activation not in ACTIVATIONS:
            raise InputError(
                f"activation must be one of linear, {', '.join(ACTIVATIONS)}, "
                f"or a function of a tensor, got {activation!r}."
            )
        function = ACTIVATIONS[activation]()
    elif callable(activation):
        function = activation
    else:
        raise InputError(
            f"activation must be a name or a function of a tensor, got {type(activation).__name__}."
        )

    def averages(q, slope=True):
        z = torch.as_tensor(np.sqrt(q)[..., None] * _NODES).requires_grad_(slope)
        with torch.set_grad_enabled(slope):
            value = function(z)
        parts = [value.detach()]
        if slope:
            parts += torch.autograd.grad(value.sum(), z)
        if not all(torch.isfinite(part).all() for part in parts):
            raise NonFiniteError(
                "The activation or its slope is not finite at all numbers that a normal variable "
                f"of variance {q.max():.3g} takes: choose another, or smaller scales."
            )
        found = [part.numpy() ** 2 @ _WEIGHTS for part in parts]
        return found if slope else found[0]

    return averages


def _scales(sigma_w, sigma_b) -> tuple[np.ndarray, np.ndarray]:
    checked = []
    for value, name in ((sigma_w, "sigma_w"), (sigma_b, "sigma_b")):
        array = np.asarray(value, dtype=np.float64)
        if not (np.isfinite(array).all() and (array >= 0).all()):
            raise InputError(f"{name} must be finite and at least 0, got {value!r}.")
        checked.append(array)
    try:
        return tuple(np.broadcast_arrays(*checked))
    except ValueError:
        shapes = " and ".join(str(a.shape) for a in checked)
        raise InputError(f"sigma_w and sigma_b have shapes {shapes}: broadcast them.") from None


def _normal_rule() -> tuple[np.ndarray, np.ndarray]:
    """Nodes and weights for averages over a standard normal number."""
    x, w = np.polynomial.legendre.leggauss(20)
    ends = np.concatenate([[0.0], 10.0 * 2.0 ** -np.arange(20, -1, -1)])
    ends = np.union1d(ends, np.arange(1.0, 11.0))
    middle, half = (ends[1:] + ends[:-1]) / 2, (ends[1:] - ends[:-1]) / 2
    nodes = (middle[:, None] + half[:, None] * x).ravel()
    weights = (half[:, None] * w).ravel() * np.exp(-(nodes**2) / 2)
    nodes, weights = np.concatenate([-nodes, nodes]), np.concatenate([weights, weights])
    return nodes, weights / weights.sum()


_NODES, _WEIGHTS = _normal_rule()
