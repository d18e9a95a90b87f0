"""Claims as tables and as one picture: what the papers say, what their tables support, what this study measured."""

import textwrap
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from s2d_lib.claims import Claims, Outcome, Published, Results, claim_verdict
from s2d_lib.claims.moments import CurveOutcome
from s2d_lib.claims.printed import printed_difference, printed_verdict
from s2d_lib.claims.schema import Claim, CurveClaim
from s2d_lib.errors import StudyError
from s2d_lib.report.run_pages import link, run_page
from s2d_lib.report.study_table import open_results
from s2d_lib.report.style import BLACK, BLUE, GREY, VERMILLION, route_label, use_style
from s2d_lib.report.tables import write_forms
from s2d_lib.study.load import did_you_mean, profile_names, project_root

SMALL = 2.0
"""Points: a difference that would matter, where the paper prints none; a narrower interval around 0 is called level."""

VERDICT_NOTE = (
    "A comparison holds when its 95% interval lies above 0 (with a margin: above minus the margin) and is contradicted when it "
    f"lies below; undecided ones say within how many points, and are called level when that is at most {SMALL:g}. A claim holds "
    "when all its comparisons hold and is contradicted when one is at 5% divided by their number; nothing is corrected for the "
    "number of claims, so some of so many verdicts are wrong by chance. `Could see` is the smallest true difference that this "
    "study finds with 80% power at two-sided 5%; the chance to hold is that of a study of this size when the printed difference "
    f"is the true one (where none is printed: {SMALL:g} points), of a claim at most that of its least likely comparison."
)
NOTE = (
    f"Differences in points, ours with 95% intervals over seeds and problems. {VERDICT_NOTE} What the paper's tables support is "
    "said with errors over problems that its printed means of 16 samples must have, unpaired; another training run is in none "
    "of them. Labels are distinct labeled problems over the whole route. Halves of the pool are drawn once and base models "
    "pretrained once: no interval holds what others would change."
)

VERDICT_STYLE = {
    "holds": (BLUE, "o"),
    "contradicted": (VERMILLION, "X"),
    "undecided": (GREY, "s"),
    "not run": (BLACK, ""),
    "no set": (BLACK, ""),
    "not printed": (BLACK, ""),
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
        `published` with its `low` and `high`, `published source` and `published verdict` (what the paper's tables support);
        `chance` of holding, percent; `labels better`, `labels than`, `gradings better`, `gradings than`; `unequal because`,
        `verdict`, `refuted` (contradicted at the level corrected for the claim), `missing`.
    """
    return pd.DataFrame([_row(outcome, published) for outcome in outcomes])


def _row(outcome: Outcome, published: Published) -> dict:
    what = outcome.family, outcome.better, outcome.than, outcome.meant
    found, printed = published.difference(*what), printed_difference(published, *what)
    result, budgets = outcome.result, outcome.budgets
    measured = {
        "seeds": result and result.seeds,
        "problems": result and result.problems,
        "difference": result and 100 * result.difference.mean,
        "low": result and 100 * result.difference.low,
        "high": result and 100 * result.difference.high,
        "problem error": result and 100 * result.problem_error,
        "detectable": result and 100 * result.detectable,
        "margin": outcome.margin,
        "chance": result and 100 * result.chance((found.value if found else SMALL) / 100),
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
        "published": found and found.value,
        "published low": printed and printed.low,
        "published high": printed and printed.high,
        "published source": found.source if found else "not printed",
        "published verdict": printed_verdict(published, *what, margin=outcome.margin),
        **spent,
        "unequal because": outcome.reason,
        "verdict": outcome.verdict,
        "refuted": bool(result and result.refuted),
        "missing": outcome.missing,
    }


def claims_table(
    outcomes: Sequence[Outcome | CurveOutcome],
    claims: Mapping[str, Claim | CurveClaim],
    comparisons: pd.DataFrame,
) -> pd.DataFrame:
    """One row a claim.

    Args:
        outcomes: The comparisons.
        claims: What they are of.
        comparisons: From `comparisons_table`, here or in s2d_lib.report.courses.

    Returns:
        `claim`, `sentence`, `source`; how many `comparisons` and how many of them are `holds`, `contradicted`, `undecided`,
        `not run`, `no set`; `published verdict`: what the paper's tables support; `verdict` of the claim here and the greatest
        `chance` (percent) that it could have held; `missing`: what it would take to decide the rest.
    """
    rows = []
    for name, claim in claims.items():
        own = comparisons[comparisons["claim"] == name]
        found = [outcome.result for outcome in outcomes if outcome.claim == name]
        rows.append(
            {
                "claim": name,
                "sentence": claim.sentence,
                "source": claim.source,
                "comparisons": len(own),
                **{kind: (own["verdict"] == kind).sum() for kind in COUNTED},
                "published verdict": together(own["published verdict"]),
                "verdict": claim_verdict(
                    [r for r, word in zip(found, own["verdict"], strict=True) if word != "no set"]
                ),
                "chance": own["chance"].astype(float).min(),
                "missing": "; ".join(dict.fromkeys(text for text in own["missing"] if text)),
            }
        )
    return pd.DataFrame(rows)


COUNTED = ("holds", "contradicted", "undecided", "not run", "no set")


def together(verdicts: pd.Series) -> str:
    """Of a claim, from those of its comparisons on the paper's own tables that are printed, at 95% each."""
    found = set(verdicts) - {"not printed"}
    return next((word for word in ("contradicted", "undecided", "holds") if word in found), "not printed")


def readable_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims for readers: the paper's sentence, what its tables support, and what holds here."""
    rows = []
    for row in claims.to_dict("records"):
        counts = [f"{row[kind]} {kind}" for kind in COUNTED if row[kind]]
        rows.append(
            {
                "claim": row["claim"],
                "the paper": row["sentence"],
                "source": row["source"],
                "its tables support": row["published verdict"],
                "here": row["verdict"]
                + (", as far as there are sets" if row["no set"] and row["verdict"] == "holds" else ""),
                "chance to hold": chance_words(row["chance"], "at most "),
                "comparisons": ", ".join(counts),
                "missing": row["missing"],
            }
        )
    return pd.DataFrame(rows)


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
    level = unit == "points" and within <= SMALL
    return f"{'level' if level else 'undecided'} within {within:.1f} {unit}"


def readable_comparisons(comparisons: pd.DataFrame, folder: Path | None = None) -> pd.DataFrame:
    """The comparisons for readers; with links to run pages where the tables go to a `folder`, figures/<profile>."""
    rows = []
    for row in comparisons.to_dict("records"):
        made = not pd.isna(row["difference"])
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
                "published": _published(row),
                "its tables support": verdict_words(
                    row["published verdict"], row["published low"], row["published high"]
                ),
                "difference": f"{row['difference']:+.1f} [{row['low']:+.1f}, {row['high']:+.1f}]" if made else "",
                "here": verdict_words(row["verdict"], row["low"], row["high"]),
                "chance to hold": chance_words(row["chance"]),
                "could see": f"{row['detectable']:.1f} points" if made else "",
                "labels": f"{row['labels better']:,.0f} / {row['labels than']:,.0f}" if made else "",
                "remark": "; ".join(filter(None, remarks)),
            }
        )
    return pd.DataFrame(rows)


def _route(checkpoint: str, row: dict, folder: Path | None) -> str:
    """A route's label; where its runs exist it leads to its page, which may be another profile's."""
    label = route_label(checkpoint)
    if folder is None or pd.isna(row["difference"]):
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
    """The dashboard: one row a pair, grouped by claim, and a column a set; its interval against zero, its verdict by colour
    and marker, the published difference as a hollow diamond, a margin as a dashed mark. Sets that nothing stands for have
    no column; the claim's line and the foot say so.

    Args:
        claims: From `claims_table`.
        comparisons: From `comparisons_table`, here or in s2d_lib.report.courses, whose rows bring a label and a unit.
        title: Of the figure.
    """
    use_style()
    if "label" not in comparisons:
        labels = [contrast_label(*pair) for pair in zip(comparisons["better"], comparisons["than"], strict=True)]
        comparisons = comparisons.assign(label=labels, unit="points")
    shown = comparisons[comparisons["verdict"] != "no set"]
    columns = list(dict.fromkeys(shown["meant"]))
    panels = {unit: claims[claims["claim"].isin(part["claim"])] for unit, part in shown.groupby("unit", sort=False)}
    rows = {
        unit: 2 + len(own) + len(shown[shown["unit"] == unit].drop_duplicates(["claim", "label"]))
        for unit, own in panels.items()
    }
    figure, grid = plt.subplots(
        len(panels),
        len(columns),
        figsize=(6.2 + 2.9 * len(columns), 0.205 * sum(rows.values()) + 0.6 * len(panels) + 1.3),
        height_ratios=list(rows.values()),
        sharey="row",
        squeeze=False,
    )
    # Inches: labels come out wider in print than where the layout measures them.
    figure.get_layout_engine().set(w_pad=0.2)
    for axes, (unit, own) in zip(grid, panels.items(), strict=True):
        for panel, column in zip(axes, columns, strict=True):
            part = shown[(shown["unit"] == unit) & (shown["meant"] == column)]
            _panel(panel, own, shown[shown["unit"] == unit], part, unit)
        _headlines(axes[-1], own, shown[shown["unit"] == unit])
    for panel, column in zip(grid[0], columns, strict=True):
        panel.set_title(_column_title(shown[shown["meant"] == column]), fontsize=9.5)
    figure.suptitle(textwrap.fill(title, int(10 * figure.get_figwidth())), fontweight="bold", x=0.01, ha="left")
    marks = [
        Line2D([], [], color=color, marker=marker, markersize=SIZE[marker], linewidth=1.4, label=verdict)
        for verdict, (color, marker) in VERDICT_STYLE.items()
        if marker
    ]
    if shown["published"].notna().any():
        marks.append(Line2D([], [], color=BLACK, marker="D", markerfacecolor="none", linewidth=0, label="the paper's"))
    if shown["margin"].any():
        marks.append(Line2D([], [], color=BLACK, linestyle=":", linewidth=1, label="margin"))
    lost = dict.fromkeys(comparisons.loc[comparisons["verdict"] == "no set", "missing"])
    foot = "\n".join(f"* {sentence}: those comparisons are not drawn, and not in the verdict" for sentence in lost)
    legend = figure.legend(handles=marks, loc="outside lower center", ncols=len(marks), title=foot or None)
    legend.get_title().set_fontsize(8.5)
    plt.close(figure)
    return figure


def _column_title(part: pd.DataFrame) -> str:
    """What a set is, and what of the paper it stands for; sets of another profile with the claims that are about them."""
    if "set" not in part:
        return ""
    first, *others = part[part["set"] != ""].drop_duplicates("set").to_dict("records") or [None]
    meant = part["meant"].iloc[0]
    if first is None:
        return f"{meant}: not run"
    more = [f"{', '.join(dict.fromkeys(part.loc[part['set'] == o['set'], 'claim']))}: {o['set']}" for o in others]
    return f"{first['set']}, standing for {meant}" + (f"\n({'; '.join(more)})" if more else "")


def _places(claims: pd.DataFrame, comparisons: pd.DataFrame) -> dict[tuple[str, str], int]:
    """Rows from above: (claim, label), a claim's own line with an empty label; the first row is the heading."""
    keys = []
    for claim in claims["claim"]:
        keys += [(claim, ""), *((claim, label) for label in comparisons.loc[comparisons["claim"] == claim, "label"])]
    return {key: place for place, key in enumerate(dict.fromkeys(keys), start=1)}


def _panel(axes: plt.Axes, claims: pd.DataFrame, all_rows: pd.DataFrame, own: pd.DataFrame, unit: str) -> None:
    """The claims whose comparisons are in one unit, on one set."""
    places = _places(claims, all_rows)
    for row in own.to_dict("records"):
        _comparison(axes, places[row["claim"], row["label"]], row)
    axes.axvline(0, color=BLACK, linewidth=0.8)
    ticks = {place: label for (_, label), place in places.items() if label}
    axes.set_yticks(list(ticks), list(ticks.values()), fontsize=7.5)
    axes.set_ylim(len(places) + 0.6, -0.6)
    axes.set_xlabel(f"difference, {unit}\n(first minus second)", fontsize=8.5)
    if unit == "points":  # verdicts are decided within a few points, beside differences of half a hundred
        far = max(60.0, 1.05 * all_rows[["low", "high", "published"]].astype(float).abs().max(axis=None))
        axes.set_xscale("symlog", linthresh=10, linscale=1.1)
        axes.set_xlim(-far, far)
        axes.set_xticks([t for t in POINTS if abs(t) <= far], minor=False)
        axes.set_xticks([], minor=True)
        axes.xaxis.set_major_formatter(lambda x, _: f"{x:+.0f}" if x else "0")
        axes.tick_params(axis="x", labelsize=7.5)
        axes.set_xlabel(f"difference, {unit} (first minus second);\nlogarithmic beyond 10", fontsize=8.5)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)


POINTS = (-50, -20, -10, -5, 0, 5, 10, 20, 50)
"""Marked differences on an axis that is linear up to 10 points and logarithmic beyond."""


def _headlines(axes: plt.Axes, claims: pd.DataFrame, comparisons: pd.DataFrame) -> None:
    """A band over the whole figure with each claim and its verdicts; the layout takes no notice of it. Drawn on the last
    panel, which lies above the others."""
    across = blended_transform_factory(axes.figure.transFigure, axes.transData)
    style = {"transform": across, "va": "center", "fontsize": 8, "zorder": 3}
    places = _places(claims, comparisons)
    wide = axes.figure.get_figwidth()
    chance, here, printed = (1 - inches / wide for inches in (0.1, 1.15, 2.25))

    def say(x: float, place: int, text: str, **more) -> None:
        axes.text(x, place, text, ha="right", **style, **more).set_in_layout(False)

    def band(place: int, color: str) -> None:
        drawn = Rectangle((0, place - 0.5), 1, 1, transform=across, color=color, clip_on=False, zorder=2.5)
        drawn.set_in_layout(False)
        axes.add_patch(drawn)

    band(0, "white")
    for x, heading in ((printed, "paper's tables"), (here, "here"), (chance, "chance to hold")):
        say(x, 0, heading, style="italic")
    for claim in claims.to_dict("records"):
        place = places[claim["claim"], ""]
        band(place, "#EFEFEF")
        axes.text(0.1 / wide, place, f"{claim['claim']}  {claim['sentence']}", **style).set_in_layout(False)
        for x, verdict in ((printed, claim["published verdict"]), (here, claim["verdict"])):
            starred = verdict + ("*" if x == here and claim["no set"] else "")
            say(x, place, starred, color=VERDICT_STYLE[verdict][0], weight="bold")
        say(chance, place, chance_words(claim["chance"], "≤ "))


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
    if pd.isna(row["difference"]):
        axes.text(
            0.99, place, row["verdict"], transform=axes.get_yaxis_transform(), ha="right", va="center", fontsize=7.5
        )
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
