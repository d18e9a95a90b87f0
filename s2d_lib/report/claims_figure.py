"""The dashboard of claims: every comparison's interval against zero, with its claim's verdicts."""

import textwrap

import matplotlib.pyplot as plt
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Rectangle
from matplotlib.transforms import blended_transform_factory

from s2d_lib.report.claims import chance_words, contrast_label
from s2d_lib.report.run_pages import run_page
from s2d_lib.report.style import BLACK, BLUE, GREY, PURPLE, VERMILLION, use_style

VERDICT_STYLE = {
    "holds": (BLUE, "o"),
    "contradicted": (VERMILLION, "X"),
    "undecided": (GREY, "s"),
    "premise absent": (PURPLE, "v"),
    "not run": (BLACK, ""),
    "no set": (BLACK, ""),
    "not printed": (BLACK, ""),
}
"""Verdict -> colour and marker, so that none depends on colour alone."""

SIZE = {"o": 5, "X": 7, "s": 5, "v": 6}


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
        if marker and (verdict != "premise absent" or shown["verdict"].eq(verdict).any())
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
    chance, here, printed = (1 - inches / wide for inches in (0.1, 1.15, 2.4))

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
