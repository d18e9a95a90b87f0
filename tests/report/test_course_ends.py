"""Where paper B's methods end: the table says what the evaluations say, and only what was published is shown as published."""

import pytest

from s2d_lib.claims import load_claims, load_published
from s2d_lib.report.course_ends import ends_table, published_of_paper_b, readable_ends, write_ends
from s2d_lib.report.courses import spec_of
from tests.report.synthetic import bundle_of_profile, project_with_results, write_bundle

TABLE = "self_distillation"
BENCHMARKS = ["micro-arithmetic", "micro-conversion"]


@pytest.fixture(scope="module")
def bundles():
    return {name: bundle_of_profile(name, sets=(name, f"{name}-hard"), tables=(TABLE,)) for name in BENCHMARKS}


@pytest.fixture(scope="module")
def project(bundles, tmp_path_factory):
    folder = project_with_results(tmp_path_factory.mktemp("ends"), bundles[BENCHMARKS[0]], BENCHMARKS[0], (TABLE,))
    write_bundle(bundles[BENCHMARKS[1]], folder / "figures" / BENCHMARKS[1] / "results")
    return folder


@pytest.fixture(scope="module")
def ends(project):
    spec = spec_of("micro-srpo", load_claims()).model_copy(update={"profiles": BENCHMARKS})
    return ends_table(spec, project)


def shares(bundle, checkpoint) -> list[float]:
    """Of right samples, one a seed and problem of any set."""
    rows = bundle.evaluation[bundle.evaluation["checkpoint"] == checkpoint]
    return [bits.count("1") / len(bits) for bits in rows["correct"]]


def test_a_mean_is_that_of_all_samples(ends, bundles):
    assert ends["checkpoint"].unique().tolist()[:2] == ["student", "student.grpo"]
    assert ends["benchmark"].unique().tolist() == ["all", *BENCHMARKS]
    for row in ends.to_dict("records"):
        of = BENCHMARKS if row["benchmark"] == "all" else [row["benchmark"]]
        expected = [share for name in of for share in shares(bundles[name], row["checkpoint"])]
        assert row["accuracy"] == pytest.approx(sum(expected) / len(expected))
        assert row["low"] < row["accuracy"] < row["high"]


def test_readers_get_a_row_a_method_and_a_column_a_benchmark(ends, tmp_path):
    shown = readable_ends(ends)
    assert list(shown) == ["method", "all", *BENCHMARKS]
    assert shown["method"].tolist()[1:4] == ["direct GRPO", "SDPO", "SRPO"]
    first = ends.iloc[0]
    low, high = 100 * first["low"], 100 * first["high"]
    assert shown.loc[0, "all"] == f"{100 * first['accuracy']:.1f} [{low:.1f}, {high:.1f}]"
    write_ends(ends, tmp_path, "A note.")
    assert "A note." in (tmp_path / "ends.md").read_text()


def test_all_that_paper_b_prints():
    table = published_of_paper_b(load_published())
    assert (
        len(table) == 2 * 4 * 6 + 2 + 3
    )  # models, methods and sets with their average; two ablations; seconds of three
    row = table[(table["models"] == "Qwen3-4B") & (table["set"] == "average") & (table["method"] == "SRPO")].iloc[0]
    assert row.filter(like="best within").tolist() == ["65.8", "71.2", "74.2"]
    assert row["untrained"] == "not printed"
