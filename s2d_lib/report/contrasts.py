"""What a table's one reference does not say: differences of chosen pairs, accuracies by level, and what it all cost."""

import contextlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.claims import Results, bootstrap
from s2d_lib.claims.fair import budget, check_together, paired_accuracies
from s2d_lib.errors import StudyError
from s2d_lib.plan.cost import DENSE, Shape, forward_flops, shape_of
from s2d_lib.report.figures import Mark, forest
from s2d_lib.report.looks import load_report, route_label, route_look
from s2d_lib.report.pages import one_line
from s2d_lib.report.study_table import NOT_PRINTED, beside_untrained, published_sets
from s2d_lib.report.tables import COUNT, Sheet, columns, intervals, link, pivoted, run_page
from s2d_lib.results.bundle import Bundle, ancestry, seeds_of, spent, with_best

CONSTANT = "always the most frequent answer"


def contrasts(results: Results, name: str, root: Path | None = None) -> Sheet:
    """Paired differences of the pairs that params/report.yaml has under this name, the first minus the second; a StudyError where
    a run is missing, or what stands in one row does not belong together.

    Its numbers: `first`, `second`, `seeds`; for each evaluation set `<set> difference` (a share) with its interval; where the
    profile plays one of paper A's families, `<set> published` (points or NaN) and `<set> published source` on all of the
    paper's sets; labels and gradings of both sides, over the whole routes, means over seeds.
    """
    spec, bundle, sides = load_report(root).contrasts[name], results.bundle, ("first", "second")
    (published, family, sets), rows = published_sets(results, root), []
    for pair in spec.pairs:
        for side in (side for side in pair if not seeds_of(bundle, side)):
            raise StudyError(
                f"the results of profile {results.name!r} hold no run of {side!r}: make it with `make study`."
            )
        check_together(bundle, pair)
        row: dict[str, object] = dict(zip(sides, pair, strict=True)) | {"seeds": len(seeds_of(bundle, pair[0]))}
        for one in bundle.sets:
            row |= columns(f"{one} difference", bootstrap(*paired_accuracies(bundle, *pair, one)))
        for one, theirs in sets.items():
            printed = published.difference(family, *pair, theirs)
            row |= {f"{one} published": printed.value if printed else np.nan}
            row |= {f"{one} published source": printed.source if printed else NOT_PRINTED}
        used = {side: budget(bundle, of) for side, of in zip(sides, pair, strict=True)}
        rows.append(row | {f"{kind} {side}": used[side][kind] for kind in ("labels", "gradings") for side in sides})
    numbers = pd.DataFrame(rows)
    shown = {side: [link(route_label(c), c) for c in numbers[side]] for side in sides}
    shown |= {f"{one}, difference": intervals(numbers, f"{one} difference", signed=True) for one in bundle.sets}
    for one, theirs in sets.items():
        cells = numbers[f"{one} published source"].str.rpartition(": ")[2]
        said = numbers[f"{one} published"].map("{:+.1f}".format) + " (" + cells + ")"
        shown[f"{theirs}, published"] = said.where(numbers[f"{one} published"].notna(), NOT_PRINTED)
    for kind in ("labels", "gradings"):
        first, second = (numbers[f"{kind} {side}"].map(COUNT) for side in sides)
        shown[f"{kind}, first / second"] = first + " / " + second
    notes, seeds = load_report(root).notes, seeds_of(bundle, spec.pairs[0][0])
    note = notes["contrasts"].format(profile=results.name, seeds=seeds) + (f" {notes['scales']}" if sets else "")
    return Sheet(name, numbers, {spec.title: pd.DataFrame(shown)}, note)


def by_level(bundle: Bundle, checkpoints: Sequence[str], name: str, title: str) -> Sheet:
    """Accuracy of checkpoints on every level of one evaluation set, of untrained ones also at their best temperature there:
    `level`, `problems`, `checkpoint`, `accuracy`, `low`, `high` (95% over seeds and problems). Where the results know it, a
    row a level without a checkpoint has what always its most frequent right answer scores. A StudyError where a checkpoint was
    not evaluated on the set."""
    bundle = with_best(bundle)
    own = bundle.evaluation[bundle.evaluation["set"] == name]
    levels = own.drop_duplicates("problem").set_index("problem")["level"]
    always = bundle.constant[bundle.constant["set"] == name].set_index("level")["share"]
    rows = []
    for level in levels.unique():
        problems = levels.index[levels == level]
        for checkpoint in beside_untrained(bundle, checkpoints):
            found = bootstrap(bundle.accuracy(checkpoint, name)[problems].to_numpy())
            rows.append((level, len(problems), checkpoint, *found))
        rows += [(level, len(problems), "", always[level], np.nan, np.nan)] if level in always else []
    numbers = pd.DataFrame(rows, columns=["level", "problems", "checkpoint", "accuracy", "low", "high"])
    cells = intervals(numbers, "accuracy")
    titles = [f"{level} ({count}), %" for level, count in zip(numbers["level"], numbers["problems"], strict=True)]
    routes = [link(route_label(c), c) if c else CONSTANT for c in numbers["checkpoint"]]
    table = pivoted(numbers.assign(route=routes, title=titles), "route", "title", cells)
    return Sheet("levels", numbers, {title: table}, load_report().notes["levels"])


def levels_figure(sheet: Sheet) -> Figure:
    """Accuracy by level, a panel each; dashed what always the most frequent answer scores."""
    rows, panels = sheet.numbers[sheet.numbers["checkpoint"] != ""], {}
    routes = list(rows["checkpoint"].unique())
    for level, own in rows.groupby("level", sort=False):
        panels[level.replace("_", " ")] = marks = []
        for row in own.to_dict("records"):
            values = [100 * row[column] for column in ("accuracy", "low", "high")]
            look = route_look(row["checkpoint"])
            marks.append(Mark(routes.index(row["checkpoint"]), *values, *look, page=run_page(row["checkpoint"])))
    title = f"{sheet.title}; dashed: {CONSTANT}"
    figure = forest(panels, [*map(route_label, routes)], title, "accuracy, %", (0, 100), width=2.2)
    for row in sheet.numbers[sheet.numbers["checkpoint"] == ""].to_dict("records"):
        figure.axes[list(panels).index(row["level"].replace("_", " "))].axvline(
            100 * row["accuracy"], color="black", ls="--"
        )
    return figure


def completions_beside(bundle: Bundle, checkpoints: Sequence[str]) -> pd.DataFrame:
    """The completions that the results keep as text: `problem` (as it was asked), `right answer`, and a column a route, where
    a tick stands behind what was graded right."""
    said = bundle.samples[bundle.samples["checkpoint"].isin(checkpoints)]
    cell = said["completion"].map(one_line).str.strip("`") + said["correct"].map({True: " ✓", False: ""})
    wide = said.assign(cell=cell).pivot(index="problem", columns="checkpoint", values="cell").fillna("")
    first = said.drop_duplicates("problem").set_index("problem")
    asked = {"problem": first["prompt"].map(one_line).str.strip("`"), "right answer": first["answer"]}
    wide = wide.reindex(columns=checkpoints).rename(columns=route_label)
    return pd.DataFrame(asked).join(wide).reset_index(drop=True)


def study_cost(bundle: Bundle, profile: str) -> Sheet:
    """Runs, time, optimiser steps and tokens of a study by stage, then of all, each run once however many rows it serves."""
    rows = [
        {
            "stage": record["resolved"]["stage"],
            "runs": 1,
            "process hours": record["seconds"] / 3600,
            "optimiser steps": record.get("optimizer_steps", 0),
            "tokens sampled": record.get("sampled", {}).get("tokens", 0),
            "tokens trained on": record.get("trained_tokens", 0),
        }
        for record in bundle.records.values()
    ]
    table = pd.DataFrame(rows).groupby("stage", sort=False).sum()
    table.loc["all"] = table.sum()
    table = table.astype({name: int for name in table if name != "process hours"}).reset_index()
    shown = {name: table[name].map(COUNT) for name in table if name != "stage"}
    shown["process hours"] = table["process hours"].map("{:.2f}".format)
    note = load_report().notes["cost"].format(profile=profile)
    return Sheet("cost", table, {"What the whole study cost": table.assign(**shown)}, note)


def route_flops(bundle: Bundle, checkpoint: str, seed: int) -> float:
    """FLOPs of a route's whole ancestry, its teachers and their rollouts included: 6N for a token trained on, 2N for one that
    was sampled or that a teacher (also a model's own) scored, with the N parameters of the model that did it
    (s2d_lib.plan.cost). Prompts, attention, validation and pretraining are left out."""
    total = 0.0
    for name in ancestry(bundle, checkpoint, seed):
        record = bundle.records[name, seed]
        run, trained = record["resolved"], record.get("trained_tokens", 0)
        if run["stage"] == "base":
            continue
        model, read = _shape(run), record.get("sampled", {}).get("tokens", 0)
        if run["stage"] == "self_distillation":
            read += spent(bundle, name, seed)["scored"].iloc[-1]
        total += 3 * forward_flops(model, trained) + forward_flops(model, read)
        if run["stage"] in DENSE:
            total += forward_flops(_shape(bundle.records[run["parents"]["teacher"], seed]["resolved"]), trained)
    return total


def _shape(resolved: dict) -> Shape:
    return shape_of(resolved["model"]["model"], resolved["model"].get("layers"))


def route_costs(bundle: Bundle, sheet: Sheet) -> pd.DataFrame:
    """What the whole routes of a table cost, for readers: gradings, tokens and, where all models' sizes are known, FLOPs."""
    numbers, bundle = sheet.numbers, with_best(bundle)
    shown = numbers[["route"]].assign(**{name: numbers[name].map(COUNT) for name in ("gradings", "tokens sampled")})
    with contextlib.suppress(StudyError):
        flops = [np.mean([route_flops(bundle, c, s) for s in seeds_of(bundle, c)]) for c in numbers["checkpoint"]]
        shown["training FLOPs"] = [f"{value:.2g}" for value in flops]
    return shown
