"""The one page: every route stands somewhere (those that paper A prints: tests/claims/test_files.py), and a profile makes the
tables for which it has the models."""

import pytest
import yaml

from s2d_lib.errors import StudyError
from s2d_lib.pipeline import Job
from s2d_lib.study import load_profile, load_study, needed, resolve
from s2d_lib.study.graph import table_in
from s2d_lib.study.load import deep_merge
from s2d_lib.study.page import all_nodes, parents_of

TABLES = [f"table{number}" for number in range(2, 9)] + ["components", "estimators", "headline"]


@pytest.fixture
def whole(tmp_path, root, monkeypatch):
    """A project whose micro profile has every role (some by the teacher's weights) and makes every table."""
    (tmp_path / "params").mkdir()
    (tmp_path / "params" / "study.yaml").write_text((root / "params" / "study.yaml").read_text())
    profile = yaml.safe_load((root / "params" / "micro.yaml").read_text())
    roles = {role: {"model": "micro/chains-teacher"} for role in ("large_teacher", "small_teacher")}
    more = {"roles": roles, "tables": TABLES, "map": None, "problems": {"labels": None, "prompts": None}}
    (tmp_path / "params" / "micro.yaml").write_text(yaml.safe_dump(deep_merge(profile, more)))
    monkeypatch.setenv("S2D_HOME", str(tmp_path))
    return tmp_path


def test_every_route_is_in_a_table_or_on_the_map_or_above_one_that_is():
    study = load_study()
    assert set(study.tables) >= set(TABLES)
    nodes, above = all_nodes(study), set()
    waiting = [row for table in study.tables.values() for row in table.rows]
    waiting += [route for part in load_profile("map").map.parts.values() for route in part.routes]
    while waiting:
        name = waiting.pop()
        above.add(name)
        waiting += parents_of(nodes[name]).values()
    assert above == set(nodes)


def test_a_profile_with_all_roles_can_make_every_table(whole):
    resolved = [resolve("micro", name, 0) for name in needed("micro")]
    assert {run.checkpoint for run in resolved} >= {row for name in TABLES for row in load_study().tables[name].rows}
    assert len({run.hash for run in resolved}) == len({Job(run).rule for run in resolved}) == len(resolved)


def test_routes_share_their_ancestors():
    def parents(name: str) -> dict[str, str]:
        return resolve("micro", name, 0).parents

    for name in ("student.warm.rl_teacher_1H", "student.teacher_sample_sft.rl_teacher_1H"):
        assert parents(name)["rollouts"] == "teacher.rl_1H.rollouts.1H"
    assert parents("teacher.sft") == {"from": "teacher", "teacher": "outside", "rollouts": "outside.rollouts.full"}
    assert parents("teacher.sft_own") == {"from": "teacher", "rollouts": "teacher.rollouts.full"}
    assert parents("student.warm.raw_teacher")["rollouts"] == "teacher.rollouts.full"
    assert parents("student.bridge.rl_same_size") == {"from": "student.warm.rl_same_size", "teacher": "student.grpo"}
    estimators = [parents(f"student.bridge.rl_teacher{end}") for end in ("", ".topk_tail", ".sampled_token")]
    assert estimators[0] == estimators[1] == estimators[2]


def test_fresh_problems_and_replay_get_equal_problems_and_updates():
    fresh, replay = (resolve("micro", f"student.bridge.rl_teacher_1H.{end}", 0) for end in ("grpo_2H", "replay_1H"))
    assert fresh.params == replay.params
    assert (fresh.labels, replay.labels) == ("2H", "1H")
    assert fresh.problems.pool.of == replay.problems.pool.of


def test_a_half_of_the_labels_takes_half_of_the_steps_where_labels_are_used():
    changed = {"stages": {"sparse_rl": {"steps": 101}}}
    steps = lambda name: resolve("micro", name, 0, changed).params["steps"]  # noqa: E731
    assert (steps("teacher.rl"), steps("teacher.rl_1H"), steps("student.grpo_2H")) == (101, 51, 51)
    assert steps("student.bridge.rl_teacher_1H.replay_1H") == steps("student.bridge.rl_teacher_1H.grpo_2H")
    assert steps("teacher.sft_1H") * 2 == steps("teacher.sft")
    assert steps("student.warm.rl_teacher_1H") == steps("student.warm.rl_teacher")
    assert steps("student.opd_only.rl_teacher_1H") == steps("student.opd_only.rl_teacher")


def test_a_row_without_a_model_is_left_out_of_a_table_and_a_table_without_rows_is_refused(whole):
    path = whole / "params" / "micro.yaml"
    profile = yaml.safe_load(path.read_text())
    del profile["roles"]["large_teacher"]
    path.write_text(yaml.safe_dump(profile | {"tables": ["headline", "table3"]}))
    assert "student.bridge.sft_teacher" in needed("micro")
    assert not [name for name in needed("micro") if "large" in name]
    table, missing = table_in(load_study(), "table3", load_profile("micro"), "micro")
    assert missing == ["large_teacher"]
    assert table.rows == [row for row in load_study().tables["table3"].rows if "large" not in row]
    with pytest.raises(StudyError, match="needs a model for role 'large_teacher': add it under `roles`"):
        resolve("micro", "student.bridge.rl_large_teacher", 0)
    del profile["roles"]["student"]
    path.write_text(yaml.safe_dump(profile | {"tables": ["table3"]}))
    with pytest.raises(StudyError, match=r"table 'table3', which needs 'student.grpo': add a model for role 'student'"):
        needed("micro")


def test_a_role_that_is_a_file_has_no_runs_and_only_teacher_sft_learns_from_it():
    names, sft = needed("qwen3"), resolve("qwen3", "teacher.sft", 0)
    assert not [name for name in names if name.startswith("outside")]
    assert (sft.traces, sft.parents) == ("gpt-oss-120b-dapo.jsonl", {"from": "teacher"})
    assert "traces" not in resolve("micro", "teacher.sft", 0).model_dump()
    assert sft.hash != resolve("qwen3", "teacher.sft", 0, {"roles": {"outside": {"traces": "other.jsonl"}}}).hash
    for name in ("outside", "outside.rollouts.full"):
        with pytest.raises(StudyError, match=r"a role that is a file of traces, from which only teacher_sft can learn"):
            resolve("qwen3", name, 0)
