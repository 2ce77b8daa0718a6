"""What an optimiser that needs curvature owes torch: groups, closures, state, copies."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.parameter import is_lazy

from gdflows.errors import InputError
from gdflows.optim import closures as watch
from gdflows.optim.closures import Closure
from gdflows.optim.products import Evaluation
from gdflows.optim.vectors import dot, norm

__all__ = ["Closure", "CurvatureOptimizer", "Evaluation", "check_range", "dot", "norm"]

PRODUCTS = ("auto", "exact", "difference")
USUAL = ("weight_decay", "momentum", "dampening", "nesterov", "betas", "eps", "maximize")


class CurvatureOptimizer(torch.optim.Optimizer):
    """A torch optimiser whose step takes a closure and may ask for Hessian-vector products.

    Parameters
    ----------
    params : iterable
        Parameters or parameter groups, in a real floating-point dtype of 32 bits or more.
    defaults : dict
        Of the parameter groups.
    hvp : {"auto", "exact", "difference"}
        ``"exact"``: differentiate the gradient; some two gradients on top of the step's own.
        ``"difference"``: a second gradient a little way along the vector; one gradient. It is
        good to a tenth of a percent where the network is smooth, and can be wrong by far where it
        has kinks (ReLU). ``"auto"``: exact, unless the network has no second derivative (a model
        under ``torch.compile``, some kernels) or a wrong one; then differences, with a warning.
    max_norm : float, optional
        Clip the gradient to this length, that of all parameters together, as
        ``torch.nn.utils.clip_grad_norm_`` would do before a step. Whatever the optimiser makes of
        the gradient (moments, a direction, a step) it makes of the clipped one; products are
        those of the loss itself.
    check : bool
        Try the first product: an exact one against a difference of gradients, one by differences
        against the same gradient computed again. It finds wrong second derivatives (of a
        ``torch.autograd.Function`` of one's own) and closures that are another function at each
        call, and costs one gradient once, up to three where there is doubt.

    Attributes
    ----------
    cost : dict
        ``gradients`` (evaluations of a gradient) and ``hvps`` (products of either kind) so far;
        ``checks``, gradients that went into the check.

    Notes
    -----
    **Closures** return the loss and do nothing else: no ``backward``, no clipping. Several, as a
    list, are microbatches: the loss is their mean. They may be called again on the same batch,
    with the same random numbers of torch's (dropout); the running statistics of batch
    normalisation are left alone then. After a step ``p.grad`` holds the gradient that was used.

    **Several processes.** Where a ``torch.distributed`` group exists products are averaged over
    it, like the gradients that ``DistributedDataParallel`` averages, so that all processes take
    the same decisions.

    **Copies and checkpoints.** ``copy.deepcopy``, ``pickle`` and ``torch.save`` take everything
    along, ``state_dict`` too. Settings that are not of the parameter groups are compared when a
    state is loaded.

    **In trainers.** Lightning: manual optimisation, with a closure for each step. It takes one
    closure; that one may return a list of closures, for microbatches::

        class Module(L.LightningModule):
            def __init__(self):
                super().__init__()
                self.automatic_optimization = False

            def training_step(self, batch, _):
                x, y = batch
                self.optimizers().step(lambda: loss_fn(self(x), y))

    transformers: :class:`gdflows.adapters.huggingface.ClosureTrainer` in place of ``Trainer``.
    accelerate: as without it, ``optimizer.step(closure)``, with
    ``gradient_accumulation_steps=1`` and microbatches as a list.

    Examples
    --------
    >>> from gdflows import optim
    >>> kinds = optim.DAL, optim.CDAT, optim.AdaEoS
    >>> all(issubclass(kind, optim.CurvatureOptimizer) for kind in kinds)
    True
    """

    def __init__(
        self,
        params,
        defaults: dict,
        *,
        hvp: str = "auto",
        max_norm: float | None = None,
        check: bool = True,
    ):
        if hvp not in PRODUCTS:
            raise InputError(f"hvp must be one of {', '.join(PRODUCTS)}, got {hvp!r}.")
        if max_norm is not None:
            check_range("max_norm", max_norm, 0, math.inf)
        super().__init__(params, defaults)
        self.hvp = self._asked = hvp
        self.max_norm, self.check = max_norm, check
        self._twice = self._looked = self._evaluating = False
        self._others: list = []  # parameters that a closure's loss has besides
        self._checked: list[str] = []
        self.cost: Counter[str] = Counter(gradients=0, hvps=0)

    def add_param_group(self, param_group: dict) -> None:
        """Add parameters; their averages begin at their first step.

        Raises
        ------
        InputError
            For dtypes that cannot be used, and for settings that are not of a group.
        """
        name = type(self).__name__
        params = param_group["params"]
        param_group["params"] = params = [params] if isinstance(params, Tensor) else list(params)
        for p in (p[1] if isinstance(p, tuple) else p for p in params):
            if not isinstance(p, Tensor):
                continue  # torch says so
            if is_lazy(p):
                raise InputError(
                    f"{name} was given a parameter without a shape (of a lazy module): run the "
                    "model once before the optimiser is made."
                )
            if p.is_complex() or not p.is_floating_point() or torch.finfo(p.dtype).bits < 32:
                raise InputError(
                    f"{name} needs parameters in float32 or float64, got {p.dtype}: "
                    "curvature drowns in coarser rounding. Keep the parameters in float32 and use "
                    "torch.autocast for the model."
                )
        own = set(type(self).__init__.__annotations__) | set(USUAL)
        alien = sorted((own - {"params"} - set(self.defaults)) & set(param_group))
        if alien:
            raise InputError(
                f"A parameter group has {alien[0]}, which {name} does not have for each group: "
                "groups may differ in " + ", ".join(k for k in self.defaults if k != "params")
                + "."
            )  # fmt: skip
        for key in ("lr", "weight_decay"):
            if key in param_group:
                check_range(f"a group's {key}", float(param_group[key]), 0, math.inf, closed=True)
        super().add_param_group(param_group)

    def zero_grad(self, set_to_none: bool = True) -> None:
        """As torch's. Inside a closure it does nothing: a step makes its gradients anew."""
        if not self._evaluating:
            super().zero_grad(set_to_none)

    def _parameters(self) -> list[Tensor]:
        return [p for group in self.param_groups for p in group["params"]]

    def _groups_of(self, parameters: Sequence[Tensor]) -> list[dict]:
        groups = {id(p): group for group in self.param_groups for p in group["params"]}
        return [groups[id(p)] for p in parameters]

    def _factors(self, parameters: Sequence[Tensor]) -> tuple[list[float], float]:
        """The groups' ``lr`` relative to the largest, for each parameter, and the largest.

        What decides on a common rate sees the relative ones only: what a scheduler takes from all
        groups must not come back as a larger rate.
        """
        top = max(float(group["lr"]) for group in self.param_groups) or 1.0
        return [float(group["lr"]) / top for group in self._groups_of(parameters)], top

    def _evaluate(self, closure: Closure | Sequence[Closure] | None, products: bool) -> Evaluation:
        """Loss and gradients at the present parameters; the gradients are in ``p.grad`` too."""
        name = type(self).__name__
        if torch.is_inference_mode_enabled():
            raise InputError("There are no gradients in torch.inference_mode: step outside of it.")
        closures = watch.as_list(name, closure)
        watch.refuse_skipped(name)
        return Evaluation(self, closures, products)

    # -- the linearised step, for gdflows.optim.stability_edge and preconditioner ----------------

    def _edges(self) -> list[float]:
        """The values of hλ at which the step is marginal, one for each group."""
        raise NotImplementedError

    def _rates(self, p: Tensor, group: dict) -> Tensor | float | None:
        """What multiplies a parameter's gradient, entry by entry; None before a first step."""
        raise NotImplementedError

    # -- the state beyond torch's ----------------------------------------------------------------

    def _settings(self) -> dict:
        """What the mathematics depends on, apart from groups: plain values by name."""
        fixed = {k: self.defaults[k] for k in self.defaults if k in USUAL}
        return fixed | {"hvp": self._asked, "max_norm": self.max_norm}

    def _extra(self) -> dict:
        """What a resumed run needs besides moments and groups: plain numbers."""
        return {}

    def _set_extra(self, extra: dict) -> None:
        """Take it back."""

    def state_dict(self) -> dict:
        """Everything that the next step depends on, but for the parameters and the data."""
        common = {
            "cost": dict(self.cost),
            "settings": {"optimizer": type(self).__name__} | self._settings(),
            "products": {"hvp": self.hvp, "_twice": self._twice, "_checked": list(self._checked)},
        }
        return super().state_dict() | {"extra": self._extra() | common}

    def load_state_dict(self, state_dict: dict) -> None:
        """Go on from :meth:`state_dict`, to the same bits.

        Raises
        ------
        InputError
            If the state is that of an optimiser with other settings. Learning rates and decay are
            the groups', and are taken from the state, as torch does it.
        """
        name = type(self).__name__
        if "extra" not in state_dict:
            raise InputError(
                f"This is no state of {name}: it lacks what {name}.state_dict adds to torch's."
            )
        extra = dict(state_dict["extra"])
        self._compare(extra.pop("settings", None))
        super().load_state_dict(state_dict)
        self.cost = Counter(extra.pop("cost", {}))
        for key, value in extra.pop("products", {}).items():
            setattr(self, key, list(value) if isinstance(value, list) else value)
        self._set_extra(extra)

    def _compare(self, theirs: dict | None) -> None:
        if theirs is None:
            warnings.warn(
                "The state was written before settings were part of it. Make sure that they are "
                "the same as then.",
                stacklevel=3,
            )
            return
        mine = {"optimizer": type(self).__name__} | self._settings()
        names = ["optimizer"] if theirs["optimizer"] != mine["optimizer"] else sorted(mine)
        off = [
            f"{k} is {theirs.get(k)!r} there, {mine[k]!r} here"
            for k in names
            if _plain(theirs.get(k)) != _plain(mine[k])
        ]
        if off:
            raise InputError(
                f"The state is that of an optimiser with other settings: {'; '.join(off)}. Make "
                "this one with the same, or start anew."
            )

    def __getstate__(self) -> dict:
        """Everything, where torch keeps groups and moments only; hooks and patches stay behind."""
        left_out = ("step", "_others")
        kept = {
            k: v for k, v in vars(self).items() if k not in left_out and not k.endswith("_hooks")
        }
        return kept | {"_left": [watch.left(p) for p in self._parameters()]}

    def __setstate__(self, state: dict) -> None:
        state = dict(state)
        own = state.pop("_left", [])
        self.__dict__.setdefault("_others", [])
        super().__setstate__(state)
        watch.leave([p for p, ours in zip(self._parameters(), own, strict=False) if ours])


def check_range(name: str, value: float, low: float, high: float, *, closed: bool = False) -> None:
    """Raise InputError unless low < value < high; with ``closed``, low ≤ value ≤ high."""
    inside = low <= value <= high if closed else low < value < high
    if not inside:
        brackets = "[]" if closed else "()"
        raise InputError(
            f"{name} must be in {brackets[0]}{low:g}, {high:g}{brackets[1]}, got {value}."
        )


def _plain(value):
    return tuple(value) if isinstance(value, (list, tuple)) else value
