"""Loading, resolution and hashing: a changed parameter makes exactly the runs below it stale."""

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.study import Resolved, derive_seed, load_profile, load_study, needed, resolve


def headline() -> list[str]:
    """What the headline table needs, ancestors included."""
    order, waiting, found = needed("micro-full"), list(load_study().tables["headline"].rows), set()
    while waiting:
        found.add(name := waiting.pop())
        waiting += order[name]
    return [name for name in order if name in found]


CHECKPOINTS = headline()


def test_shared_ancestors_are_one():
    assert len(CHECKPOINTS) == len(set(CHECKPOINTS)) == 13


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
    assert stale_after({"about": "other words", "seeds": [5, 6]}) == set()
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


@given(st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1, max_size=4))
def test_derived_seeds_fit_every_generator(parts):
    assert 0 <= derive_seed(*parts) < 2**31


def test_derived_seeds_do_not_collide_over_a_study():
    several = ("micro", "qwen3"), CHECKPOINTS, range(20), ("order", "training")
    names = [(p, c, s, u) for p in several[0] for c in several[1] for s in several[2] for u in several[3]]
    assert len({derive_seed(*name) for name in names}) == len(names)
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


@pytest.mark.parametrize("name", ["student.bridge.rl_teacher", "student.bridge.rl_teacher_1H.grpo_2H"])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_resolved_form_survives_json_and_is_the_same_each_time(seed, name):
    resolved = resolve("micro", name, seed)
    assert Resolved.model_validate_json(resolved.model_dump_json()).hash == resolved.hash
    assert resolve("micro", name, seed).hash == resolved.hash


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
