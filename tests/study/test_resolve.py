"""Loading, resolution and hashing: a changed parameter makes exactly the runs below it stale."""

from itertools import product

import pytest
import yaml

from s2d_lib.errors import StudyError
from s2d_lib.problems.sources import load_problems
from s2d_lib.study import derive_seed, load_profile, load_study, needed, points, resolve
from tests.conftest import TINY


def headline() -> list[str]:
    """What the headline table needs, ancestors included."""
    order, waiting, found = needed("micro-full"), list(load_study().tables["headline"].rows), set()
    while waiting:
        found.add(name := waiting.pop())
        waiting += order[name]
    return [name for name in order if name in found]


CHECKPOINTS = headline()


def stale_after(overrides: dict, checkpoints: list[str] = CHECKPOINTS) -> set[str]:
    """Checkpoints, by default the headline's, whose hash changes under the overrides."""
    return {name for name in checkpoints if resolve("micro", name, 0).hash != resolve("micro", name, 0, overrides).hash}


def test_a_parameter_makes_exactly_what_reads_it_and_what_is_below_that_stale():
    raw, bridge, only = (
        f"student.{route}" for route in ("bridge.raw_teacher", "bridge.rl_teacher", "opd_only.rl_teacher")
    )
    assert stale_after({"stages": {"opd": {"learning_rate": 1e-4}}}) == {raw, bridge, only}
    match = {"role": "teacher", "stage": "sparse_rl"}
    stale = stale_after({"rules": [{"match": match, "set": {"learning_rate": 1e-4}}]})
    assert stale == {name for name in CHECKPOINTS if "rl_teacher" in name or name.startswith("teacher.rl")}
    stale = stale_after({"stages": {"teacher_rollouts": {"samples_per_problem": 9}}})
    assert {"student.teacher_sample_sft.rl_teacher", raw} <= stale
    assert not stale & {only, "student.grpo", "teacher.rl", "student", "teacher"}
    names = [*CHECKPOINTS, "teacher.sft", "student.warm.sft_teacher", "student.bridge.sft_teacher"]
    assert stale_after({"stages": {"teacher_sft": {"learning_rate": 1e-4}}}, names) == set(names) - set(CHECKPOINTS)
    cluster = {"rules": [{"match": {"stage": "opd"}, "set": {"cluster": {"hours": 2}}}]}
    assert stale_after({"about": "other words", "seeds": [5, 6]} | cluster) == set()
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


def test_steps_of_keeps_a_one_stage_control_at_the_bridges_updates():
    steps = lambda name, o=None: resolve("micro", name, 0, o).params["steps"]  # noqa: E731
    bridge = steps("student.warm.rl_teacher") + steps("student.bridge.rl_teacher")
    assert steps("student.opd_only.rl_teacher") == bridge == steps("student.forward_kl_only.rl_teacher")
    seven = {"stages": {"forward_kl": {"steps": 7}}}
    assert steps("student.opd_only.rl_teacher", seven) == 7 + steps("student.bridge.rl_teacher")


def test_derived_seeds_fit_every_generator_and_do_not_collide_over_a_study():
    names = list(product(("micro", "qwen3"), CHECKPOINTS, range(20), ("order", "training")))
    found = {derive_seed(*name) for name in names}
    assert len(found) == len(names)
    assert 0 <= min(found) < max(found) < 2**31
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


@pytest.mark.parametrize("labels", ["full", "1H"])
def test_a_teachers_rollouts_and_those_who_train_on_them_see_the_same_pool(labels):
    suffix = "" if labels == "full" else f"_{labels}"
    rollouts = resolve("qwen3", f"teacher.rl{suffix}.rollouts.{labels}", 0)
    assert rollouts.problems.validation is not None  # drawn from the pool's own dataset, so taken out of the pool
    assert rollouts.problems == resolve("qwen3", f"student.warm.rl_teacher{suffix}", 0).problems


@pytest.mark.parametrize(
    ("checkpoint", "problems"),
    [
        ("student.bridge.rl_teacher", {"labels": 1, "prompts": 1}),
        ("student.bridge.rl_teacher", {"labels": 2048, "prompts": 2048}),
        ("student.teacher_sample_sft.rl_teacher", {"labels": 1, "prompts": 64}),  # with 4 answers each a batch of 256
    ],
)
def test_as_few_and_as_many_problems_as_can_be_at_hand(checkpoint, problems):
    resolve("map", checkpoint, 0, {"problems": problems})


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
