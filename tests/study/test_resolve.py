"""Loading, resolution and hashing: a changed parameter makes exactly the runs below it stale. And the one page: every route
stands somewhere (those that paper A prints: tests/claims/test_files.py), a profile makes the tables for which it has models."""

from itertools import product

import pytest
import yaml

from s2d_lib.errors import StudyError
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import derive_seed, load_profile, load_study, needed, points, resolve
from s2d_lib.study.graph import table_in
from s2d_lib.study.page import all_nodes, parents_of
from tests.conftest import TINY
from tests.study.test_options import rule


def headline() -> list[str]:
    """What the headline table needs, ancestors included."""
    above, waiting, found = needed("micro-full"), list(load_study().tables["headline"].rows), set()
    while waiting:
        found.add(name := waiting.pop())
        waiting += above[name]
    return sorted(found)


CHECKPOINTS = headline()


def stale_after(overrides: dict, checkpoints: list[str] = CHECKPOINTS) -> set[str]:
    """Checkpoints, by default the headline's, whose hash changes under the overrides."""
    return {name for name in checkpoints if resolve("micro", name, 0).hash != resolve("micro", name, 0, overrides).hash}


def test_a_parameter_makes_exactly_what_reads_it_and_what_is_below_that_stale():
    routes = ("bridge.raw_teacher", "bridge.rl_teacher", "opd_only.rl_teacher")
    raw, bridge, only = (f"student.{route}" for route in routes)
    assert stale_after({"stages": {"opd": {"learning_rate": 1e-4}}}) == {raw, bridge, only}
    stale = stale_after(rule({"learning_rate": 1e-4}, role="teacher", stage="sparse_rl"))
    assert stale == {name for name in CHECKPOINTS if "rl_teacher" in name or name.startswith("teacher.rl")}
    stale = stale_after({"stages": {"teacher_rollouts": {"samples_per_problem": 9}}})
    assert {"student.teacher_sample_sft.rl_teacher", raw} <= stale
    assert not stale & {only, "student.grpo", "teacher.rl", "student", "teacher"}
    names = [*CHECKPOINTS, "teacher.sft", "student.warm.sft_teacher", "student.bridge.sft_teacher"]
    assert stale_after({"stages": {"teacher_sft": {"learning_rate": 1e-4}}}, names) == set(names) - set(CHECKPOINTS)
    assert (
        stale_after({"about": "other words", "seeds": [5, 6]} | rule({"cluster": {"hours": 2}}, stage="opd")) == set()
    )
    assert resolve("micro", "student", 0).hash != resolve("micro", "student", 1).hash


def test_another_split_makes_exactly_what_uses_halves_stale():
    halves = ["teacher.rl_1H", "teacher.sft_1H", "teacher.rl_1H.rollouts.1H", "student.bridge.rl_teacher_1H.grpo_2H"]
    full = [*CHECKPOINTS, "teacher.sft", "teacher.sft.rollouts.full", "student.bridge.sft_teacher"]
    whole = {"labels": None, "prompts": None}  # the seed draws these as well
    first, second = (
        {name: resolve("micro", name, 0, {"problems": whole | {"split_seed": seed}}).hash for name in [*full, *halves]}
        for seed in (0, 7)
    )
    assert {name for name in first if first[name] != second[name]} == set(halves)
    assert stale_after({"problems": {"pools": {"full": {"seed": 9}}}}, halves) == set(halves)


def test_derived_seeds_fit_every_generator_and_keep_names_apart():
    found = [derive_seed(*name) for name in product(CHECKPOINTS, range(20), ("order", "training"))]
    assert len(set(found)) == len(found)
    assert 0 <= min(found) < max(found) < 2**31
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


@pytest.mark.parametrize(("of_labels", "labels"), [("", "full"), ("_1H", "1H")])
def test_a_teachers_rollouts_and_those_who_train_on_them_see_the_same_pool(of_labels, labels):
    rollouts = resolve("qwen3", f"teacher.rl{of_labels}.rollouts.{labels}", 0)
    assert rollouts.problems.validation is not None  # drawn from the pool's own dataset, so taken out of the pool
    assert rollouts.problems == resolve("qwen3", f"student.warm.rl_teacher{of_labels}", 0).problems


def test_a_dial_of_the_map_turns_what_its_name_says_and_no_run_that_it_does_not_touch():
    dials = {"labels": "labels", "prompts": "prompts", "labeled": "labeled_prompts"}  # part -> dial
    teachers, alone = set(), set()
    for point in (point for point in points("map") if point.part in {*dials, "opening"}):
        run = resolve("map", point.route, 0, point.overrides)
        pool, dial = run.problems.pool, dials.get(point.part)
        if dial and (dial != "labels" or point.route == "student.grpo"):  # others' labels are their teacher's
            assert (pool.count if hasattr(pool, "count") else pool.labels) == int(point.cell[dial])
        if point.part == "opening" and run.stage == "opd":
            teachers.add(run.parent_hashes["teacher.rl"])
            alone |= {run.hash} if point.route == "student.opd_only.rl_teacher" else set()
    assert len(teachers) == 1
    assert len(alone) == len(load_profile("map").map.parts["opening"].across["opening"])  # at every share of warmup


def test_halves_are_of_the_labeled_problems():
    names = ("teacher.rl", "teacher.rl_1H", "student.grpo_2H", "student.bridge.rl_teacher_1H")
    pool = {"labels": 32, "prompts": 64, "pools": {"full": {"count": 80, "lengths": [2], "seed": 1}}}
    runs = [resolve("micro", name, 0, TINY | {"problems": TINY["problems"] | pool}) for name in names]
    labeled, first, second, bridge = ({p.id for p in load_problems(run.problems).pool} for run in runs)
    assert (len(labeled), len(first), len(second)) == (32, 16, 16)
    assert first | second == labeled
    assert bridge == first  # what the teacher has learned from, whatever prompts there are beside it


@pytest.fixture
def params(tmp_path, root):
    """Writes params/<name>.yaml of a project that has the study and the micro profile."""

    def write(name: str, text: str) -> None:
        (tmp_path / "params").mkdir(exist_ok=True)
        (tmp_path / "params" / f"{name}.yaml").write_text(text)

    for name in ("study", "micro"):
        write(name, (root / "params" / f"{name}.yaml").read_text())
    return write


def test_a_file_is_parsed_once_and_again_when_it_has_changed(params, tmp_path, monkeypatch):
    parsed, load = [], yaml.load
    monkeypatch.setattr(yaml, "load", lambda *text, **how: parsed.append(text) or load(*text, **how))
    for seed, checkpoint in enumerate(["student", "teacher", "student.grpo"]):
        resolve("micro", checkpoint, seed, {"seeds": [seed]}, tmp_path)
    assert len(parsed) == 2
    params("micro", (tmp_path / "params" / "micro.yaml").read_text() + "\nlogging: tensorboard\n")
    assert resolve("micro", "student", 0, root=tmp_path).logging == "tensorboard"


def test_a_profile_that_extends_another_holds_only_what_differs(params, tmp_path):
    params("a", "extends: micro\nseeds: [7]\nstages: {opd: {steps: 3}}\n")
    params("b", "extends: a\nseeds: [8]\n")
    plain, a, b = (load_profile(name, root=tmp_path) for name in ("micro", "a", "b"))
    assert (a.seeds, b.seeds, a.stages.opd.steps, b.stages.opd.steps) == ([7], [8], 3, 3)
    assert a.stages.forward_kl == plain.stages.forward_kl
    assert load_profile("b", {"stages": {"opd": {"steps": 9}}}, tmp_path).stages.opd.steps == 9
    params("c", "extends: d\n")
    params("d", "extends: c\n")
    with pytest.raises(StudyError, match="profile 'c' extends itself: c extends d extends c"):
        load_profile("c", root=tmp_path)
    params("d", "extends: mikro\n")
    with pytest.raises(StudyError, match=r"profile 'd' extends 'mikro', which there is not; did you mean 'micro'\?"):
        load_profile("c", root=tmp_path)


def test_every_route_is_in_a_table_or_on_the_map_or_above_one_that_is():
    study = load_study()
    nodes, above = all_nodes(study), set()
    waiting = [row for table in study.tables.values() for row in table.rows]
    waiting += [route for part in load_profile("map").map.parts.values() for route in part.routes]
    while waiting:
        name = waiting.pop()
        above.add(name)
        waiting += parents_of(nodes[name]).values()
    assert above == set(nodes)


def test_a_row_without_a_model_is_left_out_of_a_table_and_a_table_without_rows_is_refused():
    study, profile = load_study(), load_profile("micro-table-lookup")  # of a student and its teacher alone
    table, missing = table_in(study, "table3", profile, "x")
    assert missing == ["outside", "large_teacher"]
    assert table.rows == [row for row in study.tables["table3"].rows if "sft_teacher" not in row and "large" not in row]
    with pytest.raises(StudyError, match="needs a model for role 'large_teacher': add it under `roles`"):
        resolve("micro-table-lookup", "student.bridge.rl_large_teacher", 0)
    alone = profile.model_copy(update={"roles": {"teacher": profile.roles["teacher"]}})
    with pytest.raises(StudyError, match=r"table 'table3', which needs 'student.grpo': add a model for role 'student'"):
        table_in(study, "table3", alone, "x")


def test_a_role_that_is_a_file_has_no_runs_and_only_teacher_sft_learns_from_it():
    names, sft = needed("qwen3"), resolve("qwen3", "teacher.sft", 0)
    assert not [name for name in names if name.startswith("outside")]
    assert (sft.traces, sft.parents) == ("gpt-oss-120b-dapo.jsonl", {"from": "teacher"})
    assert "traces" not in resolve("micro", "teacher.sft", 0).model_dump()
    assert sft.hash != resolve("qwen3", "teacher.sft", 0, {"roles": {"outside": {"traces": "other.jsonl"}}}).hash
    for name in ("outside", "outside.rollouts.full"):
        with pytest.raises(StudyError, match=r"a role that is a file of traces, from which only teacher_sft can learn"):
            resolve("qwen3", name, 0)
