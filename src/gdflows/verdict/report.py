"""What is said of the models of a run: a table, a picture, and a look at whether it is true."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from torch import Tensor

from gdflows.arguments import whole
from gdflows.errors import InputError
from gdflows.objective import Objective
from gdflows.verdict.measured import measure
from gdflows.verdict.models import NOISY, SOURCES
from gdflows.verdict.scaling import window
from gdflows.verdict.tightness import tightness


@dataclass(frozen=True, eq=False)
class Validity:
    """Which model of a run may be trusted, for how long, and why; from :func:`gdflows.validity`.

    Attributes
    ----------
    curves : pandas.DataFrame
        ``model``, ``step``, ``error``: the error that is foreseen after 1, 2, … steps.
    scaling : pandas.DataFrame or None
        With batches: a row for each batch size. ``linear`` and ``root``, the learning rates to
        which the linear and the square-root rule scale; ``noise``, tr Σ/‖g‖² there; ``used``,
        how much of mean-square stability is used up at least at the linear rate; ``apart``, how far
        the run at that rate is from the run in use after the steps that are foreseen, in the
        models' measure; ``same``, whether that is within ``tol`` and ``used`` below 1;
        ``dominates``, whether noise is at least 1.
    lr, momentum, batch_size, replacement, tol
        As given; ``batch_size`` is None where gradients are full.
    sharpness : ndarray
        hλ of the sharpest directions, descending.
    edge : float
        hλ at which the method without noise is marginal, 2(1 + β).
    used : float
        How much of mean-square stability is used up *at least*, the most along one of these:
        :math:`h\\,\\mathbb E\\lambda_B^2/\\lambda` over
        :math:`2(1-\\beta) + \\frac{2\\beta}{1+\\beta}h\\lambda`; above 1 the mean square grows.
        What a batch's Hessian does between directions uses up more. It is little for large
        batches, and most of it for small ones of many parameters.
    to_edge : float
        Steps until hλ is at the edge at the present pace of sharpening; 0 where it is beyond,
        infinite where it does not sharpen.
    reach : float
        Steps up to which anything is said.
    noise : float
        tr Σ/‖g‖², the noise of a batch's gradient over the gradient; 0 in full batch.
    noise_scale : float
        tr S/‖g‖², the batch size at which that is 1.
    cost : mapping
        Gradients, Hessian-vector products and third derivatives spent.

    Examples
    --------
    >>> import torch, gdflows as gf
    >>> E = gf.problems.quadratic([1.0, 3.0])
    >>> seen = gf.validity(E, torch.ones(2).double(), lr=0.5)
    >>> round(float(seen.sharpness[0]), 3), seen.edge  # hλ
    (1.5, 2.0)
    """

    rows: pd.DataFrame = field(repr=False)
    curves: pd.DataFrame = field(repr=False)
    scaling: pd.DataFrame | None = field(repr=False)
    lr: float
    momentum: float
    batch_size: int | None
    replacement: bool
    tol: float
    sharpness: np.ndarray
    edge: float
    used: float
    to_edge: float
    reach: float
    noise: float
    noise_scale: float
    cost: Mapping[str, int]
    objective: Objective = field(repr=False)
    theta: Tensor = field(repr=False)
    rank: int = field(repr=False)

    @property
    def situation(self) -> str:
        """``"full batch"``, ``"batches"`` or ``"batches, momentum"``, as in the recorded study."""
        kind = "full batch" if self.batch_size is None else "batches"
        return kind + (", momentum" if self.momentum else "")

    @property
    def table(self) -> pd.DataFrame:
        """A row for each model.

        Columns: ``first``, the error after one step; ``last``, that at the last step that is
        foreseen; ``from`` and ``until``, the steps between which it stays within ``tol`` (0 and 0:
        never); ``ends``, what it is that ends it; ``limit``, what the error is made of where it
        is largest; ``tightness``, the error measured over the error foreseen in the package's
        recorded study, in the same situation: median and, in brackets, first and last decile;
        ``source``.
        """
        seen = tightness(self.situation)
        out = self.rows.drop(columns="known")
        out["tightness"] = [seen.get(name, "not measured") for name in out.model]
        out["source"] = [SOURCES[name] for name in out.model]
        return out

    @property
    def verdict(self) -> str:
        """In some sentences."""
        x = float(self.sharpness[0])
        said = [self._regime(x)]
        good = self.rows[self.rows["from"] == 1]
        late = self.rows[self.rows["from"] > 1]
        if len(good):
            said.append(f"Within {self.tol:.0%} from the first step: " + _spans(good) + ".")
        if len(late):
            said.append("Within it later only: " + _spans(late) + ".")
        if not len(good) and not len(late):
            said.append(f"No model is within {self.tol:.0%} of the run in what is foreseen.")
        if self.reach < 1e6:
            what = "the curvature or the noise" if self.batch_size else "the curvature"
            said.append(f"Beyond some {max(1, int(self.reach)):,} steps {what} is another.")
        if self.scaling is not None:
            said.append(self._window())
        return " ".join(said)

    def _regime(self, x: float) -> str:
        if x >= self.edge:
            return (
                f"hλ = {x:.3g} is past the edge {self.edge:g}: the swing grows, and no flow of "
                "one point follows it for long."
            )
        if self.used >= 1:
            return (
                f"lr = {self.lr:g} is past the mean-square edge by a factor of {self.used:.3g}: "
                "the spread of the runs grows, and no equation of small h knows of it."
            )
        swings = (1 - self.momentum**0.5) ** 2  # 1 without momentum
        where = f"hλ = {x:.3g}, below the edge {self.edge:g}"
        if self.used > 0 and self.batch_size is not None:
            where += f" (at least {self.used:.0%} of mean-square stability used)"
        if 0 < self.to_edge < 1e4:
            where += f", which it meets in some {max(1, round(self.to_edge)):,} steps at this pace"
        if x > swings:
            return where + ": sharp directions swing, and the principal flow is complex."
        return where + ": nothing swings."

    def _window(self) -> str:
        same = window(self.scaling, "same", self.batch_size)
        noise = f"Noise over gradient is {self.noise:.3g}"
        loud = self.scaling.batch[self.scaling.dominates]
        most = f"; it dominates up to batches of {loud.max()}" if len(loud) else ""
        if not len(loud):
            most = ", which dominates at no batch size"
        if same is None:
            return f"{noise}{most}. No rate can be scaled from beyond mean-square stability."
        if same[0] == same[1]:
            return (
                f"{noise}{most}. Scaled linearly, batches of no other size than {same[0]} are the "
                f"same run within {self.tol:.0%}."
            )
        return (
            f"{noise}{most}. Scaled linearly, batches of {same[0]} to {same[1]} are the same run "
            f"within {self.tol:.0%}."
        )

    def __repr__(self) -> str:
        kind = "full batch" if self.batch_size is None else f"batches of {self.batch_size}"
        beta = f", momentum {self.momentum:g}" if self.momentum else ""
        shown = self.table.drop(columns="source").to_string(
            index=False, float_format="{:.2g}".format
        )
        work = ", ".join(f"{n:,} {k}" for k, n in self.cost.items() if n)
        return f"Validity(lr = {self.lr:g}, {kind}{beta}; {work})\n{self.verdict}\n{shown}"

    def _repr_html_(self) -> str:
        shown = self.table.to_html(index=False, float_format="{:.2g}".format, border=0)
        return f"<p>{self.verdict}</p>\n{shown}"

    def plot(self, ax=None):
        """The errors that are foreseen, step by step; returns matplotlib's axes."""
        import matplotlib.pyplot as plt

        from gdflows.plotting import COLOURS

        ax = ax if ax is not None else plt.figure().add_subplot()
        for name, own in self.curves.groupby("model", sort=False):
            shown = own[(own.error > 1e-6) & (own.error < 1e3)]
            style = "--" if name in NOISY else "-"
            ax.loglog(shown.step, shown.error, style, color=COLOURS[name], label=name)
        ax.axhline(self.tol, color="#777777", linestyle=":", linewidth=0.8)
        if self.reach < self.curves.step.max():
            ax.axvline(self.reach, color="#bbbbbb", linewidth=0.8)
        if 1 < self.to_edge < self.curves.step.max():
            ax.axvline(self.to_edge, color=COLOURS["edge"], linestyle="--", linewidth=0.8)
        ax.set(xlabel="step", ylabel="error / distance travelled")
        ax.legend(fontsize=8)
        return ax

    def measured(
        self,
        at: Sequence[int] | None = None,
        *,
        models: Sequence[str] | None = None,
        paths: int = 32,
        seed: int = 0,
    ) -> pd.DataFrame:
        """Follow the run and its models from here, and see whether what was foreseen came true.

        Parameters
        ----------
        at : sequence of int, optional
            After which steps to look, increasing; by default some up to the last one foreseen.
        models : sequence of str, optional
            By default all.
        paths : int
            With batches, runs of SGD and of each equation: an even number, in antithetic pairs.
        seed : int
            Of their noise, which SGD and equations share.

        Returns
        -------
        pandas.DataFrame
            A row for each model and step: ``model``, ``step``, ``foreseen``, ``error``, and
            ``failure``, why a model could not be followed.

        Notes
        -----
        SGD's noise is normal here, with the batches' own covariance at each point. Costs some
        ``paths`` · steps · 20 gradients with batches; in full batch a flow's own.
        """
        known = int(self.rows.known.max())
        last = max(1, known)
        at = _looks(last) if at is None else [whole(k, "Each of at") for k in at]
        if at != sorted(set(at)) or not at:
            raise InputError(f"at must increase, with one entry at least, got {at}.")
        names = list(self.rows.model) if models is None else list(models)
        if unknown := [name for name in names if name not in set(self.rows.model)]:
            raise InputError(f"No model {unknown[0]!r} here: {', '.join(self.rows.model)}.")
        if whole(paths, "paths", 2) % 2:
            raise InputError(f"paths must be even, for pairs of them, got {paths}.")
        found = measure(
            self.objective, self.theta, self.lr, names, at, batch_size=self.batch_size,
            replacement=self.replacement, momentum=self.momentum, rank=self.rank, paths=paths,
            seed=seed, sharpest=max(float(self.sharpness[0]), 0.0) / self.lr,
        )  # fmt: skip
        said = self.curves.set_index(["model", "step"]).error
        keys = pd.MultiIndex.from_frame(found[["model", "step"]])
        found.insert(2, "foreseen", said.reindex(keys).to_numpy())
        return found


def _looks(last: int) -> list[int]:
    """Some steps up to the last one, each about twice as late."""
    return sorted({*(2**i for i in range(last.bit_length()) if 2**i < last), last})


def _spans(rows: pd.DataFrame) -> str:
    parts = []
    for name, begin, end, why in zip(rows.model, rows["from"], rows.until, rows.ends, strict=True):
        more = " at least" if why == "not foreseen beyond" else ""
        parts.append(f"{name} {begin:,}–{end:,}{more}")
    return ", ".join(parts)
