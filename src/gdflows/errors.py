"""The errors that gdflows raises. Each message names the culprit and the remedy."""

import sys
import warnings
from pathlib import Path

__all__ = [
    "ConvergenceError",
    "DataError",
    "EdgeWarning",
    "GdflowsError",
    "InputError",
    "IntegrationError",
    "InterruptedRunError",
    "NonFiniteError",
    "ProcessLostError",
    "SingularityError",
    "StoppedRun",
]


class GdflowsError(Exception):
    """Anything gdflows raises on purpose.

    Examples
    --------
    >>> from gdflows import errors
    >>> issubclass(errors.InputError, errors.GdflowsError)
    True
    """


class InputError(GdflowsError, ValueError):
    """An argument cannot be used: wrong shape, dtype, device, sign or name.

    Examples
    --------
    >>> import gdflows as gf
    >>> try:
    ...     gf.flows.IGR(gf.problems.quadratic([1.0]), lr=-0.1)
    ... except gf.errors.InputError as error:
    ...     print(error)
    The learning rate lr must be positive and finite, got -0.1.
    """


class NonFiniteError(GdflowsError, ArithmeticError):
    """A loss or a derivative came out infinite or not a number.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> try:
    ...     gf.Objective(lambda v: torch.log(v).sum(), 1).at(torch.zeros(1)).value
    ... except gf.errors.NonFiniteError as error:
    ...     print(type(error).__name__)
    NonFiniteError
    """


class SingularityError(NonFiniteError):
    """A function of the Hessian is infinite at one of its eigenvalues.

    Attributes
    ----------
    eigenvalue : float or complex
        Which.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E, v = gf.problems.quadratic([1.0]), torch.ones(1).double()
    >>> try:
    ...     gf.flows.PrincipalFlow(E, lr=1.0).vector_field(v)  # log(1 − hλ) at hλ = 1
    ... except gf.errors.SingularityError as error:
    ...     print(round(float(error.eigenvalue), 6))
    1.0
    """

    def __init__(self, message, *, eigenvalue):
        super().__init__(message)
        self.eigenvalue = eigenvalue


class ConvergenceError(GdflowsError, RuntimeError):
    """An iteration did not reach its tolerance within its budget.

    Examples
    --------
    >>> import numpy as np, torch, gdflows as gf
    >>> E = gf.problems.quadratic(np.linspace(0.1, 9, 50).tolist())
    >>> v = torch.ones(50).double()
    >>> try:
    ...     gf.curvature.apply_function(E, v, np.sqrt, v, max_hvps=3, method="krylov")
    ... except gf.errors.ConvergenceError as error:
    ...     print(type(error).__name__)
    ConvergenceError
    """


class IntegrationError(GdflowsError, RuntimeError):
    """A flow or an optimiser could not be followed to the time asked for.

    Attributes
    ----------
    cause : str
        ``"blow-up"``, ``"non-finite"``, ``"stiffness"``, ``"budget"``, or ``"obstacle"``: the
        flow itself has no way on.
    time : float
        Flow time (or step times learning rate) of the last good state.
    norm : float
        Euclidean norm of the last good state.
    partial : Trajectory
        Everything computed up to there, so that nothing is lost.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.Objective(lambda v: -(v**4).sum(), 1)  # the flow is infinite at t = 1/8
    >>> try:
    ...     gf.integrate(gf.flows.NGF(E), torch.ones(1).double(), t=1.0)
    ... except gf.errors.IntegrationError as error:
    ...     print(round(error.time, 3), error.partial.states.shape[1])
    0.125 1
    """

    def __init__(self, message, *, cause, time, norm, partial):
        super().__init__(message)
        self.cause, self.time, self.norm, self.partial = cause, time, norm, partial


class DataError(GdflowsError, RuntimeError):
    """A data set is missing, unknown, incomplete or corrupt.

    Examples
    --------
    >>> import gdflows as gf
    >>> try:
    ...     gf.problems.text("a poem")
    ... except gf.errors.DataError as error:
    ...     print(error)
    There is no text 'a poem'. There are: tinyshakespeare, numerals.
    """


class InterruptedRunError(GdflowsError, RuntimeError):
    """A run could not go on, or not be written (no room, no memory); what it had saved is kept.

    Examples
    --------
    >>> from gdflows import errors
    >>> issubclass(errors.InterruptedRunError, errors.GdflowsError)
    True
    """


class ProcessLostError(GdflowsError, RuntimeError):
    """Of several processes that work together, another one ended or did not answer in time.

    Examples
    --------
    >>> from gdflows import errors
    >>> issubclass(errors.ProcessLostError, errors.GdflowsError)
    True
    """


class EdgeWarning(UserWarning):
    """Training has crossed its optimiser's stability edge, or is beyond it at the first look.

    Examples
    --------
    >>> import warnings
    >>> from gdflows.errors import EdgeWarning
    >>> with warnings.catch_warnings():
    ...     warnings.simplefilter("error", EdgeWarning)  # stop a training that crosses the edge
    """


class StoppedRun(KeyboardInterrupt):
    """A run was asked to stop, by Ctrl-C or SIGTERM; what it had saved is kept.

    Attributes
    ----------
    signal : int
        Which.

    Examples
    --------
    >>> from gdflows import errors
    >>> errors.StoppedRun("stopped", 2).signal
    2
    """

    def __init__(self, message, signal):
        super().__init__(message)
        self.signal = signal


def warn(message: str, category: type[Warning] = UserWarning) -> None:
    """Warn, as from the first line on the way up that is neither gdflows' nor torch's."""
    own = tuple(str(Path(p).parent) for p in (__file__, sys.modules["torch"].__file__))
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(own):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, category, stacklevel=level)
