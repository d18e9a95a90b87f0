"""How the cost of sampling grows with rollouts, batch and length.

A batch is prefilled once and then decoded a token at a time. Every token costs a call of the model, whatever its batch,
and work for each of its rows; attention and the copy that lengthens the cache grow with what is there already. So

    seconds = batches (s + a T) + rollouts (p + b T + c T^2)

with T tokens a completion. All completions get exactly T tokens, so that nothing but these three numbers varies.
"""

import contextlib
import io
import time
from dataclasses import dataclass
from itertools import product
from math import ceil

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from tqdm.auto import tqdm

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.sources import load_problems
from s2d_lib.report.style import PALETTE
from s2d_lib.sampling import sample
from s2d_lib.study import resolve

PROFILE, SEED = "micro", 0
POOL = "student.grpo"  # the checkpoint whose label pool is asked
SAMPLES = 16  # rollouts of a problem, as in evaluation
UNITS = {
    "s": "ms a batch",
    "a": "ms a batch and token",
    "p": "us a rollout",
    "b": "us a rollout and token",
    "c": "ns a rollout and squared token",
}
"""Coefficient -> its unit in a fit's table."""

SECONDS = {"ms": 1e-3, "us": 1e-6, "ns": 1e-9}


@dataclass(frozen=True)
class Grid:
    """What is sampled: every combination, but for batches larger than the number of rollouts.

    Attributes:
        rollouts: How many in all; multiples of SAMPLES.
        batches: Rollouts at a time.
        tokens: Of every completion.
        rounds: Times that each combination is timed; the median counts.
    """

    rollouts: tuple[int, ...] = (256, 1600)
    batches: tuple[int, ...] = (64, 256, 1600)
    tokens: tuple[int, ...] = (4, 8, 16, 32)
    rounds: int = 3

    def points(self) -> list[tuple[int, int, int, bool]]:
        """(rollouts, batch, tokens, whether held out of the fit); every third point is held out, never the extremes."""
        kept = [p for p in product(self.rollouts, self.batches, self.tokens) if p[1] <= p[0]]
        inner = [p for p in kept if min(self.tokens) < p[2] < max(self.tokens)]
        held_out = set(inner[::3])
        return [(*p, p in held_out) for p in kept]


@dataclass(frozen=True)
class Fit:
    """The law fitted to one policy's timings.

    Attributes:
        coefficients: By name (see UNITS), in seconds.
        r2: Share of the seconds' variance that the law explains, over the points it was fitted to.
        r2_held_out: Over the points it has not seen.
    """

    coefficients: dict[str, float]
    r2: float
    r2_held_out: float

    def seconds(self, rollouts, batch, tokens) -> np.ndarray:
        """What the law says of sampling so many rollouts, so many at a time, so long; numbers or arrays."""
        return _terms(rollouts, batch, tokens) @ np.array(list(self.coefficients.values()))

    def table(self) -> pd.DataFrame:
        """The coefficients in units that a person can read."""
        rows = [(name, value / SECONDS[UNITS[name][:2]], UNITS[name]) for name, value in self.coefficients.items()]
        return pd.DataFrame(rows, columns=["coefficient", "value", "unit"])


def _terms(rollouts, batch, tokens) -> np.ndarray:
    """What the coefficients multiply, in their order; (points, 5)."""
    rollouts, batch, tokens = np.broadcast_arrays(*(np.asarray(x, float) for x in (rollouts, batch, tokens)))
    batches = np.ceil(rollouts / batch)
    return np.stack([batches, batches * tokens, rollouts, rollouts * tokens, rollouts * tokens**2], axis=-1)


def fit_law(timings: pd.DataFrame) -> Fit:
    """Fit the law by least squares on relative errors, as the clock's noise is relative; no coefficient is negative.

    Args:
        timings: Columns rollouts, batch, tokens, seconds, held_out.
    """
    terms = _terms(timings["rollouts"], timings["batch"], timings["tokens"])
    seconds, seen = timings["seconds"].to_numpy(), ~timings["held_out"].to_numpy()
    values = _non_negative(terms[seen] / seconds[seen, None], np.ones(seen.sum()))
    predicted = terms @ values
    return Fit(
        dict(zip(UNITS, values.tolist(), strict=True)),
        r_squared(seconds[seen], predicted[seen]),
        r_squared(seconds[~seen], predicted[~seen]),
    )


def _non_negative(terms: np.ndarray, target: np.ndarray) -> np.ndarray:
    """Least squares with all coefficients at least 0: the best of all choices of which ones are 0."""
    best, error = np.zeros(terms.shape[1]), np.inf
    for chosen in product([False, True], repeat=terms.shape[1]):
        values = np.zeros(terms.shape[1])
        values[list(chosen)] = np.linalg.lstsq(terms[:, list(chosen)], target, rcond=None)[0]
        if (values >= 0).all() and (new := np.sum((terms @ values - target) ** 2)) < error:
            best, error = values, new
    return best


def r_squared(measured: np.ndarray, predicted: np.ndarray) -> float:
    """1 - sum of squared errors / sum of squared deviations from the mean."""
    return float(1 - np.sum((measured - predicted) ** 2) / np.sum((measured - np.mean(measured)) ** 2))


def endless(role: str) -> Policy:
    """A released policy whose completions never end by themselves: the model has no logit for its end token."""
    base = resolve(PROFILE, role, SEED)
    policy = load_policy(base.model, base.hardware)
    policy.tokenizer.add_special_tokens({"eos_token": "<never>"})
    if policy.tokenizer.eos_token_id < policy.model.config.vocab_size:
        raise StudyError(f"{base.model.model} has a logit for <never>: its completions would have uneven lengths.")
    return policy


def sampling_seconds(role: str, grid: Grid) -> pd.DataFrame:
    """Time `sample` on the grid.

    Returns:
        One row a point: policy, rollouts, batch, tokens, held_out, seconds (median over the rounds).
    """
    policy, resolved = endless(role), resolve(PROFILE, POOL, SEED)
    pool = load_problems(resolved.problems).pool

    def seconds(rollouts: int, batch: int, tokens: int) -> float:
        sampling = resolved.sampling.model_copy(update={"batch": batch, "max_new_tokens": tokens})
        began = time.perf_counter()
        with contextlib.redirect_stderr(io.StringIO()):  # a progress bar a call
            out = sample(policy, pool[: ceil(rollouts / SAMPLES)], samples=SAMPLES, sampling=sampling, seed=SEED)
        taken = time.perf_counter() - began
        if len(out) != rollouts or any(len(r.ids) != tokens for r in out):
            raise StudyError(f"{role}: asked for {rollouts} completions of {tokens} tokens and got others.")
        return taken

    points = grid.points()
    seconds(*points[0][:3])  # a first call imports and allocates
    times = [
        [seconds(*point[:3]) for point in points]
        for _ in tqdm(range(grid.rounds), desc=f"sampling, {role}", unit="round", leave=False)
    ]
    table = pd.DataFrame(points, columns=["rollouts", "batch", "tokens", "held_out"])
    table.insert(0, "policy", role)
    return table.assign(seconds=np.median(times, axis=0))


def sampling_cost(
    roles: tuple[str, ...] = ("student", "teacher"), grid: Grid | None = None
) -> tuple[pd.DataFrame, dict[str, Fit]]:
    """Time sampling from the released micro policies and fit the law to each: under a minute.

    Returns:
        The timings of `sampling_seconds` with what the law says beside them (`predicted`), and the fits by role.
    """
    parts, fits = [], {}
    for role in roles:
        timings = sampling_seconds(role, grid or Grid())
        fits[role] = fit_law(timings)
        predicted = fits[role].seconds(timings["rollouts"], timings["batch"], timings["tokens"])
        parts.append(timings.assign(predicted=predicted))
    return pd.concat(parts, ignore_index=True), fits


def sampling_plot(timings: pd.DataFrame, fits: dict[str, Fit]) -> Figure:
    """Seconds for the most rollouts of the grid by tokens a completion: measured (hollow: held out) and the law."""
    most = timings["rollouts"].max()
    fig, panels = plt.subplots(1, len(fits), figsize=(3.6 * len(fits), 3.2), sharey=True, squeeze=False)
    for axes, (role, fit) in zip(panels[0], fits.items(), strict=True):
        part = timings[(timings["policy"] == role) & (timings["rollouts"] == most)]
        tokens = np.linspace(part["tokens"].min(), part["tokens"].max(), 50)
        for (batch, rows), color, marker in zip(part.groupby("batch"), PALETTE, "osD^vP", strict=False):
            axes.plot(tokens, fit.seconds(most, batch, tokens), color=color, linewidth=1.2)
            fill = [("white" if held_out else color) for held_out in rows["held_out"]]
            axes.scatter(
                rows["tokens"], rows["seconds"], c=fill, edgecolors=color, marker=marker, zorder=3, label=batch
            )
        axes.set(title=f"{role}: held-out R² {fit.r2_held_out:.3f}", xlabel="tokens a completion")
    panels[0, 0].set_ylabel(f"seconds for {most} rollouts")
    panels[0, 0].set_ylim(bottom=0)
    panels[0, 0].legend(title="batch")
    return fig
