"""The label frontier as tables: accuracy against labeled problems, and how many of them direct GRPO needs."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.claims.fair import check_evaluation, check_lineage, check_settings
from s2d_lib.claims.frontier import Crossings, Curves, Match, crossings, curves_of, labels_to_match
from s2d_lib.errors import StudyError
from s2d_lib.report.run_pages import link
from s2d_lib.report.style import route_label
from s2d_lib.report.tables import write_forms
from s2d_lib.results.bundle import Bundle
from s2d_lib.results.cost import route_cost
from s2d_lib.study.page import Study
from s2d_lib.study.problem_sets import AT
from s2d_lib.study.profile import Profile

NOTE = (
    "Accuracy and paired differences with 95% intervals over seeds and problems. `Problems` are those of the route's pool, "
    "`labels` the distinct ones that were graded against on the way. `Labels to match` is the number with which direct GRPO "
    "is as accurate, linear in log2 labels on its curve made monotone (isotonic regression); beyond the budgets it is only "
    "known to be above or below them. Every stage passes over a budget's problems as often as over the whole pool, so "
    "fewer labels are also fewer steps. The budgets are nested and drawn once: no interval holds what another draw of "
    "problems would change."
)


@dataclass(frozen=True)
class Frontier:
    """Results of the frontier's routes.

    Attributes:
        title: The question.
        direct: The route that the others are compared with.
        routes: All of them, in order.
        problems: Numbers of problems, increasing; the last is the whole pool.
        seeds: With which every point was run.
        labels: Route -> distinct labeled problems used at every point, means over seeds.
        curves: Evaluation set -> accuracies with their joint bootstrap.
    """

    title: str
    direct: str
    routes: list[str]
    problems: list[int]
    seeds: list[int]
    labels: dict[str, list[float]]
    curves: dict[str, Curves]

    @property
    def others(self) -> list[str]:
        """The routes that direct GRPO has to match."""
        return [route for route in self.routes if route != self.direct]


def direct_route(study: Study) -> str:
    """The frontier's route that gives labels to the student directly: sparse RL from a base model.

    Raises:
        StudyError: When it has none, or several.
    """
    routes = study.frontier.routes if study.frontier else []
    node = study.checkpoints
    direct = [name for name in routes if node[name].stage == "sparse_rl" and node[node[name].from_].stage == "base"]
    if len(direct) != 1:
        raise StudyError(
            f"study.yaml: the frontier needs exactly one route of sparse RL from a base model to compare with, it has "
            f"{', '.join(direct) or 'none'}: change `frontier.routes`."
        )
    return direct[0]


def frontier_results(bundle: Bundle, study: Study, settings: Profile, profile: str) -> Frontier:
    """What the results say of the frontier's routes at every budget.

    Raises:
        StudyError: When the profile has no frontier, a run is missing or was evaluated on other problems than the others.
    """
    if settings.frontier is None:
        raise StudyError(f"profile {profile!r} has no label frontier: add `frontier: {{budgets, seeds}}` to its file.")
    direct, routes, seeds = direct_route(study), study.frontier.routes, sorted(settings.frontier.seeds)
    remedy = f"make it with `make study PROFILE={profile}`."
    names = {route: [*(f"{route}{AT}{n}" for n in sorted(settings.frontier.budgets)), route] for route in routes}
    for name, seed in ((name, seed) for points in names.values() for name in points for seed in seeds):
        if (name, seed) not in bundle.records:
            raise StudyError(f"the label frontier lacks the run {name!r}, seed {seed}: {remedy}")
    for name in (name for points in names.values() for name in points):
        check_evaluation(bundle, direct, name)
        check_settings(bundle, name)
        check_lineage(bundle, name)
    used = lambda name: float(np.mean([route_cost(bundle, name, seed)["labels"] for seed in seeds]))  # noqa: E731
    labels = {route: [used(name) for name in points] for route, points in names.items()}
    curves = {}
    # The whole pool is as large as what direct GRPO used of it, also where a filter took problems out.
    problems = [*sorted(settings.frontier.budgets), round(labels[direct][-1])]
    for evaluation in bundle.sets:
        first = bundle.accuracy(direct, evaluation).columns
        accuracies = {}
        for route, points in names.items():
            tables = [bundle.accuracy(name, evaluation).reindex(index=seeds) for name in points]
            for name, table in zip(points, tables, strict=True):
                if set(table.columns) != set(first) or table.isna().any(axis=None):
                    raise StudyError(
                        f"the run {name!r} lacks seeds or problems of {direct!r} on {evaluation!r}: remove its folder and "
                        f"{remedy}"
                    )
            accuracies[route] = np.stack([table[first].to_numpy() for table in tables])
        curves[evaluation] = curves_of(np.array(problems), accuracies)
    return Frontier(study.frontier.title, direct, routes, problems, seeds, labels, curves)


def frontier_table(frontier: Frontier) -> pd.DataFrame:
    """All numbers, one row a set, route and number of problems.

    Returns:
        `set`, `route`, `problems`, `labels`, `seeds`; `accuracy`, `low`, `high` (shares); `difference` to direct GRPO with
        as many problems, with `low` and `high`; `labels to match` with `low` and `high` (0: fewer than the smallest
        budget; inf: more than the largest), and the `ratio` of it to `problems`, likewise, where the route used labels.
        Direct GRPO has none of these.
    """
    rows = []
    for name, curves in frontier.curves.items():
        for route in frontier.routes:
            other = route != frontier.direct
            matches = labels_to_match(curves, frontier.direct, route) if other else [None] * len(frontier.problems)
            gaps = curves.estimates(route, frontier.direct) if other else [None] * len(frontier.problems)
            own = curves.estimates(route)
            for problems, used, at, gap, match in zip(
                frontier.problems, frontier.labels[route], own, gaps, matches, strict=True
            ):
                place = {
                    "set": name,
                    "route": route,
                    "problems": problems,
                    "labels": used,
                    "seeds": len(frontier.seeds),
                }
                row = place | {"accuracy": at.mean, "low": at.low, "high": at.high}
                if other:
                    row |= {"difference": gap.mean, "difference low": gap.low, "difference high": gap.high}
                    row |= _needed(match, bool(used))
                rows.append(row)
    return pd.DataFrame(rows)


def _needed(match: Match, labeled: bool) -> dict[str, float]:
    row = {"labels to match": match.needed, "labels to match low": match.low, "labels to match high": match.high}
    if not labeled:
        return row
    return row | {key.replace("labels to match", "ratio"): value / match.labels for key, value in row.items()}


def crossings_table(frontier: Frontier) -> pd.DataFrame:
    """Where each route's curve crosses direct GRPO's: one row a crossing, or one for a pair without.

    Returns:
        `set`, `route`; `labels`, `low`, `high` of the crossing (NaN where there is none; 0 and inf as in `frontier_table`);
        `ahead`: the route that is ahead with more labels, or throughout; `clear`: at how many of the `budgets` the 95%
        interval of the difference excludes zero.
    """
    rows = []
    for name, curves in frontier.curves.items():
        for route in frontier.others:
            result = crossings(curves, frontier.direct, route)
            for labels, low, high, ahead in _places(result):
                place = {"set": name, "route": route, "labels": labels, "low": low, "high": high}
                rows.append(place | {"ahead": ahead, "clear": result.clear, "budgets": len(frontier.problems)})
    return pd.DataFrame(rows)


def _places(result: Crossings) -> list[tuple[float, float, float, str | None]]:
    return [(c.labels, c.low, c.high, c.leads) for c in result.found] or [(*[math.nan] * 3, result.leads)]


def say_labels(value: float, problems: list[int], per: float = 1) -> str:
    """A number of labels, or its ratio to `per` problems, for readers: `310`, `> 512`, `< 8`."""
    sign, value = {0.0: ("< ", problems[0]), math.inf: ("> ", problems[-1])}.get(value, ("", value))
    return f"{sign}{value:,.0f}" if per == 1 else f"{sign}{value / per:.2g}"


def readable_frontier(numbers: pd.DataFrame, frontier: Frontier) -> dict[str, pd.DataFrame]:
    """`frontier_table` for readers: one table a set, by title."""
    return {
        f"{frontier.title} ({name})": _readable(part, frontier) for name, part in numbers.groupby("set", sort=False)
    }


def _readable(numbers: pd.DataFrame, frontier: Frontier) -> pd.DataFrame:
    rows = []
    for row in numbers.to_dict("records"):
        other = row["route"] != frontier.direct
        needed = [row[f"labels to match{bound}"] for bound in ("", " low", " high")]
        count = lambda per, needed=needed: _bracket(*(say_labels(v, frontier.problems, per) for v in needed))  # noqa: E731
        gap = [f"{100 * row[f'difference{bound}']:+.1f}" for bound in ("", " low", " high")]
        rows.append(
            {
                "route": route_label(row["route"]),
                "problems": f"{row['problems']:,}",
                "labels": f"{row['labels']:,.0f}",
                "accuracy, %": _bracket(*(f"{100 * row[key]:.1f}" for key in ("accuracy", "low", "high"))),
                "difference": _bracket(*gap) if other else "reference",
                "labels to match": count(1) if other else "",
                "times as many": count(row["problems"] + 0.0) if other and row["labels"] else "",
            }
        )
    return pd.DataFrame(rows)


def _bracket(value: str, low: str, high: str) -> str:
    return f"{value} [{low}, {high}]"


def _checkpoints(numbers: pd.DataFrame, frontier: Frontier) -> list[list[str]]:
    """The checkpoint behind every row, set by set."""
    return [
        [point_of(row, frontier) for row in part.to_dict("records")] for _, part in numbers.groupby("set", sort=False)
    ]


def point_of(row: dict, frontier: Frontier) -> str:
    """The checkpoint that a row of `frontier_table` is about."""
    whole = row["problems"] == frontier.problems[-1]
    return row["route"] if whole else f"{row['route']}{AT}{row['problems']}"


def readable_crossings(table: pd.DataFrame, frontier: Frontier) -> pd.DataFrame:
    """`crossings_table` for readers."""
    rows = []
    for row in table.to_dict("records"):
        places = [say_labels(row[key], frontier.problems) for key in ("labels", "low", "high")]
        ahead = "neither" if pd.isna(row["ahead"]) else route_label(row["ahead"])
        crossed = not math.isnan(row["labels"])
        rows.append(
            {
                "set": row["set"],
                "route": route_label(row["route"]),
                "crosses direct GRPO at": _bracket(*places) if crossed else "none",
                "ahead": f"{ahead}, {'from there' if crossed else 'throughout'}",
                "clear at": f"{row['clear']} of {row['budgets']} budgets",
            }
        )
    return pd.DataFrame(rows)


def write_frontier(numbers: pd.DataFrame, crossed: pd.DataFrame, frontier: Frontier, folder: Path, note: str) -> None:
    """Write frontier.{csv,md,tex} and frontier_crossings.{csv,md,tex}.

    Args:
        numbers: From `frontier_table`.
        crossed: From `crossings_table`.
        frontier: What both are of.
        folder: figures/<profile>.
        note: What to say of these results under the tables.
    """
    note = f"{NOTE} {note}".strip()
    shown = readable_frontier(numbers, frontier)
    links = {
        title: table.assign(route=[link(label, name) for label, name in zip(table["route"], names, strict=True)])
        for (title, table), names in zip(shown.items(), _checkpoints(numbers, frontier), strict=True)
    }
    write_forms(numbers, shown, folder, "frontier", note, links)
    shown = {"Where the curves cross that of direct GRPO": readable_crossings(crossed, frontier)}
    write_forms(crossed, shown, folder, "frontier_crossings", note)
