"""Untrained models at their best temperature, and every checkpoint at every decoding of a profile."""

from collections.abc import Sequence
from dataclasses import replace

import pandas as pd

from s2d_lib.claims.bootstrap import bootstrap
from s2d_lib.claims.fair import seeds_of
from s2d_lib.errors import StudyError
from s2d_lib.report.style import BEST, interval, route_label
from s2d_lib.results.bundle import Bundle

STUDENT = "student"
SAMPLE = ["seed", "checkpoint", "set", "problem", "decoding"]


def best_decodings(bundle: Bundle, checkpoint: str) -> pd.Series:
    """The decoding of highest mean accuracy by evaluation set, the first of equal ones; empty where there is one only."""
    own = bundle.decoded[bundle.decoded["checkpoint"] == checkpoint]
    if own["decoding"].nunique() < 2:
        return pd.Series(dtype=object)
    right = own["correct"].map(lambda bits: bits.count("1") / len(bits))
    means = right.groupby([own["set"], own["decoding"]], sort=False).mean()
    return means.groupby(level="set", sort=False).idxmax().str[1]


def with_best(bundle: Bundle) -> Bundle:
    """The results with one checkpoint more, `<name>@best`, for every base model that was evaluated at several decodings: on
    each set it is that model at the best of them."""
    bases = sorted({name for (name, _), record in bundle.records.items() if record["resolved"]["stage"] == "base"})
    rows, records = [bundle.evaluation], dict(bundle.records)
    for name in bases:
        best = best_decodings(bundle, name)
        if not best.empty:
            own = bundle.decoded[bundle.decoded["checkpoint"] == name]
            chosen = own[own["decoding"] == own["set"].map(best)].drop(columns="decoding")
            rows.append(chosen.assign(checkpoint=f"{name}{BEST}"))
            records |= {(f"{name}{BEST}", seed): bundle.records[name, seed] for seed in seeds_of(bundle, name)}
    return replace(bundle, evaluation=pd.concat(rows), records=records)


def beside_untrained(bundle: Bundle, rows: Sequence[str]) -> list[str]:
    """Rows of a table with every base model's at its best temperature behind its own.

    The student's stands first where the student is no row itself, if it was evaluated with the seeds of the others.

    Args:
        bundle: From `with_best`.
        rows: Checkpoints.
    """
    made = {name for name, _ in bundle.records}
    best = f"{STUDENT}{BEST}"
    found = (
        [best] if best in made and STUDENT not in rows and seeds_of(bundle, best) == seeds_of(bundle, rows[0]) else []
    )
    for row in rows:
        found += [row, f"{row}{BEST}"] if f"{row}{BEST}" in made else [row]
    return found


def shared_decodings(bundle: Bundle, rows: Sequence[str]) -> list[str]:
    """The decodings at which all of these checkpoints were evaluated, if there are several."""
    at = bundle.decoded.groupby("decoding", sort=False)["checkpoint"].unique()
    shared = [decoding for decoding, names in at.items() if set(rows) <= set(names)]
    return shared if len(shared) > 1 else []


def by_decoding(bundle: Bundle, checkpoint: str) -> pd.DataFrame:
    """A checkpoint at every decoding for readers: a row each, percent with 95% intervals on every set; empty if there is one."""
    own = bundle.decoded[bundle.decoded["checkpoint"] == checkpoint]
    rows = []
    for decoding in own["decoding"].unique():
        at = bundle.at(decoding)
        found = {name: bootstrap(at.accuracy(checkpoint, name).to_numpy()) for name in bundle.sets}
        rows.append(
            {"decoding": decoding} | {f"{name}, %": interval(e.mean, e.low, e.high) for name, e in found.items()}
        )
    return pd.DataFrame(rows)


def best_note(bundle: Bundle, rows: Sequence[str]) -> str:
    """What is to be said under a table with such rows; nothing where there are none."""
    names = [row.removesuffix(BEST) for row in rows if row.endswith(BEST)]
    if not names:
        return ""
    tried = bundle.decoded.loc[bundle.decoded["checkpoint"].isin(names), "decoding"].unique()
    won = [
        f"{route_label(name)}, {place}: {decoding}"
        for name in names
        for place, decoding in best_decodings(bundle, name).items()
    ]
    return (
        f"At its best temperature: as it does best of {' / '.join(tried)}, chosen on that very set, which favours the "
        f"untrained model ({'; '.join(won)}). "
    )


def with_untrained(bundle: Bundle, other: Bundle) -> Bundle:
    """The results with the decodings at which other results have the same base models.

    Raises:
        StudyError: A run of the others is not the same model on the same problems.
    """
    for (name, seed), record in other.records.items():
        own, theirs = (r["resolved"] for r in (bundle.records.get((name, seed), {"resolved": {}}), record))
        differs = [k for k in theirs if k not in ("profile", "evaluation", "overrides") and own.get(k) != theirs[k]]
        if differs or theirs["stage"] != "base":
            raise StudyError(
                f"`untrained_results` has a run {name!r}, seed {seed}, that is not the base model of these results "
                f"({', '.join(differs) or 'stage'} differs): evaluate the untrained models of this very profile there."
            )
    decoded = pd.concat([bundle.decoded, other.decoded]).drop_duplicates(SAMPLE)
    return replace(bundle, decoded=decoded)
