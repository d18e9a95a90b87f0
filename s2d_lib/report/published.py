"""What the published tables can and cannot show: honest errors beside printed ones, which differences stand, what settles."""

import math
from collections.abc import Iterator, Sequence
from itertools import combinations, product
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.claims import Claims, Estimate, Published
from s2d_lib.claims import printed as honest
from s2d_lib.claims.printed import AVERAGE, CORRELATION, RHO, RHO_RANGE
from s2d_lib.report.figures import Mark, forest
from s2d_lib.report.looks import load_report, route_label
from s2d_lib.report.style import BLUE, BROWN, GREEN, GREY, ORANGE, PURPLE
from s2d_lib.report.tables import Sheet, columns, intervals, pivoted
from s2d_lib.results.bundle import read_bundle
from s2d_lib.study.page import Study

DECIDED = 1.96  # standard errors
ABOUT = {"rho": RHO, "range": RHO_RANGE, "correlation": CORRELATION}
ABLATIONS = ("Advantage Mix (0.9)", "SRPO without dynamic weighting")
CLAIMS_OF_B = {
    "B1": (10, [("SRPO", "GRPO"), ("SRPO", "SDPO")]),
    "B2": (1, [("SDPO", "GRPO")]),
    "B7": (10, [("SRPO", ABLATIONS[0])]),
    "B8": (10, [("SRPO", ABLATIONS[1])]),
}
"""Paper B's claims about accuracies -> hours, and what is compared; the others are about curves that it does not print."""
LOOKS = {
    "MATH": (BLUE, "o"),
    "AIME 2024": (ORANGE, "^"),
    "AIME 2025": (PURPLE, "s"),
    "average of five": (GREEN, "D"),
    "one of the five": (BROWN, "v"),
}


def measured_table(folders: Sequence[Path], routes: Sequence[str]) -> pd.DataFrame:
    """The model's quantities as committed results (figures/<profile>/results) have them, of the routes that are right in 10 to
    90% of their answers: a row a profile and set with the number of `routes`, and median with tenths of `rho`, `correlation`
    (of two routes of one seed) and `spread` (points between seeds)."""
    rows = []
    for folder in folders:
        bundle = read_bundle(folder)
        samples = len(bundle.evaluation["correct"].iloc[0])
        for name in bundle.sets:
            there = sorted(set(bundle.evaluation["checkpoint"]) & set(routes))
            tables = [bundle.accuracy(route, name).to_numpy() for route in there]
            found = [table for table in tables if 0.1 < table.mean() < 0.9]
            pairs = [pair for pair in combinations(found, 2) if pair[0].shape == pair[1].shape]
            row = {"profile": folder.parent.name, "set": name, "routes": len(found)}
            for what, values in {
                "rho": [honest.share_between(table, samples) for table in found],
                "correlation": [honest.difficulty_correlation(*pair, samples) for pair in pairs],
                "spread": [honest.run_spread(table) for table in found],
            }.items():
                row |= columns(what, Estimate(*np.quantile(values, (0.5, 0.1, 0.9))))
            rows.append(row)
    return pd.DataFrame(rows)


def cells_sheet(published: Published) -> Sheet:
    """Every printed accuracy with the errors in points that it can have: `printed` (NaN in paper B), `floor`, `honest` and its
    ends at RHO_RANGE; for readers a table a paper."""
    rows = []
    for (models, route, name, hours), cell in published.accuracies.items():
        row = {"paper": "A" if hours is None else "B", "models": models, "route": route, "set": name, "hours": hours}
        row |= {"mean": cell.mean, "printed": cell.error, "floor": cell.standard_error(rho=0)}
        row |= columns("honest", Estimate(*(cell.standard_error(rho) for rho in (RHO, *RHO_RANGE))))
        rows.append(row | {"source": cell.source})
    numbers, tables = pd.DataFrame(rows).astype({"printed": float}), {}
    for paper, own in numbers.groupby("paper", sort=False):
        routes = own["route"].map(route_label) if paper == "A" else own["route"] + own["hours"].map(", {:g} h".format)
        cells = [
            f"{c['mean']:.1f}{' ± {:.1f}'.format(c['printed']) if c['printed'] == c['printed'] else ''} (floor {c['floor']:.1f}, "
            f"honest {c['honest']:.1f} [{c['honest low']:.1f}, {c['honest high']:.1f}])"
            for c in own.to_dict("records")
        ]
        table = pivoted(own.assign(row=own["models"] + ": " + routes), "row", "set", cells, "not printed")
        title = f"Paper {paper}. Floor: no spread of difficulty. Honest: at rho {RHO} [{RHO_RANGE[0]}, {RHO_RANGE[1]}]."
        tables[title] = table.rename(columns={"row": "models: route"})
    return Sheet("cells", numbers, tables, load_report().notes["printed"].format(**ABOUT))


def differences_sheet(published: Published, study: Study, claims: Claims) -> Sheet:
    """Every difference of the papers' tables to their reference, and every one that a claim is about, as far as printed.

    Its numbers: `where` (a table or a claim), `models`, `better`, `than`, `set`, `hours`, `margin`, `difference` (points);
    standard errors `printed error` (from the two printed ones), `unpaired` and `paired` (at RHO, and at the ends of its
    range); `problems`, `samples`, `seeds` that settle it unpaired, and `problems, paired`. For readers: how many stand, and
    what would settle the claims.
    """
    rows = []
    for where, models, pair, name, hours, margin in _compared(published, study, claims):
        printed = published.difference(models, *pair, name, hours)
        if printed is None:
            continue
        row = {"where": where, "models": models, "better": pair[0], "than": pair[1], "set": name, "hours": hours}
        row |= {"margin": margin, "difference": printed.value}
        errors = [cell.error or math.nan for cell in (printed.better, printed.than)]
        row["printed error"] = math.hypot(*errors)
        for kind, correlation in (("unpaired", 0.0), ("paired", CORRELATION)):
            found = [printed.interval(rho, correlation) for rho in (RHO, *RHO_RANGE)]
            row |= columns(kind, Estimate(*((one.high - one.mean) / DECIDED for one in found)))
        row |= printed.settled_by(margin)._asdict()
        rows.append(row | {"problems, paired": printed.settled_by(margin, correlation=CORRELATION).problems})
    numbers = pd.DataFrame(rows)
    tables = {"How many of the printed differences stand?": _standing(numbers)}
    tables["What would settle the claims?"] = _settling(numbers)
    notes = load_report().notes
    return Sheet("differences", numbers, tables, f"{notes['printed'].format(**ABOUT)} {notes['settling']}")


def _compared(published: Published, study: Study, claims: Claims) -> Iterator[tuple]:
    tables = {f"table {n}": f"table{n}" for n in range(2, 9)} | {"component ablation": "components"}
    for where, key in tables.items():
        table, family = study.tables[key], "Llama" if key == "table8" else "Qwen3"
        for route, name in product(table.rows, published.problems["A"]):
            if route != table.reference:
                yield where, family, (route, table.reference), name, None, 0.0
    models, sets = list(dict.fromkeys(block.model for block in published.paper_b)), (*published.problems["B"], AVERAGE)
    tables = {"1": [*combinations(("SRPO", "GRPO", "SDPO"), 2)], "2": [("SRPO", method) for method in ABLATIONS]}
    for (number, pairs), model in product(tables.items(), models):
        for pair, hours, name in product(pairs, (1, 5, 10), sets):
            yield f"paper B, table {number}", model, pair, name, hours, 0.0
    for name, claim in claims.claims.items():
        for comparison in claim.comparisons:
            for pair, meant in product(comparison.pairs(), comparison.sets):
                yield name, claim.family, pair, meant, None, comparison.margin
    for name, (hours, pairs) in CLAIMS_OF_B.items():
        for model, pair, meant in product(models, pairs, sets):
            yield name, model, pair, meant, hours, 0.0


def _standing(differences: pd.DataFrame) -> pd.DataFrame:
    """How many differences are further than 1.96 standard errors from zero (or the margin): with the printed errors, with
    honest ones, and with those of pairing by problem; in brackets at the ends of RHO_RANGE."""
    size = (differences["difference"] + differences["margin"]).abs() / DECIDED
    stands = {c: size > differences[c] for c in differences if c.startswith(("unpaired", "paired"))}
    table = differences.assign(**stands, printed=size > differences["printed error"], differences=1)
    found = table.groupby("where", sort=False)[["differences", "printed", *stands]].sum()
    without = differences.groupby("where", sort=False)["printed error"].count() == 0
    shown = found[["differences"]].astype(str)
    shown["stand by printed errors"] = found["printed"].astype(str).mask(without, "none printed")
    for kind in ("unpaired", "paired"):
        turned = found.rename(columns={f"{kind} low": f"{kind} high", f"{kind} high": f"{kind} low"})
        shown[f"by honest errors, {kind}"] = intervals(turned, kind, scale=1, digits=0)
    return shown.reset_index()


def _settling(differences: pd.DataFrame) -> pd.DataFrame:
    """What would settle each claim's comparisons: the smallest and largest need of those on a set."""
    own, rows = differences[differences["where"].str.fullmatch(r"[A-Z]\d+")], []
    forms = {"difference": "{:+.1f}"} | dict.fromkeys(("problems", "problems, paired", "samples", "seeds"), "{:,.0f}")
    for (claim, models, name), group in own.groupby(["where", "models", "set"], sort=False):
        row = {"claim": claim, "models": models, "set": name, "comparisons": f"{len(group)}"}
        for what, form in forms.items():
            both = (group[what].min(), group[what].max())
            texts = [form.format(value) if math.isfinite(value) else "no number" for value in both]
            row["printed differences" if what == "difference" else what] = " to ".join(dict.fromkeys(texts))
        rows.append(row)
    return pd.DataFrame(rows)


def printed_figure(differences: pd.DataFrame, title: str) -> Figure:
    """Every claim's printed differences in honest standard errors, hollow if they had been paired by problem; grey: undecided."""
    own = differences[differences["where"].str.fullmatch(r"[A-Z]\d+")]
    claims, marks = list(own["where"].unique()), []
    for row in own.to_dict("records"):
        kind = row["set"].replace(AVERAGE, "average of five")
        kind = kind if kind in LOOKS else "one of the five"
        place = claims.index(row["where"]) + 0.13 * (list(LOOKS).index(kind) - 2)
        size = row["difference"] + row["margin"]
        for error, face in (("unpaired", None), ("paired", "none")):
            marks.append(Mark(place, size / row[error], color=LOOKS[kind][0], marker=LOOKS[kind][1], face=face, size=4))
    key = {kind: Mark(color=color, marker=marker) for kind, (color, marker) in LOOKS.items()}
    key |= {"if paired by problem": Mark(face="none")}
    figure = forest({"": marks}, claims, title, "printed difference in honest standard errors", key=key, width=6.0)
    figure.axes[0].axvspan(-DECIDED, DECIDED, color=GREY, alpha=0.2, linewidth=0)
    return figure
