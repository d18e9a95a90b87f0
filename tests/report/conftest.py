"""The committed results of the whole study, cut down so that a table takes no time, once for all tests; no test changes them."""

from pathlib import Path

import pytest

from s2d_lib.claims import Results
from s2d_lib.results.bundle import Bundle, read_bundle, write_csv, write_evaluation, write_records, write_samples
from s2d_lib.study import load_profile
from tests.conftest import ROOT


def few_of(profile: str, seeds=2, problems=24) -> Bundle:
    """A profile's committed results with fewer seeds, and problems of its first two sets, at the main decoding alone."""
    whole = read_bundle(ROOT / "figures" / profile / "results")
    evaluation, curves, validation = (
        rows[rows["seed"] < seeds] for rows in (whole.evaluation, whole.curves, whole.validation)
    )
    evaluation = evaluation[evaluation["set"].isin(whole.sets[:2])]
    evaluation = evaluation.groupby(["seed", "checkpoint", "set"], sort=False).head(problems)
    records = {key: record for key, record in whole.records.items() if key[1] < seeds}
    return Bundle(evaluation, curves, records, validation)


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
