"""Table 1 says what study.yaml says, also of entries that nobody foresaw."""

import pytest
import yaml

from s2d_lib.errors import StudyError
from s2d_lib.report.routes import line_of, lines_of, route_map, routes_of, story
from s2d_lib.study import load_study
from s2d_lib.study.methods import methods

NEW = "student.bridge.rl_teacher_1H.twice"
ENTRY = {"stage": "opd", "from": "student.bridge.rl_teacher_1H", "teacher": "large_teacher.rl", "labels": "2H"}


@pytest.fixture(scope="module")
def study():
    return load_study()


def test_every_row_of_a_table_and_whatever_else_ends_in_nothing_is_a_route(study):
    routes = routes_of(study)
    assert {row for table in study.tables.values() for row in table.rows} <= set(routes)
    assert "student.warm.rl_teacher_1H" not in routes  # stands in no table and is only a part of other routes
    made_from = {name for route in routes for line in lines_of(study, route) for name in line}
    brought = {name for method in methods().values() for name in method.checkpoints}
    assert made_from == set(study.checkpoints) - brought  # so every checkpoint of study.yaml is in the map


def test_the_story_of_a_route(study):
    stories = {
        "student": "student: as published",
        "large_teacher.sft": "outside: as published -> large teacher: SFT (full)",
        "student.bridge.rl_same_size": "student: GRPO on full -> fresh student: forward KL (full), OPD (full)",
        "student.forward_kl_only.rl_teacher": (
            "teacher: GRPO on full -> student: forward KL (full) for as many steps as forward KL and OPD"
        ),
    }
    assert {route: story(study, route) for route in stories} == stories


def test_a_route_has_its_labels_teacher_and_tables_and_a_new_entry_appears_by_itself(study, tmp_path, root):
    page = yaml.safe_load((root / "params" / "study.yaml").read_text())
    page["checkpoints"][NEW] = ENTRY | {"overrides": {"beta": 0.5}}
    page["tables"]["table99"] = {"title": "New?", "rows": [NEW, "student.grpo"]}
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    rows = route_map(load_study(tmp_path)).numbers.set_index("route")
    assert len(rows) == len(routes_of(study)) + 1
    row = rows.loc[NEW]
    assert row["stages"] == (
        "teacher: GRPO on 1H -> large teacher: GRPO on full -> student: forward KL (1H), OPD (1H), OPD (2H) with beta 0.5"
    )
    assert row[["labels upstream", "teacher", "tables", "numbers"]].tolist() == [
        "1H and full", "teacher.rl_1H, large_teacher.rl", "table99", "99",
    ]  # fmt: skip
    labels = {
        "student.grpo": ["", "full"],
        "student.bridge.raw_teacher": ["", ""],
        "student.bridge.rl_teacher_1H.grpo_2H": ["1H", "2H"],
        "teacher.rl": ["full", ""],
    }
    for route, pools in labels.items():
        assert rows.loc[route, ["labels upstream", "labels downstream"]].tolist() == pools
    assert rows.loc["teacher.rl", "ends in"] == "teacher"
    with pytest.raises(StudyError, match=r"no checkpoint 'student.gpro'; did you mean 'student.grpo'\?"):
        line_of(study, "student.gpro")
