"""What a given solution is worth: measured once, read back while the models are the same."""

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims import bootstrap, load_claims
from s2d_lib.report import given
from s2d_lib.report.courses import spec_of

OWN = [0.5, 0.7, 0.9, 0.7] * 5


@pytest.fixture
def spec():
    return spec_of("micro-long", load_claims()).model_copy(
        update={"profiles": ["micro-arithmetic", "micro-conversion"]}
    )


@pytest.fixture
def measured():
    """The profiles that were asked about, and what stands in for sampling."""
    asked = []

    def table(profile):
        asked.append(profile)
        return pd.DataFrame({"problem": range(20), "alone": 0.2, "own solution": OWN, "another's solution": 0.3})

    return asked, table


def test_it_is_measured_once_for_the_same_weights(spec, measured, tmp_path):
    asked, measure = measured
    numbers = given.given_table(spec, tmp_path, measure)
    row = numbers.iloc[0]
    assert (row["problems"], row["alone"], row["own - alone"]) == (20, pytest.approx(0.2), pytest.approx(0.5))
    interval = bootstrap(np.array([OWN]), np.full((1, 20), 0.2))  # that of every other table
    assert (row["own - alone low"], row["own - alone high"]) == (interval.low, interval.high)
    given.write_given(numbers, tmp_path)
    cell = f"+50.0 [{100 * interval.low:+.1f}, {100 * interval.high:+.1f}]"
    assert cell in (tmp_path / "given_solution.md").read_text()
    again = given.given_table(spec, tmp_path, measure)
    assert asked == spec.profiles
    assert given.readable_given(again).equals(given.readable_given(numbers))


def test_other_weights_are_measured_again(spec, measured, tmp_path):
    asked, measure = measured
    given.write_given(given.given_table(spec, tmp_path, measure), tmp_path)
    path = tmp_path / "given_solution.csv"
    table = pd.read_csv(path)
    table.loc[1, "weights"] = "other"
    table.to_csv(path, index=False)
    given.given_table(spec, tmp_path, measure)
    assert asked == [*spec.profiles, "micro-conversion"]
