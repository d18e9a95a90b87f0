"""Resolution and hashing: a changed parameter makes exactly the runs below it stale."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.errors import StudyError
from s2d_lib.plan.cost import counts
from s2d_lib.study import derive_seed, load_study, needed, resolve
from s2d_lib.study.settings import Evaluation


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


def test_a_stage_parameter_makes_exactly_that_stage_and_what_is_below_it_stale():
    assert stale_after({"stages": {"opd": {"learning_rate": 1e-4}}}) == {
        "student.bridge.raw_teacher",
        "student.bridge.rl_teacher",
        "student.opd_only.rl_teacher",
    }


def test_teacher_rl_feeds_all_that_learns_from_the_rl_teacher():
    stale = stale_after(
        {"rules": [{"match": {"role": "teacher", "stage": "sparse_rl"}, "set": {"learning_rate": 1e-4}}]}
    )
    assert stale == {name for name in CHECKPOINTS if "rl_teacher" in name or name.startswith("teacher.rl")}


def test_rollouts_feed_warmup_and_sft_but_not_opd_only():
    stale = stale_after({"stages": {"teacher_rollouts": {"samples_per_problem": 9}}})
    assert "student.teacher_sample_sft.rl_teacher" in stale
    assert "student.bridge.raw_teacher" in stale
    assert not stale & {"student.opd_only.rl_teacher", "student.grpo", "teacher.rl", "student", "teacher"}


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


def test_teacher_sft_feeds_what_learns_from_the_sft_teacher():
    names = [*CHECKPOINTS, "teacher.sft", "student.warm.sft_teacher", "student.bridge.sft_teacher"]
    assert stale_after({"stages": {"teacher_sft": {"learning_rate": 1e-4}}}, names) == set(names) - set(CHECKPOINTS)


def test_steps_of_keeps_a_one_stage_control_at_the_bridges_updates():
    steps = lambda name, o=None: resolve("micro", name, 0, o).params["steps"]  # noqa: E731
    bridge = steps("student.warm.rl_teacher") + steps("student.bridge.rl_teacher")
    assert steps("student.opd_only.rl_teacher") == bridge == steps("student.forward_kl_only.rl_teacher")
    assert steps("student.opd_only.rl_teacher", {"stages": {"forward_kl": {"steps": 7}}}) == 7 + steps(
        "student.bridge.rl_teacher"
    )


def test_labels_seeds_and_names_that_are_only_labels_do_not_enter_the_hash():
    assert stale_after({"about": "other words"}) == set()
    assert stale_after({"seeds": [5, 6]}) == set()
    assert resolve("micro", "student", 0).hash != resolve("micro", "student", 1).hash


def test_resolving_twice_gives_the_same_hash():
    assert (
        resolve("micro", "student.bridge.rl_teacher", 2).hash == resolve("micro", "student.bridge.rl_teacher", 2).hash
    )


def test_parents_come_before_children():
    order = list(needed("micro-full"))
    for child, parents in needed("micro-full").items():
        assert all(order.index(parent) < order.index(child) for parent in parents)


def test_shared_ancestors_are_one_job():
    assert CHECKPOINTS.count("teacher.rl.rollouts.full") == 1
    assert len(CHECKPOINTS) == len(set(CHECKPOINTS)) == 13


@given(st.lists(st.one_of(st.integers(), st.text(max_size=5)), min_size=1, max_size=4))
def test_derived_seeds_fit_every_generator(parts):
    assert 0 <= derive_seed(*parts) < 2**31


def test_derived_seeds_do_not_collide_over_a_study():
    names = [
        (p, c, s, u) for p in ("micro", "qwen3") for c in CHECKPOINTS for s in range(20) for u in ("order", "training")
    ]
    assert len({derive_seed(*name) for name in names}) == len(names)


def test_adjacent_parts_are_kept_apart():
    assert derive_seed("a", "bc") != derive_seed("ab", "c")


@pytest.mark.parametrize("name", ["student.bridge.rl_teacher", "student.bridge.rl_teacher_1H.grpo_2H"])
@pytest.mark.parametrize("seed", [0, 3])
def test_the_resolved_form_survives_json(seed, name):
    from s2d_lib.study import Resolved

    resolved = resolve("micro", name, seed)
    assert Resolved.model_validate_json(resolved.model_dump_json()).hash == resolved.hash


@pytest.mark.parametrize("labels", ["full", "1H"])
def test_a_teachers_rollouts_and_those_who_train_on_them_see_the_same_pool(labels):
    suffix = "" if labels == "full" else f"_{labels}"
    rollouts = resolve("qwen3", f"teacher.rl{suffix}.rollouts.{labels}", 0)
    assert rollouts.problems.validation is not None  # drawn from the pool's own dataset, so taken out of the pool
    assert rollouts.problems == resolve("qwen3", f"student.warm.rl_teacher{suffix}", 0).problems


def test_further_temperatures_of_untrained_models_are_in_no_run_that_trains():
    over = {"evaluation": {"untrained": [0.25, 0.5]}}
    base, trained = (resolve("micro", name, 0, over) for name in ("student", "student.grpo"))
    assert list(base.evaluation.decodings) == ["main", "t1", "greedy", "T 0.25", "T 0.5"]
    assert trained.evaluation == resolve("micro", "student.grpo", 0).evaluation
    assert "untrained" not in trained.model_dump()["evaluation"]
    # Eight samples at each but one greedily, of four sets of 200
    assert (counts(base).tested, counts(trained).tested) == ((4 * 8 + 1) * 800, (2 * 8 + 1) * 800)


@pytest.mark.parametrize("untrained", [[1.0], [0.5, 0.5]])
def test_a_temperature_is_evaluated_once(untrained):
    with pytest.raises(
        StudyError, match=r"`untrained` has temperature .*, at which every model is evaluated, or has it twice"
    ):
        resolve("micro", "student", 0, {"evaluation": {"untrained": untrained}})


def test_decodings_are_called_what_they_are():
    also = {"greedy": {"temperature": 0}, "t1": {}}
    evaluation = Evaluation.model_validate({"temperature": 0.7, "top_p": 0.8, "top_k": 20, "also": also})
    assert [one.words for one in evaluation.decodings.values()] == ["T 0.7, top-p 0.8, top-k 20", "greedy", "T 1"]
