"""params/report.yaml: every route has its own label and look, and every table of a profile is written by one notebook."""

from collections import Counter

import pytest
import yaml

from s2d_lib.claims import load_claims
from s2d_lib.errors import StudyError
from s2d_lib.report import style
from s2d_lib.report.looks import analyses_of, load_report, route_label, route_labels, route_look
from s2d_lib.study import load_profile, load_study, profile_names


def test_no_two_routes_look_the_same_or_are_called_the_same():
    names = list(load_study().checkpoints)
    assert set(names) == set(load_report().routes)
    for what in (route_look, route_label):
        assert not [found for found, times in Counter(map(what, names)).items() if times > 1]
    assert set(load_report().colors.values()) <= {value for value in vars(style).values() if isinstance(value, str)}


def test_labels_also_of_what_nobody_foresaw_and_short_where_no_row_needs_to_say_who_taught_it():
    labels = {
        "student.grpo_2H": "cold GRPO on 2H",
        "student@best": "base student, at its best temperature",
        "student.bridge.rl_teacher.jsd": "bridge, RL teacher, jsd",
        "judge.rl.twice": "judge.rl.twice",
    }
    assert {name: route_label(name) for name in labels} == labels
    assert route_look("student.bridge.rl_teacher.jsd")[0] == route_look("student.bridge.rl_teacher")[0]
    opd = "student.opd_only.rl_teacher"
    assert route_labels([opd, "student@best"]) == {opd: "OPD only", "student@best": labels["student@best"]}
    assert route_labels([opd, "student.bridge.rl_same_size"])[opd] == "OPD only, RL teacher"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"routes": {"student": {"label": "a", "color": "blue"}}}, r"routes.student.color: .*given 'blue'"),
        ({"contrasts": {"a": {"title": "t", "pairs": [["student", "student.gpro"]]}}}, "did you mean 'student.grpo'"),
        ({"notebooks": {"n": {"writes": ["tabel2"]}}}, "'tabel2', which is not declared; did you mean 'table2'"),
    ],
)
def test_what_is_wrong_in_the_file_is_said_in_a_sentence(root, tmp_path, change, words):
    (tmp_path / "params").mkdir()
    page = yaml.safe_load((root / "params" / "report.yaml").read_text()) | change
    (tmp_path / "params" / "report.yaml").write_text(yaml.safe_dump(page))
    (tmp_path / "params" / "study.yaml").write_text((root / "params" / "study.yaml").read_text())
    with pytest.raises(StudyError, match=words):
        load_report(tmp_path)


def test_every_table_of_a_profile_is_written_by_one_notebook_that_has_runs_for_it():
    claims = load_claims()
    for name in profile_names():
        profile = load_profile(name)
        chosen, rest = analyses_of(name, profile, claims)
        written = [table for one in chosen.values() for table in one.writes]
        assert sorted(written + rest) == sorted(profile.tables), name
    own = {name: one for name, one in load_report().notebooks.items() if one.committed == "micro-full"}
    assert analyses_of("micro-full", load_profile("micro-full"), claims) == (own, [])
    partial = load_profile("micro", {"tables": ["table2", "table7"]})
    chosen, rest = analyses_of("micro", partial, claims)
    assert (list(chosen), rest) == (["94_placement"], ["table2"])  # 91 lacks table3
    contrasts = [name for one in load_report().notebooks.values() for name in one.contrasts]
    assert sorted(contrasts) == sorted(load_report().contrasts)
