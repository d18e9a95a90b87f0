"""Claims for readers: what the papers say, what their tables support, what this study measured, and what that presupposes."""

import textwrap
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from s2d_lib.claims import Claims, Estimate, Outcome, Published, Results, bootstrap, claim_verdict
from s2d_lib.claims.fair import accuracies, while_training
from s2d_lib.claims.printed import AVERAGE, Difference
from s2d_lib.claims.schema import Claim, Courses, CurveClaim, Moment
from s2d_lib.report.figures import PAPER, Mark, forest
from s2d_lib.report.looks import load_report, route_label
from s2d_lib.report.study_table import NOT_PRINTED
from s2d_lib.report.style import BLACK, BLUE, GREY, PURPLE, VERMILLION
from s2d_lib.report.tables import Sheet, columns, contrast_label, interval, link, run_page
from s2d_lib.results.bundle import seeds_of
from s2d_lib.study.page import Study

SMALL = 2.0
"""Points: a difference that would matter, where the paper prints none; a narrower interval around 0 is called level."""
LINK = ["claim", "better", "than"]
COUNTED = ("holds", "contradicted", "undecided", "premise absent", "not run", "no set")
LOOKS = {
    "holds": (BLUE, "o"),
    "contradicted": (VERMILLION, "X"),
    "undecided": (GREY, "s"),
    "premise absent": (PURPLE, "v"),
}
"""Verdict -> colour and marker, so that none depends on colour alone; others are said in words."""
UNITS = {"accuracy": "points", "length": "tokens", "entropy": "nats"}
HOURS = 10  # of training, the whole budget of paper B
MEASURES = ("difference", "low", "high", "problem error", "detectable", "seeds", "problems", "units")
OF_CHECKPOINTS = [
    "claim", "better", "than", "family", "profile", "meant", "set", "seeds", "problems", "difference", "low", "high",
    "problem error", "detectable", "margin", "chance", "published", "published low", "published high", "published source",
    "published verdict", "labels better", "labels than", "gradings better", "gradings than", "unequal because", "premises",
    "verdict", "by numbers", "refuted", "missing",
]  # fmt: skip
OF_COURSES = [
    "claim", "better", "than", "benchmark", "meant", "label", "measure", "unit", "seeds", "units", "difference", "low", "high",
    "detectable", "margin", "chance", "published", "published low", "published high", "published verdict", "verdict",
    "refuted", "missing",
]  # fmt: skip


def comparisons_table(outcomes: Sequence[Outcome], published: Published, spec: Courses | None = None) -> pd.DataFrame:
    """All numbers, a row a comparison of checkpoints (columns OF_CHECKPOINTS) or, with their group of benchmarks, of courses
    (OF_COURSES): differences, intervals, `detectable` ones and margins in points or their `unit`, chances in percent; `problem
    error`: standard error over problems alone; `published verdict`: what the paper's tables support; `by numbers`: the verdict
    whatever is presupposed; `refuted`: contradicted at the level corrected for the claim."""
    counted = Counter(outcome.claim for outcome in outcomes if spec or outcome.verdict != "no set")
    rows = []
    for outcome in outcomes:
        own, what = _of_courses(outcome, spec) if spec else _of_checkpoints(outcome)
        printed = published.difference(**what) if what else None
        rows.append(own | _measured(outcome, own["unit"], counted[outcome.claim], printed))
    return pd.DataFrame(rows)[OF_COURSES if spec else OF_CHECKPOINTS]


def _of_checkpoints(outcome: Outcome) -> tuple[dict, dict]:
    """What only comparisons of checkpoints have, and as what they may be printed."""
    own = {name: getattr(outcome, name) for name in ("better", "than", "family", "profile", "meant", "missing")}
    for place, side in enumerate(("better", "than")):
        for kind in ("labels", "gradings"):
            own[f"{kind} {side}"] = outcome.budgets and outcome.budgets[place][kind]
    worst, states = ("absent", "not measured", "unclear", "present"), {}
    for measured in outcome.premises:
        states.setdefault(measured.premise, []).append(measured.state)
    own["premises"] = ", ".join(f"{name} {min(found, key=worst.index)}" for name, found in states.items())
    own |= {"unit": "points", "set": outcome.evaluation, "unequal because": outcome.reason}
    own |= {"verdict": outcome.verdict, "by numbers": outcome.by_numbers}
    return own, {"family": outcome.family, "better": outcome.better, "than": outcome.than, "name": outcome.meant}


def _of_courses(outcome: Outcome, spec: Courses) -> tuple[dict, dict]:
    """What only comparisons of courses have, and as what they may be printed: as of two methods after the same hours."""
    better, than, where = outcome.better, outcome.than, outcome.benchmark
    first, second = (moment_label(moment, outcome.measure) for moment in (better, than))
    own = {
        "better": better.checkpoint,
        "than": than.checkpoint,
        "benchmark": where or "all",
        "meant": "",
        "missing": "",
    }
    own |= {"label": f"{first} > {second}{f' · {where}' if where else ''}", "measure": outcome.measure}
    own |= {"unit": UNITS[outcome.measure], "verdict": outcome.result.verdict}
    name, methods = spec.stands_for.get(where, "") if where else AVERAGE, load_report().paper_b
    same = better.within == than.within and better.checkpoint != than.checkpoint and not better.minus
    if outcome.measure != "accuracy" or not (spec.model and name and same):
        return own, {}
    routes = {side: methods.get(own[side], "") for side in ("better", "than")}
    return own, {"family": spec.model, **routes, "name": name, "hours": HOURS * better.within}


def _measured(outcome: Outcome, unit: str, of: int, printed: Difference | None) -> dict:
    """What was measured of one of the `of` comparisons of a claim, and what was printed of it."""
    row: dict = {"claim": outcome.claim, "margin": outcome.margin, "refuted": False, "chance": None}
    row |= columns("published", printed.interval() if printed else Estimate(np.nan, np.nan, np.nan))
    row["published source"] = printed.source if printed else NOT_PRINTED
    row["published verdict"] = printed.verdict(outcome.margin) if printed else NOT_PRINTED
    if (result := outcome.result) is None:
        return row | dict.fromkeys(MEASURES)
    scale = 100 if unit == "points" else 1
    values = (scale * value for value in (*result.difference, result.problem_error, result.detectable))
    row |= dict(zip(MEASURES, (*values, result.seeds, result.problems, result.problems), strict=True))
    chance = 100 * result.chance((printed.value if printed else SMALL) / 100) if unit == "points" else None
    return row | {"refuted": bool(result.refuted(of)), "chance": chance}


def moment_label(moment: Moment, measure: str) -> str:
    """A moment in readers' words: `SDPO, best within 50%`."""
    words = [route_label(moment.checkpoint) + (f" minus {route_label(moment.minus)}" if moment.minus else "")]
    if moment.best or moment.within < 1:
        words.append(f"{'best within' if moment.best else 'at'} {moment.within:.0%}")
    return ", ".join(words) + ("" if measure == "accuracy" else f" ({measure})")


def judged(outcomes: Sequence[Outcome], comparisons: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """What comparisons say together, a row a claim (`by` its name) or a link of it, two routes over all sets (`by` LINK): how
    many of each verdict; `published verdict`: what the paper's tables support; `premises`; `verdict` here and `by numbers`
    alone; the greatest `chance` (percent) that it could have held; what is `missing`."""
    rows = []
    for names, own in comparisons.groupby(by, sort=False):
        counted, printed = own[own["verdict"] != "no set"], set(own["published verdict"])
        results = [outcomes[place].result for place in counted.index]
        states = (word for text in own.get("premises", ()) for word in text.split(", ") if word)
        row = dict(zip(by, names, strict=True)) | {"comparisons": len(own)}
        row |= {kind: (own["verdict"] == kind).sum() for kind in COUNTED}
        said = (word for word in ("contradicted", "undecided", "holds") if word in printed)
        row |= {"published verdict": next(said, NOT_PRINTED), "premises": ", ".join(dict.fromkeys(states))}
        row |= {"verdict": claim_verdict(results, counted["verdict"].eq("premise absent").tolist())}
        row |= {"by numbers": claim_verdict(results), "chance": own["chance"].astype(float).min()}
        rows.append(row | {"missing": "; ".join(dict.fromkeys(text for text in own["missing"] if text))})
    return pd.DataFrame(rows)


def claims_sheet(
    outcomes: Sequence[Outcome],
    claims: Mapping[str, Claim | CurveClaim],
    comparisons: pd.DataFrame,
    note: str,
    asked: pd.DataFrame | None = None,
    profile: str = "",
) -> Sheet:
    """Everything about claims: tables of the claims, of the `comparisons_table` and, with paper A's `asked_table`, of links
    and premises. `note`: what is special about these results; `profile`: whose folder it is written to."""
    of_claims, notes, numbers = judged(outcomes, comparisons, ["claim"]), load_report().notes, comparisons
    about = [{"the paper": claims[name].sentence, "source": claims[name].source} for name in of_claims["claim"]]
    tables = {"Claims": _readable(of_claims, about, of_claims[["missing"]].to_dict("records"))}
    if asked is not None:
        links = judged(outcomes, comparisons, LINK)
        about = [{"link": contrast_label(*pair)} for pair in links[LINK[1:]].to_numpy()]
        tables["Links of the claims"] = _readable(links, about)
        tables |= {} if asked.empty else {"What the claims presuppose": asked}
        of_links = links[[*LINK, "verdict", "chance"]].set_index(LINK).add_prefix("link ").reset_index()
        numbers = comparisons.merge(of_links, on=LINK, how="left")
    tables["Comparisons"] = readable_comparisons(comparisons, profile)
    numbers = numbers.assign(**{"claim verdict": numbers["claim"].map(of_claims.set_index("claim")["verdict"])})
    said = {"verdicts": notes["verdicts"].format(SMALL), "note": note}
    text = notes["course_claims" if asked is None else "claims"].format(**said)
    return Sheet("claims", numbers, tables, text.strip())


def _readable(verdicts: pd.DataFrame, about: list[dict], more: list[dict] | None = None) -> pd.DataFrame:
    """Verdicts of claims or links in words; without a column of premises that says nothing."""
    rows = []
    for row, said, after in zip(verdicts.to_dict("records"), about, more or [{}] * len(about), strict=True):
        here = row["verdict"] + (", as far as there are sets" if row["no set"] and row["verdict"] == "holds" else "")
        here += f" (numbers alone: {row['by numbers']})" if row["verdict"] != row["by numbers"] else ""
        several = more or row["comparisons"] - row["no set"] > 1
        shown = {"claim": row["claim"], **said, "its tables support": row["published verdict"], "here": here}
        shown |= {"chance to hold": chance_words(row["chance"], "at most " if several else "")}
        shown |= {"comparisons": ", ".join(f"{row[kind]} {kind}" for kind in COUNTED if row[kind])}
        rows.append(shown | {"premises": row["premises"]} | after)
    table = pd.DataFrame(rows)
    return table if table["premises"].any() else table.drop(columns="premises")


def chance_words(percent: float, start: str = "") -> str:
    """A chance for readers; empty where there is none."""
    if pd.isna(percent):
        return ""
    return f"{start}{percent:.0f}%" if 1 <= percent <= 99 else f"{start}1%" if percent < 1 else "above 99%"


def verdict_words(verdict: str, low: float, high: float, unit: str = "points") -> str:
    """A verdict for readers: `undecided within 9.6 points`; level only where the interval is narrow."""
    if verdict != "undecided":
        return verdict
    within = max(abs(low), abs(high))
    return f"{'level' if unit == 'points' and within <= SMALL else 'undecided'} within {within:.1f} {unit}"


def readable_comparisons(comparisons: pd.DataFrame, profile: str = "") -> pd.DataFrame:
    """The comparisons for readers; paper A's routes that were run lead to their pages, as seen from the profile's folder."""
    rows = []
    for row in comparisons.to_dict("records"):
        made, course = pd.notna(row["difference"]), "unit" in row
        digits, unit, more = (2, row["unit"], f" {row['unit']}") if course else (1, "points", "")
        if course:
            sides = {"comparison": row["label"] + (f", within {row['margin']:g} {unit}" if row["margin"] else "")}
        else:
            start = "" if row["profile"] == profile else f"../{row['profile']}/"
            sides = {s: link(route_label(row[s]), row[s], start) if made else route_label(row[s]) for s in LINK[1:]}
            sides |= {"set": f"{row['set']} for {row['meant']}" if row["set"] else row["meant"]}
        absent = row["verdict"] == "premise absent"
        here = verdict_words(row["by numbers"] if absent else row["verdict"], row["low"], row["high"], unit)
        printed = NOT_PRINTED if pd.isna(row["published"]) else f"{row['published']:+.1f}"
        source = "" if course or printed == NOT_PRINTED else f" ({row['published source']})"
        supported = verdict_words(*(row[f"published {what}"] for what in ("verdict", "low", "high")))
        found = interval(*(row[c] for c in ("difference", "low", "high")), 1, digits, True) + more if made else ""
        shown = {"claim": row["claim"], **sides, "published": printed + source, "its tables support": supported}
        shown |= {"difference": found, "here": f"premise absent (numbers alone: {here})" if absent else here}
        shown |= {"chance to hold": chance_words(row["chance"])}
        shown |= {"could see": f"{row['detectable']:.{digits}f} {unit}" if made else ""}
        rows.append(shown | ({} if course else _budget_and_remark(row, made)))
    return pd.DataFrame(rows)


def _budget_and_remark(row: dict, made: bool) -> dict[str, str]:
    remarks = [row["unequal because"] if made else row["missing"]]
    remarks += ["one seed: nothing is known of another run"] if made and row["seeds"] == 1 else []
    remarks += [f"at least as good, within {row['margin']:g} points"] if row["margin"] else []
    remarks += [f"premise {state}" for state in row["premises"].split(", ") if state and not state.endswith("present")]
    labels = f"{row['labels better']:,.0f} / {row['labels than']:,.0f}" if made else ""
    return {"labels": labels, "remark": "; ".join(filter(None, remarks))}


def judged_at(results: Mapping[str, Results]) -> str:
    """At which decoding the claims are judged, the main one of each profile."""
    ways: dict[str, list[str]] = {}
    for found in results.values():
        ways.setdefault(found.profile.evaluation.words, []).append(found.name)
    told = "; ".join(f"{words} ({', '.join(names)})" for words, names in ways.items())
    return f"Claims are judged at the profile's main decoding: {told}."


def asked_table(outcomes: Sequence[Outcome], claims: Claims) -> pd.DataFrame:
    """What claims presuppose, for readers: a row a premise, profile and checkpoint that was asked."""
    asked = {(o.profile, m.premise, m.checkpoint, m.evaluation, m.condition): m for o in outcomes for m in o.premises}
    order, rows, said = list(claims.premises), [], set()
    for (profile, name, checkpoint, *_), measured in sorted(asked.items(), key=lambda item: order.index(item[0][1])):
        premise, condition = claims.premises[name], measured.condition
        scale, unit, what = 1, "", [f"{condition.measure} before the first step"]
        if condition.measure == "accuracy":
            scale, unit = 100, " points" if measured.minus else "%"
            minus = f" minus that of {route_label(measured.minus)}" if measured.minus else ""
            what = [f"accuracy on {measured.evaluation or condition.set}{minus}"]
            what += [f"decoding of {route_label(side)}: {decoding}" for side, decoding in measured.decodings.items()]
        word, bound = ("at most", condition.at_most) if condition.at_least is None else ("at least", condition.at_least)
        mean, low, high = (f"{scale * value:.3g}" for value in measured.estimate or (np.nan,) * 3)
        row = {"premise": name, "it says": "" if name in said else f"{premise.sentence} ({premise.source})"}
        row |= {"profile": profile, "of": route_label(checkpoint), "measured": "; ".join(what)}
        row |= {
            "value": f"{mean} [{low}, {high}]" if measured.estimate else "",
            "bound": f"{word} {scale * bound:g}{unit}",
        }
        rows.append(row | {"state": measured.state})
        said.add(name)
    return pd.DataFrame(rows)


def premises_sheet(results: Mapping[str, Results], claims: Claims, study: Study) -> Sheet:
    """What the predictions (claims P1 to P3) rest on: that the teachers of the warmed-up bridges in them are good (C1:
    `accuracy, <set>` of what the paper evaluates on), and near the student where the student goes (C2: a row a quantity,
    `before` and `after` the warmup, NaN where it was not measured)."""
    predicted = [one for name, claim in claims.claims.items() if name[0] == "P" for one in claim.comparisons]
    starts = dict.fromkeys(study.checkpoints[name].from_ for one in predicted for name in one.better_first)
    warmups = [name for name in starts if name and study.checkpoints[name].stage == "forward_kl"]
    quantities, rows, shown = load_report().quantities, [], []
    for found in results.values():
        for warmup in (name for name in warmups if seeds_of(found.bundle, name)):
            teacher, seeds = study.checkpoints[warmup].teacher, len(seeds_of(found.bundle, warmup))
            shared = {"profile": found.name, "teacher": teacher, "warmup": warmup, "seeds": seeds}
            told = {"profile": found.name, "teacher": route_label(teacher)}
            for meant, name in found.profile.stands_for.items():
                estimate = bootstrap(accuracies(found.bundle, teacher, name).to_numpy())
                shared |= columns(f"accuracy, {meant}", estimate)
                told[f"accuracy, set for {meant}, %"] = interval(*estimate)
            for column, words in quantities.items():
                row, cells = {"quantity": column}, {"quantity": words}
                for when, place in (("before", 0), ("after", -1)):
                    estimate = while_training(found.bundle, warmup, column, place)
                    row |= columns(when, estimate)
                    cells[when] = interval(*estimate, scale=1, digits=3) or "not measured"
                rows.append(shared | row)
                shown.append(told | cells)
                told = {name: value if name in ("profile", "teacher") else "" for name, value in told.items()}
    title = "What the predictions rest on: the teacher's reward (C1) and its distance from the student (C2)"
    first = [name for name in pd.DataFrame(shown) if name.startswith("accuracy")]
    table = pd.DataFrame(shown).fillna("no set")[["profile", "teacher", *first, "quantity", "before", "after"]]
    return Sheet("premises", pd.DataFrame(rows), {title: table}, load_report().notes["premises"])


def claims_figure(sheet: Sheet, title: str) -> Figure:
    """The dashboard: a row a pair under its claim, a column a set or unit; each interval against zero, its verdict by colour
    and marker, the paper's difference as a hollow diamond, a margin as a bar. Sets that nothing stands for have no column."""
    comparisons, keys, panels = sheet.numbers, [], {}
    if "label" not in comparisons:
        labels = [contrast_label(*pair) for pair in comparisons[LINK[1:]].to_numpy()]
        comparisons = comparisons.assign(label=labels, unit="points")
    shown = comparisons[comparisons["verdict"] != "no set"]
    for claim, own in shown.groupby("claim", sort=False):
        keys += [(claim, ""), *dict.fromkeys(zip(own["claim"], own["label"], strict=True))]
    for (meant, unit), own in shown.groupby(["meant", "unit"], sort=False):
        stands = f"{' and '.join(filter(None, own['set'].unique())) or 'nothing'} for {meant}" if meant else unit
        panels[stands.replace(" for ", "\nfor ")] = marks = []
        for row in own.to_dict("records"):
            place, made = keys.index((row["claim"], row["label"])), pd.notna(row["difference"])
            page = f"../{row['profile']}/{run_page(row['better'])}" if "profile" in row else None
            values = [row[column] if made else np.nan for column in ("difference", "low", "high")]
            marks.append(Mark(place, *values, *LOOKS.get(row["verdict"], (BLACK, "")), page=page))
            marks += [] if made else [Mark(place, marker="", text=row["verdict"])]
            marks += [PAPER._replace(place=place, mean=row["published"])] if pd.notna(row["published"]) else []
            marks += [Mark(place, -row["margin"], marker="|", size=9)] if row["margin"] else []
    claims = {row["claim"]: row for row in sheet.tables["Claims"].to_dict("records")}
    labels = [label or f"{claim}: {claims[claim]['here']}" for claim, label in keys]
    key = {verdict: Mark(color=color, marker=marker) for verdict, (color, marker) in LOOKS.items()}
    how = {"key": key | {"the paper's": PAPER}, "shared": False, "width": 8.4 / len(panels), "height": 0.22}
    figure = forest(panels, labels, title, "first minus second", **how)
    heads = {claim: keys.index((claim, "")) for claim in claims}
    for axes, unit in zip(figure.axes, shown.groupby(["meant", "unit"], sort=False)["unit"].first(), strict=True):
        if unit == "points":  # verdicts are decided within a few points, beside differences of half a hundred
            axes.set_xscale("symlog", linthresh=10, linscale=1.1)
            axes.set_xticks([-50, -20, -5, 0, 5, 20, 50], minor=False)
            axes.xaxis.set_major_formatter("{x:+.0f}")
            axes.tick_params(axis="x", labelsize=7.5)
        axes.title.set_fontsize(8.5)
        for place in heads.values():
            axes.axhspan(place - 0.5, place + 0.5, color="#EFEFEF", zorder=1.5)
    first = figure.axes[0]  # the sentences go over all panels
    first.set_zorder(1)
    first.patch.set_visible(False)
    look = {"transform": first.get_yaxis_transform(), "va": "center", "fontsize": 7.5}
    for claim, row in claims.items():
        said = f"(chance to hold: {row['chance to hold'] or 'unknown'}) {row['the paper']}"
        sentence = textwrap.shorten(said, 122, placeholder=" ...")  # what the panels have room for
        first.text(0.01, heads[claim], sentence, **look).set_in_layout(False)
    return figure
