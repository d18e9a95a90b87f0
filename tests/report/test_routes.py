"""Table 1 says what study.yaml says, also of entries that nobody foresaw."""

import pytest
import yaml

from s2d_lib.errors import StudyError
from s2d_lib.report.routes import line_of, lines_of, route_map, routes_of
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


def test_a_new_entry_appears_by_itself(study, tmp_path, root):
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
    assert row[["labels upstream", "labels downstream", "tables", "numbers"]].tolist() == [
        "1H and full",
        "",
        "table99",
        "99",
    ]
    assert row["teacher"] == "teacher.rl_1H, large_teacher.rl"
    with pytest.raises(StudyError, match=r"no checkpoint 'student.gpro'; did you mean 'student.grpo'\?"):
        line_of(study, "student.gpro")
