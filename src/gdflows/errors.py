"""The errors that gdflows raises. Each message names the culprit and the remedy."""


class GdflowsError(Exception):
    """Anything gdflows raises on purpose."""


class InputError(GdflowsError, ValueError):
    """An argument cannot be used: wrong shape, dtype, device, sign or name."""


class NonFiniteError(GdflowsError, ArithmeticError):
    """A loss or a derivative came out infinite or not a number."""


class SingularityError(NonFiniteError):
    """A function of the Hessian is infinite at one of its eigenvalues.

    Attributes
    ----------
    eigenvalue : float or complex
        Which.
    """

    def __init__(self, message, *, eigenvalue):
        super().__init__(message)
        self.eigenvalue = eigenvalue


class ConvergenceError(GdflowsError, RuntimeError):
    """An iteration did not reach its tolerance within its budget."""


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
    """

    def __init__(self, message, *, cause, time, norm, partial):
        super().__init__(message)
        self.cause, self.time, self.norm, self.partial = cause, time, norm, partial


class DataError(GdflowsError, RuntimeError):
    """A data set is missing, unknown, incomplete or corrupt."""


class InterruptedRunError(GdflowsError, RuntimeError):
    """A run could not go on, or not be written (no room, no memory); what it had saved is kept."""


class ProcessLostError(GdflowsError, RuntimeError):
    """Of several processes that work together, another one ended or did not answer in time."""


class EdgeWarning(UserWarning):
    """Training has crossed its optimiser's stability edge."""


class StoppedRun(KeyboardInterrupt):
    """A run was asked to stop, by Ctrl-C or SIGTERM; what it had saved is kept.

    Attributes
    ----------
    signal : int
        Which.
    """

    def __init__(self, message, signal):
        super().__init__(message)
        self.signal = signal
