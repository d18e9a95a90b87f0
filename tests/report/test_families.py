"""Two families side by side, and one sentence for a family without results."""

import shutil

import pytest

from s2d_lib.claims import load_claims
from s2d_lib.errors import StudyError
from s2d_lib.report.families import families, family_differences, family_numbers, write_families
from tests.report.synthetic import bundle_of_profile, write_bundle


@pytest.fixture(scope="module")
def project(full, tmp_path_factory):
    """A project in which only the first family has results."""
    from tests.conftest import ROOT

    folder = tmp_path_factory.mktemp("families")
    shutil.copytree(ROOT / "params", folder / "params")
    write_bundle(full.bundle, folder / "figures" / "micro-full" / "results")
    return folder


def test_a_family_without_results_is_named_and_the_other_shown(project):
    found, missing = families("micro-full", load_claims(), project)
    assert [family.name for family in found] == ["Qwen3"]
    assert missing == ["The Llama family is played by profile micro-llama, which has no results of table8 yet."]
    rows, pages = family_differences(found, "micro-full")
    assert list(pages.values()) == ["", ""]
    assert "student.grpo" not in rows["checkpoint"].tolist()  # the reference


def test_both_families_stand_side_by_side_each_with_its_own_pages(full, project, tmp_path):
    both = tmp_path / "both"
    shutil.copytree(project, both)
    llama = bundle_of_profile("micro-llama", sets=("sorting-math", "sorting-aime"), tables=("table8",))
    write_bundle(llama, both / "figures" / "micro-llama" / "results")
    found, missing = families("micro-full", load_claims(), both)
    assert ([family.name for family in found], missing) == (["Qwen3", "Llama"], [])
    rows, pages = family_differences(found, "micro-full")
    assert pages["micro-llama: sorting-math"] == "../micro-llama/"
    bridge = rows.set_index("checkpoint").loc["student.bridge.rl_teacher"]
    assert bridge["micro-llama: sorting-math published"] == pytest.approx(62.1 - 59.8)
    assert bridge["micro-full: micro-math published"] == pytest.approx(79.3 - 75.9)
    assert family_numbers(found)["family"].tolist() == ["Qwen3"] * 6 + ["Llama"] * 6
    folder = both / "figures" / "micro-full"
    write_families(found, missing, folder)
    text = (folder / "families.md").read_text()
    assert "](runs/student.grpo.md)" in text
    assert "](../micro-llama/runs/student.grpo.md)" in text


def test_no_family_with_results_is_an_error(tmp_path, root):
    (tmp_path / "params").symlink_to(root / "params")
    with pytest.raises(StudyError, match="no family has results of table8: make them with `make study"):
        families("micro-full", load_claims(), tmp_path)
