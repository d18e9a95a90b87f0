"""Claims as tables and as one picture: what the papers say, what this study measured, and what follows."""

from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from s2d_lib.claims import Claims, Outcome, Published, Results, claim_verdict
from s2d_lib.errors import StudyError
from s2d_lib.report.run_pages import link, run_page
from s2d_lib.report.study_table import open_results
from s2d_lib.report.style import BLACK, BLUE, GREY, VERMILLION, route_label, use_style
from s2d_lib.report.tables import write_forms
from s2d_lib.study.load import did_you_mean, profile_names, project_root

NOTE = (
    "Differences in points with 95% intervals over seeds and problems. A comparison holds when its interval lies above 0 "
    "(with a margin: above minus the margin) and is contradicted when it lies below. A claim holds when all its "
    "comparisons hold and is contradicted when one is at 5% divided by their number. `Could see` is the smallest true "
    "difference that this study finds with 80% power at two-sided 5%; labels are distinct labeled problems over the whole "
    "route. Halves of the pool are drawn once and base models pretrained once: no interval holds what others would change."
)

VERDICT_STYLE = {
    "holds": (BLUE, "o"),
    "contradicted": (VERMILLION, "X"),
    "undecided": (GREY, "s"),
    "not run": (BLACK, ""),
}
"""Verdict -> colour and marker, so that none depends on colour alone."""

SIZE = {"o": 5, "X": 7, "s": 5}


def results_of(profile: str, claims: Claims, root: Path | None = None) -> dict[str, Results]:
    """The committed results of all profiles that play a model family in this profile's table.

    Args:
        profile: Whose table it is.
        claims: Whose `families` say which profile plays which family.
        root: The project's folder.

    Returns:
        Family -> results; without the families whose profile or results do not exist yet.

    Raises:
        StudyError: When claims.yaml gives the profile no part, or results that exist are broken.
    """
    root = root or project_root()
    if profile not in claims.families:
        hint = did_you_mean(profile, claims.families)
        raise StudyError(f"profile {profile!r} is not in `families` of claims.yaml, so no claim is about it; {hint}")
    return {
        family: open_results(name, root)
        for family, name in claims.families[profile].items()
        if name in profile_names(root) and (root / "figures" / name / "results").is_dir()
    }


def comparisons_table(outcomes: Sequence[Outcome], published: Published) -> pd.DataFrame:
    """All numbers, one row a comparison; differences, intervals and margins in points.

    Returns:
        `claim`, `better`, `than`, `family`, `profile`, `meant` (what the paper evaluates on), `set`; `seeds`, `problems`,
        `difference`, `low`, `high`, `problem error` (standard error over problems alone), `detectable`, `margin`;
        `published` and `published source`; `labels better`, `labels than`, `gradings better`, `gradings than`;
        `unequal because`, `verdict`, `refuted` (contradicted at the level corrected for the claim), `missing`.
    """
    return pd.DataFrame([_row(outcome, published) for outcome in outcomes])


def _row(outcome: Outcome, published: Published) -> dict:
    found = published.difference(outcome.family, outcome.better, outcome.than, outcome.meant)
    result, budgets = outcome.result, outcome.budgets
    measured = {
        "seeds": result and result.seeds,
        "problems": result and result.problems,
        "difference": result and 100 * result.difference.mean,
        "low": result and 100 * result.difference.low,
        "high": result and 100 * result.difference.high,
        "problem error": result and 100 * result.problem_error,
        "detectable": result and 100 * result.detectable,
    }
    spent = {
        f"{kind} {side}": budgets and getattr(budgets[place], kind)
        for kind in ("labels", "gradings")
        for place, side in enumerate(("better", "than"))
    }
    return {
        "claim": outcome.claim,
        "better": outcome.better,
        "than": outcome.than,
        "family": outcome.family,
        "profile": outcome.profile,
        "meant": outcome.meant,
        "set": outcome.evaluation,
        **measured,
        "margin": outcome.margin,
        "published": found and found.value,
        "published source": found.source if found else "not printed",
        **spent,
        "unequal because": outcome.reason,
        "verdict": result.verdict if result else "not run",
        "refuted": bool(result and result.refuted),
        "missing": outcome.missing,
    }


def claims_table(outcomes: Sequence[Outcome], claims: Claims) -> pd.DataFrame:
    """One row a claim.

    Returns:
        `claim`, `sentence`, `source`, `family`; `comparisons` and how many of them are `holds`, `contradicted`,
        `undecided`, `not run`; `verdict` of the claim; `missing`: what it would take to decide the rest.
    """
    rows = []
    for name, claim in claims.claims.items():
        own = [outcome for outcome in outcomes if outcome.claim == name]
        verdicts = [outcome.result.verdict if outcome.result else "not run" for outcome in own]
        rows.append(
            {
                "claim": name,
                "sentence": claim.sentence,
                "source": claim.source,
                "family": claim.family,
                "comparisons": len(own),
                **{kind: verdicts.count(kind) for kind in ("holds", "contradicted", "undecided", "not run")},
                "verdict": claim_verdict([outcome.result for outcome in own]),
                "missing": "; ".join(dict.fromkeys(outcome.missing for outcome in own if outcome.missing)),
            }
        )
    return pd.DataFrame(rows)


def readable_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims for readers."""
    counts = [
        ", ".join(f"{row[kind]} {kind}" for kind in ("holds", "contradicted", "undecided", "not run") if row[kind])
        for row in claims.to_dict("records")
    ]
    shown = claims[["claim", "sentence", "source"]].assign(comparisons=counts, verdict=claims["verdict"])
    return shown.assign(missing=claims["missing"])


def readable_comparisons(comparisons: pd.DataFrame, folder: Path | None = None) -> pd.DataFrame:
    """The comparisons for readers; with links to run pages where the tables go to a `folder`, figures/<profile>."""
    rows = []
    for row in comparisons.to_dict("records"):
        made = row["verdict"] != "not run"
        remarks = [row["missing"]] if not made else [row["unequal because"]]
        if made and row["seeds"] == 1:
            remarks.append("one seed: nothing is known of another run")
        if row["margin"]:
            remarks.append(f"at least as good, within {row['margin']:g} points")
        rows.append(
            {
                "claim": row["claim"],
                **{side: _route(row[side], row, folder) for side in ("better", "than")},
                "set": f"{row['set']} for {row['meant']}" if row["set"] else row["meant"],
                "difference": f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]" if made else "",
                "published": _published(row),
                "could see": f"{row['detectable']:.1f} points" if made else "",
                "labels": f"{row['labels better']:,.0f} / {row['labels than']:,.0f}" if made else "",
                "verdict": row["verdict"],
                "remark": "; ".join(filter(None, remarks)),
            }
        )
    return pd.DataFrame(rows)


def _route(checkpoint: str, row: dict, folder: Path | None) -> str:
    """A route's label; where its runs exist it leads to its page, which may be another profile's."""
    label = route_label(checkpoint)
    if folder is None or row["verdict"] == "not run":
        return label
    return link(label, checkpoint, "" if row["profile"] == folder.name else f"../{row['profile']}/")


def _published(row: dict) -> str:
    value = row["published"]
    return "not printed" if pd.isna(value) else f"{value:+.1f} ({row['published source']})"


def write_claims(claims: pd.DataFrame, comparisons: pd.DataFrame, folder: Path, note: str = "") -> None:
    """Write claims.csv (all numbers of all comparisons, with their claim's verdict), claims.md and claims.tex.

    Args:
        claims: From `claims_table`.
        comparisons: From `comparisons_table`.
        folder: figures/<profile>.
        note: What to say of these results under the tables.
    """
    numbers = comparisons.assign(**{"claim verdict": comparisons["claim"].map(claims.set_index("claim")["verdict"])})
    shown = {"Claims": readable_claims(claims), "Comparisons": readable_comparisons(comparisons)}
    links = shown | {"Comparisons": readable_comparisons(comparisons, folder)}
    write_forms(numbers, shown, folder, "claims", f"{NOTE} {note}".strip(), links)


def claims_figure(claims: pd.DataFrame, comparisons: pd.DataFrame, title: str) -> Figure:
    """The dashboard: one row a comparison, grouped by claim; its interval against zero, its verdict by colour and marker,
    the published difference as a hollow diamond, a margin as a dashed mark.

    Args:
        claims: From `claims_table`.
        comparisons: From `comparisons_table`, here or in s2d_lib.report.courses, whose rows bring a label and a unit.
        title: Of the figure.
    """
    use_style()
    comparisons = comparisons.assign(unit=comparisons.get("unit", "points"))
    panels = {
        unit: claims[claims["claim"].isin(part["claim"])] for unit, part in comparisons.groupby("unit", sort=False)
    }
    rows = {unit: len(own) + (comparisons["unit"] == unit).sum() for unit, own in panels.items()}
    figure, grid = plt.subplots(
        len(panels),
        figsize=(10.0, 0.205 * sum(rows.values()) + 0.6 * len(panels) + 0.8),
        height_ratios=list(rows.values()),
        squeeze=False,
    )
    # Inches: labels come out wider in print than where the layout measures them.
    figure.get_layout_engine().set(w_pad=0.2)
    for axes, (unit, own) in zip(grid.flat, panels.items(), strict=True):
        _panel(axes, own, comparisons[comparisons["unit"] == unit], unit)
    figure.suptitle(title, fontweight="bold", x=0.01, ha="left")
    marks = [
        Line2D([], [], color=color, marker=marker, markersize=SIZE[marker], linewidth=1.4, label=verdict)
        for verdict, (color, marker) in VERDICT_STYLE.items()
        if marker
    ]
    if comparisons["published"].notna().any():
        marks.append(Line2D([], [], color=BLACK, marker="D", markerfacecolor="none", linewidth=0, label="published"))
    if comparisons["margin"].any():
        marks.append(Line2D([], [], color=BLACK, linestyle=":", linewidth=1, label="margin"))
    figure.legend(handles=marks, loc="outside lower center", ncols=len(marks))
    plt.close(figure)
    return figure


def _panel(axes: plt.Axes, claims: pd.DataFrame, comparisons: pd.DataFrame, unit: str) -> None:
    """The claims whose comparisons are in one unit."""
    ticks, place = {}, 0
    for claim in claims.to_dict("records"):
        _headline(axes, place, claim)
        for row in comparisons[comparisons["claim"] == claim["claim"]].to_dict("records"):
            place += 1
            ticks[place] = (
                row["label"] if "label" in row else f"{contrast_label(row['better'], row['than'])} · {row['meant']}"
            )
            _comparison(axes, place, row)
        place += 1
    axes.axvline(0, color=BLACK, linewidth=0.8)
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7.5)
    axes.set_ylim(place - 0.4, -0.6)
    axes.set(xlabel=f"difference, {unit} (first minus second)")
    if unit == "points":  # verdicts are decided within a few points, beside differences of half a hundred
        far = max(60.0, 1.05 * comparisons[["low", "high", "published"]].abs().max(axis=None))
        axes.set_xscale("symlog", linthresh=10, linscale=1.1)
        axes.set_xlim(-far, far)
        axes.set_xticks([t for t in POINTS if abs(t) <= far], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:+.0f}" if x else "0")
        axes.set_xlabel(f"{axes.get_xlabel()}; logarithmic beyond 10")
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


POINTS = (-50, -20, -10, -5, -2, 0, 2, 5, 10, 20, 50)
"""Marked differences on an axis that is linear up to 10 points and logarithmic beyond."""


def _headline(axes: plt.Axes, place: int, claim: dict) -> None:
    """A band over the whole figure with the claim and its verdict; the layout takes no notice of it."""
    across = blended_transform_factory(axes.figure.transFigure, axes.transData)
    band = Rectangle((0, place - 0.5), 1, 1, transform=across, color="#EFEFEF", clip_on=False, zorder=2.5)
    band.set_in_layout(False)
    axes.add_patch(band)
    color, _ = VERDICT_STYLE[claim["verdict"]]
    style = {"transform": across, "va": "center", "fontsize": 8.5, "zorder": 3}
    axes.text(0.01, place, f"{claim['claim']}  {claim['sentence']}", **style).set_in_layout(False)
    axes.text(0.99, place, claim["verdict"], color=color, weight="bold", ha="right", **style).set_in_layout(False)


def contrast_label(better: str, than: str, sign: str = " > ") -> str:
    """`a > b` in readers' words, what both have in common behind it."""
    left, right = (route_label(name).split(", ") for name in (better, than))
    start = _common(left, right)
    end = _common(left[start:][::-1], right[start:][::-1])
    own = [", ".join(words[start : len(words) - end]) for words in (left, right)]
    if not all(own):  # one adds to the other: the bridge, and the bridge with something behind it
        own = [words or f"{left[0]} alone" for words in own]
    elif start and len(left) != len(right):  # what is left of a bridge would read as the teacher itself
        return f"{route_label(better)}{sign}{route_label(than)}"
    return " · ".join(filter(None, [sign.join(own), ", ".join(left[:start] + left[len(left) - end :])]))


def _common(left: list[str], right: list[str]) -> int:
    """How many words both begin with."""
    return next((n for n, words in enumerate(zip_longest(left, right)) if words[0] != words[1]), len(left))


def _comparison(axes: plt.Axes, place: int, row: dict) -> None:
    color, marker = VERDICT_STYLE[row["verdict"]]
    if row["verdict"] == "not run":
        axes.text(0.99, place, "not run", transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7.5)
    else:
        axes.plot([row["low"], row["high"]], [place, place], color=color, linewidth=1.4)
        page = f"../{row['profile']}/{run_page(row['better'])}" if "profile" in row else None
        axes.plot(row["difference"], place, marker, color=color, markersize=SIZE[marker], url=page)
    if row["margin"]:
        axes.plot([-row["margin"]] * 2, [place - 0.45, place + 0.45], ":", color=BLACK, linewidth=1)
    if not pd.isna(row["published"]):
        axes.plot(
            row["published"], place, "D", color=BLACK, markerfacecolor="none", markersize=4.5, markeredgewidth=0.9
        )
