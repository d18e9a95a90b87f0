"""Table 1 says what study.yaml says, also of entries that nobody foresaw."""

import pytest
import yaml

from s2d_lib.errors import StudyError
from s2d_lib.report.routes import line_of, route_map
from s2d_lib.study import load_study

NEW = "student.bridge.rl_teacher_1H.twice"
ENTRY = {"stage": "opd", "from": "student.bridge.rl_teacher_1H", "teacher": "large_teacher.rl", "labels": "2H"}


def test_a_new_entry_appears_by_itself(tmp_path, root):
    page = yaml.safe_load((root / "params" / "study.yaml").read_text())
    page["checkpoints"][NEW] = ENTRY | {"overrides": {"beta": 0.5}}
    page["tables"]["table99"] = {"title": "New?", "rows": [NEW, "student.grpo"]}
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text(yaml.safe_dump(page, sort_keys=False))
    rows = route_map(load_study(tmp_path)).numbers.set_index("route")
    assert {row for table in page["tables"].values() for row in table["rows"]} <= set(rows.index)
    assert "student.warm.rl_teacher_1H" not in rows.index  # stands in no table and is only a part of other routes
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
        line_of(load_study(), "student.gpro")
