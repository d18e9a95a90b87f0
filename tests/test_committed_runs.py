"""Every committed run is still the one that params/ describe: the same parameters, the same hash."""

import pandas as pd
import pytest

from s2d_lib.results.bundle import read_bundle
from s2d_lib.study import points, profile_names, resolve
from s2d_lib.study.profile import settings_text
from tests.conftest import ROOT

RESULTS = {name: ROOT / "figures" / name / "results" for name in profile_names(ROOT)}


@pytest.mark.parametrize(
    "profile", [name for name, folder in RESULTS.items() if (folder / "records.json.xz").is_file()]
)
def test_the_committed_runs_resolve_as_they_did(profile):
    records = read_bundle(RESULTS[profile]).records
    assert records
    for (checkpoint, seed), record in records.items():
        resolved = resolve(profile, checkpoint, seed)
        assert resolved.hash == record["hash"], (checkpoint, seed)
        # A run may be taken over from another profile that has the same one.
        assert resolved.model_dump(mode="json") | {"profile": ""} == record["resolved"] | {"profile": ""}, (
            checkpoint,
            seed,
        )


@pytest.mark.parametrize("profile", [name for name, folder in RESULTS.items() if (folder / "points.csv").is_file()])
def test_the_committed_places_of_the_map_resolve_as_they_did(profile):
    rows = pd.read_csv(RESULTS[profile] / "points.csv", keep_default_na=False)
    found = {(p.part, settings_text(p.cell), p.route, settings_text(p.trial)): p for p in points(profile)}
    for row in rows.itertuples():
        point = found[row.part, row.cell, row.route, row.trial]
        resolved = resolve(profile, point.route, row.seed, point.overrides)
        assert row.run == f"{point.route}@{resolved.hash[:8]}"
