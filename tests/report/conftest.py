"""The committed results of the whole study, cut down so that a table takes no time, once for all tests; no test changes them."""

from collections.abc import Collection
from dataclasses import replace
from pathlib import Path

import pytest

from s2d_lib.claims import Results
from s2d_lib.results.bundle import Bundle, read_bundle, write_csv, write_evaluation, write_records, write_samples
from s2d_lib.study import load_profile
from tests.conftest import ROOT

SEEDS, PROBLEMS = (0, 1), 24


def few_of(profile: str) -> Bundle:
    """A profile's committed results with fewer seeds, and problems of its first two sets, at the main decoding alone."""
    whole = read_bundle(ROOT / "figures" / profile / "results")
    rows = whole.evaluation[whole.evaluation["set"].isin(whole.sets[:2])]
    rows = rows.groupby(["seed", "checkpoint", "set"], sort=False).head(PROBLEMS)
    return only(Bundle(rows, whole.curves, whole.records, whole.validation), {name for name, _ in whole.records})


def only(bundle: Bundle, checkpoints: Collection[str]) -> Bundle:
    """The results of some checkpoints with SEEDS."""
    records = {key: r for key, r in bundle.records.items() if key[0] in checkpoints and key[1] in SEEDS}
    tables = {name: getattr(bundle, name) for name in ("evaluation", "curves", "validation")}
    kept = {n: t[t["checkpoint"].isin(checkpoints) & t["seed"].isin(SEEDS)] for n, t in tables.items()}
    return replace(bundle, records=records, **kept)


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write it as s2d_lib.results.bundle.collect does."""
    folder.mkdir(parents=True, exist_ok=True)
    write_evaluation(bundle.evaluation, folder)
    for name in ("curves.csv.xz", "validation.csv.xz", "constant.csv"):
        write_csv(getattr(bundle, name.split(".")[0]), folder / name)
    write_samples(bundle.samples, folder / "samples.csv")
    records = {f"{name}@{seed}": record for (name, seed), record in bundle.records.items()}
    write_records(records, folder / "records.json.xz")


@pytest.fixture(scope="session")
def full() -> Results:
    return Results("micro-full", load_profile("micro-full"), few_of("micro-full"))
