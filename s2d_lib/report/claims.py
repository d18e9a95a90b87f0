"""Claims as tables: what the papers say, what their tables support, what this study measured, and what it presupposes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from pathlib import Path

import pandas as pd

from s2d_lib.claims import Claims, Outcome, Published, Results, claim_verdict
from s2d_lib.claims.fair import Measured
from s2d_lib.claims.printed import printed_difference, printed_verdict
from s2d_lib.claims.schema import Claim, CurveClaim
from s2d_lib.errors import StudyError
from s2d_lib.report.run_pages import link
from s2d_lib.report.study_table import open_results
from s2d_lib.report.style import route_label
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
    "pretrained once: no interval holds what others would change. A link is two routes of a claim, over all its sets. Where a "
    "premise is measurably missing, its 95% interval wholly beyond the bound, nothing is tested: `premise absent`, with what the "
    "numbers alone say in brackets; a premise that is not measured or unclear changes no verdict. Base models are taken at the "
    "decoding where they are best."
)


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
        `premises` (the state of each), `verdict`, `by numbers` (the verdict whatever is presupposed), `refuted` (contradicted
        at the level corrected for the claim), `missing`.
    """
    counted = Counter(outcome.claim for outcome in outcomes if outcome.verdict != "no set")
    return pd.DataFrame([_row(outcome, published, counted[outcome.claim]) for outcome in outcomes])


def _row(outcome: Outcome, published: Published, of: int) -> dict:
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
        "premises": _states(outcome.premises),
        "verdict": outcome.verdict,
        "by numbers": outcome.by_numbers,
        "refuted": bool(result and result.refuted(of)),
        "missing": outcome.missing,
    }


def _states(premises: Sequence[Measured]) -> str:
    """The state of each premise, that of the worst of its conditions."""
    worst = ("absent", "not measured", "unclear", "present")
    found: dict[str, list[str]] = {}
    for measured in premises:
        found.setdefault(measured.premise, []).append(measured.state)
    return ", ".join(f"{name} {min(states, key=worst.index)}" for name, states in found.items())


def claims_table(
    outcomes: Sequence[Outcome],
    claims: Mapping[str, Claim | CurveClaim],
    comparisons: pd.DataFrame,
) -> pd.DataFrame:
    """One row a claim.

    Args:
        outcomes: The comparisons.
        claims: What they are of.
        comparisons: From `comparisons_table`, here or in s2d_lib.report.courses.

    Returns:
        `claim`, `sentence`, `source`; how many `comparisons` and how many of them are of each verdict; `published verdict`: what
        the paper's tables support; `premises`: their states; `verdict` here, what it would be `by numbers` alone, and the
        greatest `chance` (percent) that it could have held; `missing`: what it would take to decide the rest.
    """
    return pd.DataFrame(
        {"claim": name, "sentence": claim.sentence, "source": claim.source}
        | _judged(outcomes, comparisons[comparisons["claim"] == name])
        for name, claim in claims.items()
    )


def links_table(outcomes: Sequence[Outcome], comparisons: pd.DataFrame) -> pd.DataFrame:
    """One row a link of a claim, which is two routes of which one should be better, over all its sets: `claim`, `better`, `than`
    and what `claims_table` says of a claim; arguments as there."""
    return pd.DataFrame(
        dict(zip(LINK, names, strict=True)) | _judged(outcomes, own)
        for names, own in comparisons.groupby(LINK, sort=False)
    )


LINK = ["claim", "better", "than"]
COUNTED = ("holds", "contradicted", "undecided", "premise absent", "not run", "no set")


def _judged(outcomes: Sequence[Outcome], own: pd.DataFrame) -> dict:
    """What several comparisons, rows of the outcomes' table, say together."""
    counted = own[own["verdict"] != "no set"]
    results = [outcomes[place].result for place in counted.index]
    premises = own.get("premises", pd.Series(dtype=str))
    return {
        "comparisons": len(own),
        **{kind: (own["verdict"] == kind).sum() for kind in COUNTED},
        "published verdict": together(own["published verdict"]),
        "premises": ", ".join(dict.fromkeys(word for text in premises for word in text.split(", ") if word)),
        "verdict": claim_verdict(results, counted["verdict"].eq("premise absent").tolist()),
        "by numbers": claim_verdict(results),
        "chance": own["chance"].astype(float).min(),
        "missing": "; ".join(dict.fromkeys(text for text in own["missing"] if text)),
    }


def together(verdicts: pd.Series) -> str:
    """Of a claim, from those of its comparisons on the paper's own tables that are printed, at 95% each."""
    found = set(verdicts) - {"not printed"}
    return next((word for word in ("contradicted", "undecided", "holds") if word in found), "not printed")


def readable_claims(claims: pd.DataFrame) -> pd.DataFrame:
    """The claims for readers: the paper's sentence, what its tables support, and what holds here."""
    rows = []
    for row in claims.to_dict("records"):
        shown = {"claim": row["claim"], "the paper": row["sentence"], "source": row["source"]}
        rows.append(shown | _shown(row, "at most ") | {"missing": row["missing"]})
    return _only_with_premises(rows)


def readable_links(links: pd.DataFrame) -> pd.DataFrame:
    """The links of claims for readers."""
    rows = []
    for row in links.to_dict("records"):
        several = row["comparisons"] - row["no set"] > 1
        shown = {"claim": row["claim"], "link": contrast_label(row["better"], row["than"])}
        rows.append(shown | _shown(row, "at most " if several else ""))
    return _only_with_premises(rows)


def _shown(row: dict, chance: str) -> dict[str, str]:
    """A claim's or a link's verdicts in words."""
    here = row["verdict"] + (", as far as there are sets" if row["no set"] and row["verdict"] == "holds" else "")
    if row["verdict"] != row["by numbers"]:
        here += f" (numbers alone: {row['by numbers']})"
    return {
        "its tables support": row["published verdict"],
        "here": here,
        "chance to hold": chance_words(row["chance"], chance),
        "comparisons": ", ".join(f"{row[kind]} {kind}" for kind in COUNTED if row[kind]),
        "premises": row["premises"],
    }


def _only_with_premises(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[c for c in rows[0] if c != "premises" or any(row[c] for row in rows)])


def judged_at(results: Mapping[str, Results]) -> str:
    """At which decoding the claims are judged, the main one of each profile."""
    ways: dict[str, list[str]] = {}
    for found in results.values():
        ways.setdefault(found.profile.evaluation.words, []).append(found.name)
    told = "; ".join(f"{words} ({', '.join(names)})" for words, names in ways.items())
    return f"Claims are judged at the profile's main decoding: {told}."


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
        remarks += [
            f"premise {state}" for state in row["premises"].split(", ") if state and not state.endswith("present")
        ]
        absent = row["verdict"] == "premise absent"
        here = verdict_words(row["by numbers" if absent else "verdict"], row["low"], row["high"])
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
                "here": f"premise absent (numbers alone: {here})" if absent else here,
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


def write_claims(
    claims: pd.DataFrame,
    links: pd.DataFrame,
    premises: pd.DataFrame,
    comparisons: pd.DataFrame,
    folder: Path,
    note: str = "",
) -> None:
    """Write claims.csv (all numbers of all comparisons, with their link's and their claim's verdict), claims.md and claims.tex.

    Args:
        claims: From `claims_table`.
        links: From `links_table`.
        premises: From s2d_lib.report.premises.asked_table.
        comparisons: From `comparisons_table`.
        folder: figures/<profile>.
        note: What to say of these results under the tables.
    """
    judged = links[[*LINK, "verdict", "chance"]].rename(columns={"verdict": "link verdict", "chance": "link chance"})
    numbers = comparisons.merge(judged, on=LINK, how="left")
    numbers["claim verdict"] = numbers["claim"].map(claims.set_index("claim")["verdict"])
    shown = {"Claims": readable_claims(claims), "Links of the claims": readable_links(links)}
    shown |= {} if premises.empty else {"What the claims presuppose": premises}
    linked = shown | {"Comparisons": readable_comparisons(comparisons, folder)}
    shown["Comparisons"] = readable_comparisons(comparisons)
    write_forms(numbers, shown, folder, "claims", f"{NOTE} {note}".strip(), linked)


def predictions_table(claims: Claims) -> pd.DataFrame:
    """What is expected of the map, as claims.yaml had it before the runs, one row a prediction."""
    rows = []
    for name, prediction in claims.map.items():
        row = {"prediction": name} | prediction.model_dump()
        row["compares"] = " > ".join(map(route_label, prediction.compares))
        row["where"] = ", ".join(f"{dial} {values}" for dial, values in prediction.where.items())
        rows.append(row)
    return pd.DataFrame(rows).rename(columns=lambda name: name.replace("_", " "))


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
