"""What each flow predicted of gradient descent, and tables of it by phase of the training."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

from gdflows.errors import InputError

PHASES = ("before", "quiet", "after")
SHARE = 0.1  # of the centre's velocity that an oscillation must change to have broken out
ERRORS = ("centre_error", "iterates_error", "loss_error", "sharpness_error")


@dataclass(frozen=True)
class Leaderboard:
    """What each flow predicted, step by step, and a table of it by phase.

    Attributes
    ----------
    paths : pandas.DataFrame
        A row for each seed, model and step looked at; see :func:`gdflows.leaderboard`. Gradient
        descent itself is model "GD".

    Examples
    --------
    >>> import pandas as pd
    >>> from gdflows.experiments.leaderboard import Leaderboard
    >>> Leaderboard(pd.DataFrame({"seed": [0], "model": ["GD"], "step": [0]})).paths.model.tolist()
    ['GD']
    """

    paths: pd.DataFrame

    @property
    def table(self) -> pd.DataFrame:
        """By model and phase.

        Columns: ``times``, how many were compared; the medians over times and seeds of
        ``centre``, ``iterates``, ``loss`` and ``sharpness`` errors; ``worst``, the centre's
        largest; ``better``, the share of times at which its centre's error is at most half of
        the least among all other models; ``outbreak``, the median of how many steps too late it
        saw the oscillation break out (negative: too early), and ``missed``, the share of seeds
        whose outbreak it did not see. A path that ended early counts as an infinite error from
        there on.
        """
        seen, rows = self.paths, []
        truth = seen[seen.model == "GD"].set_index(["seed", "step"])
        names = [name for name in dict.fromkeys(seen.model) if name != "GD"]
        errors = {}
        for name in names:
            own = seen[seen.model == name].set_index(["seed", "step"])
            errors[name] = own.reindex(truth.index)
        centres = pd.DataFrame({n: e.centre_error.fillna(math.inf) for n, e in errors.items()})
        late = self._outbreaks()
        for name in names:
            others = centres.drop(columns=name).min(axis=1) if len(names) > 1 else math.inf
            better = (centres[name] <= others / 2) & (centres[name] < math.inf)
            for phase in PHASES:
                at = truth.phase == phase
                if not at.any():
                    continue
                part = errors[name][at].fillna({c: math.inf for c in ERRORS})
                found = {"model": name, "phase": phase, "times": int(at.sum())}
                found |= {c.removesuffix("_error"): part[c].abs().median() for c in ERRORS}
                found |= {"worst": part.centre_error.max(), "better": float(better[at].mean())}
                if phase == "after":
                    delays = late[late.model == name].delay
                    found |= {"outbreak": delays.median(), "missed": float(delays.isna().mean())}
                rows.append(found)
        return pd.DataFrame(rows)

    def against(self, model: str, rivals: Sequence[str] | None = None) -> pd.DataFrame:
        """One model's centre against the best of its rivals, by phase and seed.

        Parameters
        ----------
        model : str
            Its name.
        rivals : sequence of str, optional
            Names; by default all models whose names do not begin like this one's kind (what
            comes before an order and ``+``).

        Returns
        -------
        pandas.DataFrame
            A row for each seed and phase: ``times``, the model's median error of the centre
            ``own``, the ``rival`` whose median is least and that ``best`` median, and their
            ``ratio`` (NaN where both lost the path).
        """
        names = [name for name in dict.fromkeys(self.paths.model) if name != "GD"]
        kind = model.split("+")[0].strip().rstrip("0123456789").strip()
        if rivals is None:
            rivals = [name for name in names if not name.startswith(kind)]
        if missing := {model, *rivals} - set(names):
            raise InputError(f"No model {sorted(missing)[0]!r} in this table of {names}.")
        if not rivals:
            raise InputError(f"{model!r} has no rival in this table of {names}.")
        rows = []
        for seed, group in self.paths.groupby("seed"):
            truth = group[group.model == "GD"].set_index("step").phase
            for phase in PHASES:
                at = truth.index[truth == phase]
                if not len(at):
                    continue
                medians = {}
                for name in (model, *rivals):
                    own = group[group.model == name].set_index("step").centre_error
                    medians[name] = own.reindex(at).fillna(math.inf).median()
                best = min(rivals, key=medians.get)
                lost = medians[model] == medians[best] == math.inf
                ratio = math.nan if lost else medians[model] / medians[best]
                found = {"seed": seed, "phase": phase, "times": len(at), "own": medians[model]}
                rows.append(found | {"rival": best, "best": medians[best], "ratio": ratio})
        return pd.DataFrame(rows)

    def _outbreaks(self) -> pd.DataFrame:
        """How late each model saw each outbreak, in steps; NaN where it did not."""
        rows = []
        for seed, group in self.paths.groupby("seed"):
            truth = group[group.model == "GD"]
            after = truth[truth.phase == "after"]
            if after.empty:
                continue
            crossed = truth[truth.phase != "before"].step.min()
            # The push grows with the square of the oscillation: where was it at the threshold?
            first = after.iloc[0]
            level, when = first.oscillation * math.sqrt(SHARE / first.push), int(first.step)
            for name, own in group[group.model != "GD"].groupby("model"):
                high = own[(own.step >= crossed) & (own.oscillation >= level)].step
                rows.append(
                    {
                        "seed": seed,
                        "model": name,
                        "delay": float(high.min()) - when if len(high) else math.nan,
                    }
                )
        return pd.DataFrame(rows, columns=["seed", "model", "delay"])

    def plot(self, figure, seed: int | None = None) -> None:
        """Draw one seed's errors of the centre and its oscillation on a matplotlib figure."""
        from gdflows.plotting import COLOURS, against_edge

        seen = self.paths[self.paths.seed == (self.paths.seed.iloc[0] if seed is None else seed)]
        top, middle, below = figure.subplots(3, 1, sharex=True)
        truth = seen[seen.model == "GD"]
        against_edge(top, truth.step, truth.x / 2)
        top.set_ylabel("sharpness / edge")
        middle.semilogy(truth.step, truth.oscillation, color=COLOURS["GD"], label="GD")
        for name, own in seen[seen.model != "GD"].groupby("model", sort=False):
            colour = COLOURS.get(name)
            swings = own[own.oscillation > 0]
            middle.semilogy(swings.step, swings.oscillation, color=colour)
            below.semilogy(own.step, own.centre_error, color=colour, label=name)
        middle.set(ylabel="oscillation", ylim=(1e-18, None))
        below.set(ylabel="error of the centre", xlabel="step")
        below.legend(fontsize=7, ncols=3)
