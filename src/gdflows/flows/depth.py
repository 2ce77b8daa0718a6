"""Depth as time: residual networks as steps of a flow, their gradients forwards and backwards."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor
from torch.func import grad, vjp

from gdflows.arguments import number, whole
from gdflows.bseries import Method, modified_equation
from gdflows.bseries.methods import get_method
from gdflows.errors import InputError

#: Weights of all layers, the first axis being depth; or a function of the time in depth.
Weights = Tensor | Callable[[float], Tensor]


class ResidualFlow:
    r"""A residual network as an integrator of a flow in depth.

    .. math:: z_{k+1} = z_k + h\,F(z_k, w_k), \qquad h = T/L,

    is explicit Euler's method for :math:`\dot z = F(z, w(t))` with L steps; other methods make
    other networks.

    Parameters
    ----------
    field : callable
        F: ``field(z, w)`` of one layer's weights, of z's shape. z may have any shape, for instance
        ``(n, width)`` for n samples, so long as a sample does not act on another.
    layers : int
        L.
    time : float
        T, the time that the whole depth stands for.
    method : str, Method or tuple
        An explicit method of :data:`gdflows.bseries.METHODS`, or a tableau ``(A, b)``.
    steps : int
        Steps of the method in each layer, all with the layer's weights: a network of ``steps·L``
        layers that are alike in groups.

    Raises
    ------
    InputError
        If the method is implicit, or a number cannot be used.

    Examples
    --------
    >>> import torch
    >>> from gdflows.flows import ResidualFlow
    >>> net = ResidualFlow(lambda z, w: w * z, layers=2)
    >>> net.states(torch.tensor([1.0]), torch.tensor([1.0, 2.0])).flatten().tolist()
    [1.0, 1.5, 3.0]
    """

    def __init__(
        self,
        field: Callable[[Tensor, Tensor], Tensor],
        layers: int,
        *,
        time: float = 1.0,
        method: str | Method | Sequence = "explicit-euler",
        steps: int = 1,
    ):
        if not callable(field):
            raise InputError("field must be a function of a state and a layer's weights.")
        self.field = field
        self.layers, self.steps = whole(layers, "layers"), whole(steps, "steps")
        self.time = number(time, "time", positive=True)
        self.method = get_method(method)
        A = self.method.A
        if any(A[i][j] for i in range(len(A)) for j in range(i, len(A))):
            raise InputError(
                f"A layer of {self.method.name} would be an equation to solve; take an explicit "
                "method, such as 'explicit-euler', 'heun' or 'rk4'."
            )

    @property
    def h(self) -> float:
        """The time of one layer, T/L."""
        return self.time / self.layers

    # -- forwards ----------------------------------------------------------------------------------

    def states(self, z0: Tensor, weights: Weights) -> Tensor:
        """The states between the layers.

        Parameters
        ----------
        z0 : Tensor
            What enters the first layer.
        weights : Tensor or callable
            Of shape ``(L, …)``: each layer keeps its weights for its whole time. Or a function of
            the time in [0, T], evaluated where the method's stages are; for Euler at the
            beginning of each step. Autograd passes through either.

        Returns
        -------
        Tensor
            Shape ``(L + 1, *z0.shape)``.

        Raises
        ------
        InputError
            If there are not L layers of weights, or the field's values are not of z's shape.
        """
        of_layer = self._read(weights)
        found = [z0]
        for k in range(self.layers):
            found.append(self._layer(found[-1], of_layer(k), k * self.h))
        return torch.stack(found)

    def reverse(self, end: Tensor, weights: Tensor) -> Tensor:
        """States recovered from the last one by the same method with the step −h.

        For the flow this is exact. For the network it is not: a method's step back is not the
        inverse of its step forth.

        Parameters
        ----------
        end : Tensor
            What leaves the last layer.
        weights : Tensor
            Of shape ``(L, …)``.

        Returns
        -------
        Tensor
            Shape ``(L + 1, *end.shape)``, in the order of :meth:`states`.
        """
        of_layer = self._read(weights, tensor=True)
        found = [end]
        for k in reversed(range(self.layers)):
            w = of_layer(k)
            (z,) = self._walk(lambda y, _, w=w: (self._rate(y[0], w(0.0)),), (found[-1],), -self.h)
            found.append(z)
        return torch.stack(found[::-1])

    # -- backwards ---------------------------------------------------------------------------------

    def gradient(
        self, z0: Tensor, weights: Tensor, loss: Callable[[Tensor], Tensor]
    ) -> tuple[Tensor, Tensor]:
        r"""The gradient of the network's loss, exactly: discretise, then differentiate.

        For Euler's method :math:`a_k = a_{k+1} + h F_z(z_k, w_k)^\top a_{k+1}` and
        :math:`\partial L/\partial w_k = h F_w(z_k, w_k)^\top a_{k+1}`: backpropagation, with all
        states stored.

        Parameters
        ----------
        z0, weights
            As for :meth:`states`; weights of shape ``(L, …)``.
        loss : callable
            From the last state to one number.

        Returns
        -------
        Tensor, Tensor
            With respect to the weights, ``(L, …)``, and to z0.
        """
        of_layer = self._read(weights, tensor=True)
        z = self.states(z0, weights)
        a, found = grad(loss)(z[-1]), []
        for k in reversed(range(self.layers)):
            _, pull = vjp(lambda x, w: self._layer(x, lambda t: w, 0.0), z[k], of_layer(k)(0.0))
            a, g = pull(a)
            found.append(g)
        return torch.stack(found[::-1]), a

    def adjoint(
        self,
        z0: Tensor,
        weights: Tensor,
        loss: Callable[[Tensor], Tensor],
        *,
        stored: bool = True,
    ) -> tuple[Tensor, Tensor]:
        r"""The flow's gradient, discretised: differentiate, then discretise.

        The method with the step −h, from T to 0, for

        .. math:: \dot z = F, \qquad \dot a = -F_z^\top a, \qquad \dot g = -F_w^\top a .

        It approximates the gradient of the flow's loss, and is not the gradient of the network's.

        Parameters
        ----------
        z0, weights, loss
            As for :meth:`gradient`.
        stored : bool
            Whether each layer begins at its stored state :math:`z_{k+1}`. If not, z is followed
            back from the output alone, as in Chen et al. (2018): no memory, and unstable wherever
            the flow contracts.

        Returns
        -------
        Tensor, Tensor
            As :meth:`gradient`.

        References
        ----------
        Chen, Rubanova, Bettencourt and Duvenaud (2018); Gholami, Keutzer and Biros (2019).
        """
        of_layer = self._read(weights, tensor=True)
        states = self.states(z0, weights)
        z, a, found = states[-1], grad(loss)(states[-1]), []
        for k in reversed(range(self.layers)):
            w = of_layer(k)(0.0)

            def rates(y, _, w=w):
                value, pull = vjp(self._rate, y[0], w)
                back = pull(y[1])
                return value, -back[0], -back[1]

            start = states[k + 1] if stored else z
            z, a, g = self._walk(rates, (start, a, torch.zeros_like(w)), -self.h)
            found.append(g)
        return torch.stack(found[::-1]), a

    # -- what the layers follow --------------------------------------------------------------------

    def modified(self, order: int, steps: int = 4) -> ResidualFlow:
        r"""The flow that each layer follows, cut off after :math:`h^n`, to be compared with it.

        Within a layer the weights do not change, so the layer is one step of the method for an
        autonomous equation, whose modified field is a series in the layer's time h. For Euler's
        method :math:`\tilde F = F - \frac h2F_zF + \dots`, whether or not the weights are smooth
        in depth.

        Parameters
        ----------
        order : int
            n, the highest power of h; 0 for the field itself.
        steps : int
            Steps of RK4 by which a layer's flow is followed.

        Returns
        -------
        ResidualFlow
            To be given weights ``(L, …)``.
        """
        if self.steps != 1:
            raise InputError("modified is for one step a layer: write the layers out one by one.")
        series, h = modified_equation(self.method, order), self.h

        def field(z: Tensor, w: Tensor) -> Tensor:
            # torch's forward derivatives refuse an expanded state
            return series(lambda y: self._rate(y, w))(z.contiguous(), h)

        return ResidualFlow(field, self.layers, time=self.time, method="rk4", steps=steps)

    # -- one layer ---------------------------------------------------------------------------------

    def _read(self, weights: Weights, tensor: bool = False) -> Callable:
        """From k to the k-th layer's weights as a function of the time."""
        if isinstance(weights, Tensor):
            if weights.ndim == 0 or len(weights) != self.layers:
                shape = tuple(weights.shape)
                raise InputError(
                    f"{self.layers} layers need weights ({self.layers}, …), not {shape}."
                )
            return lambda k: lambda t: weights[k]
        if tensor or not callable(weights):
            raise InputError(
                f"weights must be a tensor ({self.layers}, …), one entry a layer"
                + ("." if tensor else ", or a function of the time in depth.")
            )
        return lambda k: weights

    def _rate(self, z: Tensor, w: Tensor) -> Tensor:
        value = self.field(z, w)
        if value.shape != z.shape:
            raise InputError(
                f"The field's value has the shape {tuple(value.shape)}, the state "
                f"{tuple(z.shape)}: a residual must be of the state's shape."
            )
        return value

    def _layer(self, z: Tensor, weights: Callable[[float], Tensor], t: float) -> Tensor:
        return self._walk(lambda y, s: (self._rate(y[0], weights(t + s)),), (z,), self.h)[0]

    def _walk(self, rates: Callable, y: tuple[Tensor, ...], time: float) -> tuple[Tensor, ...]:
        """``steps`` steps of the method for dy/dt = rates(y, time since the beginning)."""
        h = time / self.steps
        for n in range(self.steps):
            slopes: list[tuple[Tensor, ...]] = []
            for row in self.method.A:
                at = _moved(y, slopes, row, h)
                slopes.append(rates(at, (n + float(sum(row))) * h))
            y = _moved(y, slopes, self.method.b, h)
        return y

    def __repr__(self) -> str:
        return f"ResidualFlow({self.layers} layers, h={self.h:g}, {self.method.name})"


def _moved(y, slopes, weights, h):
    """y + h Σ weights·slopes, part by part; weights beyond the slopes known are zero."""
    pairs = [(float(w) * h, s) for w, s in zip(weights, slopes, strict=False) if w]
    return tuple(p + sum(c * s[i] for c, s in pairs) if pairs else p for i, p in enumerate(y))
