"""Paper B's methods over the course of training, on budgets that all of them have, and where they end."""

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.claims import Estimate, bootstrap
from s2d_lib.claims.claims import Course
from s2d_lib.claims.fair import accuracies, check_together
from s2d_lib.claims.schema import Claims, Courses, Moment
from s2d_lib.errors import StudyError
from s2d_lib.report.figures import Line, over_seeds
from s2d_lib.report.looks import route_label, route_of
from s2d_lib.report.study_table import beside_untrained, open_results
from s2d_lib.report.tables import Sheet, columns, intervals, pivoted
from s2d_lib.results.bundle import with_best
from s2d_lib.study import load_profile, load_study, project_root
from s2d_lib.study.resolve import weights_hash
from s2d_lib.study.strict import did_you_mean

GIVEN = ("alone", "own solution", "another's solution")
ENDS, FORGOTTEN = "After all steps, on evaluation problems", "What is forgotten: longer problems, the first word given"
PAIRS = {"own - alone": ("own solution", "alone"), "own - another's": ("own solution", "another's solution")}


def spec_of(name: str, claims: Claims) -> Courses:
    """What claims.yaml says of a group of benchmarks; a StudyError where there is no such group."""
    if name not in claims.courses:
        raise StudyError(f"claims.yaml has no courses {name!r}; {did_you_mean(name, claims.courses)}")
    return claims.courses[name]


def complete(spec: Courses, root: Path | None = None) -> bool:
    """Whether all benchmarks have results."""
    return all((root or project_root()).joinpath("figures", name, "results").is_dir() for name in spec.profiles)


def open_course(spec: Courses, root: Path | None = None) -> Course:
    """The committed results of the methods, which the group's table trains, on budgets of counted compute; a StudyError where
    results are missing or do not belong together."""
    study = load_study(root)
    methods = [name for name in study.tables[spec.table].rows if study.checkpoints[name].stage != "base"]
    return Course({name: open_results(name, root).bundle for name in spec.profiles}, methods)


def budgets_sheet(course: Course, budgets: Sequence[float]) -> Sheet:
    """What every method reaches within shares of the budget, over all benchmarks and on each: `best <share>` (the cross-fitted
    best until then) and, of the whole budget, `final` (shares)."""
    rows, tables = [], {}
    for checkpoint in course.checkpoints:
        for benchmark in [None, *course.budgets]:
            row = {"checkpoint": checkpoint, "benchmark": benchmark or "all"}
            for share in budgets:
                moment = Moment(checkpoint=checkpoint, within=share, best=True)
                row |= columns(f"best {share:g}", course.estimate(moment, benchmark=benchmark))
            rows.append(row | columns("final", course.estimate(Moment(checkpoint=checkpoint), benchmark=benchmark)))
    numbers = pd.DataFrame(rows)
    shown = {f"best within {share:.0%} of the budget, %": f"best {share:g}" for share in budgets}
    shown |= {"at the end, %": "final"}
    for benchmark, own in numbers.groupby("benchmark", sort=False):
        cells = {title: intervals(own, column) for title, column in shown.items()}
        title = "Over all benchmarks" if benchmark == "all" else str(benchmark)
        tables[title] = pd.DataFrame({"method": own["checkpoint"].map(route_label)}).assign(**cells)
    seeds = len(course.seeds)
    note = f"Budgets of compute; validation problems; best is cross-fitted; {seeds} seeds."
    return Sheet("budgets", numbers, tables, note)


def ends_sheet(spec: Courses, root: Path | None = None) -> Sheet:
    """avg@k on the benchmarks' evaluation sets, on which nothing was chosen: untrained (also at the best temperature on each
    benchmark, where all results know it) and after all steps; a row a checkpoint and benchmark, `all` (the mean over problems)
    first. Sets whose solutions' first word is given ask what is forgotten; they are rows and a table of their own. A StudyError
    where results are missing or do not belong together."""
    found = {name: open_results(name, root) for name in spec.profiles}
    bundles = {name: with_best(results.bundle) for name, results in found.items()}
    listed = load_study(root).tables[spec.table].rows
    checkpoints = min((beside_untrained(bundle, listed) for bundle in bundles.values()), key=len)
    asked, forgotten, rows = {}, {}, []
    for name, bundle in bundles.items():
        check_together(bundle, checkpoints)
        given = {s for s, one in found[name].profile.problems.evaluations.items() if getattr(one, "opened", False)}
        asked[name] = (bundle, [s for s in bundle.sets if s not in given])
        forgotten |= {s: (bundle, [s]) for s in bundle.sets if s in given}
    for checkpoint in checkpoints:
        values = {
            title: np.concatenate([accuracies(bundle, checkpoint, s).to_numpy() for s in sets], axis=1)
            for title, (bundle, sets) in (asked | forgotten).items()
        }
        values = {"all": np.concatenate([values[name] for name in asked], axis=1)} | values
        for title, own in values.items():
            rows.append({"checkpoint": checkpoint, "benchmark": title} | columns("accuracy", bootstrap(own)))
    numbers = pd.DataFrame(rows)
    methods = numbers.assign(method=numbers["checkpoint"].map(route_label), value=intervals(numbers, "accuracy"))
    late = methods["benchmark"].isin(forgotten)
    parts = {ENDS: methods[~late], FORGOTTEN: methods[late]}
    tables = {title: pivoted(part, "method", "benchmark", part["value"]) for title, part in parts.items() if len(part)}
    note = f"avg@k of the final weights, {len(own)} seeds, 95% intervals over seeds and problems."
    numbers = numbers.rename(columns=lambda name: name.removeprefix("accuracy "))  # low and high
    return Sheet("ends", numbers, tables, note)


def given_sheet(spec: Courses, folder: Path, measure: Callable[[str], pd.DataFrame], root: Path | None = None) -> Sheet:
    """What a given solution is worth to each benchmark's base model: alone, shown its own correct answer, or one to another
    problem (shares, and differences over problems). Models are sampled, by `measure` from a profile to its problems'
    accuracies (s2d_lib.stages.second_look), where figures/<group>, the folder, does not hold it yet for these weights."""
    path, rows = folder / "given_solution.csv", []
    kept = pd.DataFrame(columns=["benchmark", "weights"])
    if path.is_file():
        kept = pd.read_csv(path, keep_default_na=False, dtype={"weights": str})  # 12 hex digits may look like a number
    for name in spec.profiles:
        weights = (weights_hash(load_profile(name, root=root).roles["student"].model) or "")[:12]
        own = kept[(kept["benchmark"] == name) & (kept["weights"] == weights)]
        row = {"benchmark": name, "weights": weights}
        rows.append(own.iloc[0].to_dict() if len(own) else row | _given(measure(name)))
    numbers = pd.DataFrame(rows)
    shown = numbers[["benchmark", "problems"]].astype(str)
    for name in GIVEN:
        shown[f"{name}, %"] = [f"{100 * float(value):.1f}" for value in numbers[name]]
    shown = shown.assign(**{f"{name}, points": intervals(numbers, name, signed=True) for name in PAIRS})
    note = "Validation problems that the untrained model solves now and then; 95% intervals over problems."
    return Sheet("given_solution", numbers, {"What a given solution is worth to the base model": shown}, note)


def _given(table: pd.DataFrame) -> dict[str, float]:
    row: dict[str, float] = {"problems": len(table)} | {name: table[name].mean() for name in GIVEN}
    for name, pair in PAIRS.items():
        sides = (table[[side]].to_numpy(dtype=float).T for side in pair)
        row |= columns(name, bootstrap(*sides) if len(table) > 1 else Estimate(*[np.nan] * 3))
    return row


def course_lines(course: Course, checkpoints: Sequence[str], benchmark: str | None = None) -> list[Line]:
    """Accuracy over the budget and beyond it, as far as all of a method's runs go, in percent; the mean over benchmarks or
    one."""
    names = [benchmark] if benchmark else list(course.budgets)
    tables = {}
    for checkpoint in checkpoints:
        runs = {seed: [course.runs[name, checkpoint, seed] for name in names] for seed in course.seeds}
        grid = np.arange(0, min(run.shares[-1] for own in runs.values() for run in own) + 1e-9, 0.01)
        at = lambda run, grid=grid: np.interp(grid, run.shares, 100 * run.correct.mean(axis=(1, 2)))  # noqa: E731
        tables[checkpoint] = pd.DataFrame({seed: np.mean([*map(at, own)], axis=0) for seed, own in runs.items()}, grid)
    return method_lines(tables)


def method_lines(tables: dict[str, pd.DataFrame]) -> list[Line]:
    """Methods' lines of tables with a column a seed; a control has the colour of the method that it is cut from."""
    looks = {name: route_of(name) for name, table in tables.items() if table.notna().any(axis=None)}
    return [over_seeds(tables[n], o.label, o.color, marker=o.marker, dashes=o.dashes) for n, o in looks.items()]


def metric(course: Course, checkpoint: str, name: str) -> pd.DataFrame:
    """A metric of the steps over the budget: means of every twentieth of it, over all benchmarks; a column a seed. An entropy
    is that of the mean scored token, and shown only where every benchmark has one, or its mean would jump when nothing is
    scored any more on one."""
    edges, table, scored = np.linspace(0, 1, 21), {}, "entropy" in name
    for seed in course.seeds:
        parts = []
        for benchmark in course.budgets:
            steps = course.runs[benchmark, checkpoint, seed].steps
            weights = steps[name].notna() * (steps["scored"].fillna(0.0) if scored else 1.0)
            sums = pd.DataFrame({"value": (steps[name] * weights).fillna(0.0), "weight": weights})
            binned = sums.groupby(np.searchsorted(edges, steps["share"].to_numpy() - 1e-9)).sum()
            parts.append((binned["value"] / binned["weight"].where(binned["weight"] > 0)).reindex(range(1, 21)))
        table[seed] = pd.concat(parts, axis=1).mean(axis=1, skipna=not scored).to_numpy()
    return pd.DataFrame(table, index=(edges[1:] + edges[:-1]) / 2)
