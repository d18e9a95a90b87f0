"""What a run samples, computes and keeps: counted by hand, and against the records of runs that were made."""

import pandas as pd
import pytest

from s2d_lib.errors import StudyError
from s2d_lib.plan.cost import Work, assumed_lengths, counts, disk_of, forward_flops, gpus_of, size, work_of
from s2d_lib.plan.shapes import gpu_named, shape_of
from s2d_lib.results.bundle import read_bundle
from s2d_lib.study import Resolved, load_profile, resolve
from s2d_lib.study.problem_sets import BenchmarkSet, CompetitionSet, Half, LabelBudget, MicroSet

QWEN, N = shape_of("Qwen/Qwen3-1.7B"), 1_720_574_976
SMALL = {
    "evaluation": {"samples": 4},
    "validation": {"every": 50, "samples": 2},
    "stages": {"opd": {"steps": 120, "batch": 8, "micro_batch": 8}, "teacher_rollouts": {"samples_per_problem": 3}},
}
EVALUATIONS = (4 + 4 + 1) * 4 * 200  # at two temperatures and greedily, on four sets


@pytest.mark.parametrize(
    ("checkpoint", "numbers"),
    [
        # Validated before steps 0, 50 and 100, and after the last
        ("student.bridge.rl_teacher", (960, 8, 960, EVALUATIONS, 4 * 2 * 200)),
        ("student.warm.rl_teacher", (0, 1600, 100 * 256, EVALUATIONS, 3 * 2 * 200)),
        ("teacher.rl.rollouts.full", (3 * 512, 1536, 0, 0, 0)),
        ("student", (0, 1, 0, EVALUATIONS + (4 + 4) * 4 * 200, 0)),  # at two temperatures more
    ],
)
def test_sequences_by_hand(checkpoint, numbers):
    assert counts(resolve("micro", checkpoint, 0, SMALL)) == numbers


def test_sizes_of_sets():
    micro = MicroSet(count=9, lengths=[2], seed=0)
    half, budget = Half(half="1H", of=micro, seed=0), LabelBudget(labels=5, of=micro, seed=0)
    assert [size(one) for one in (micro, half, budget)] == [9, 4, 5]
    dapo = CompetitionSet(dataset="dapo-math-17k")
    assert [size(one) for one in (dapo, Half(half="2H", of=dapo, seed=0))] == [17176, 8588]
    assert size(CompetitionSet(dataset="aime-2024", limit=99)) == 30
    assert size(BenchmarkSet(dataset="sdpo-law", part="test", limit=7)) == 7
    with pytest.raises(StudyError, match="how many problems dataset 'sdpo-law' has: give its set a `limit`"):
        size(BenchmarkSet(dataset="sdpo-law", part="test"))


def test_lengths_stay_within_the_limit_and_are_the_limit_where_none_are_assumed():
    lengths = {"lengths": {"prompt": 6, "completion": 12}}
    assert assumed_lengths(load_profile("micro", lengths | {"sampling": {"max_new_tokens": 8}})).completion == 8
    assert assumed_lengths(load_profile("micro", lengths)).completion == 12
    assert assumed_lengths(load_profile("micro", {"lengths": None})).completion == 20


def test_the_recorded_runs_sampled_as_many_sequences_as_planned_and_about_as_many_tokens(root):
    records = read_bundle(root / "figures" / "micro-full" / "results").records
    lengths, ratios = assumed_lengths(load_profile("micro-full")), []
    for (name, _), record in records.items():
        if not record.get("sampled", {}).get("sequences") or name.startswith("split_teacher"):  # which spells words
            continue
        planned = counts(Resolved.model_validate(record["resolved"])).sequences
        assert planned == record["sampled"]["sequences"]
        ratios.append(record["sampled"]["tokens"] / planned / lengths.completion)
    assert len(ratios) > 50
    # Raw teachers and their students guess, which is shorter; what has learned to work a problem out is as long as that takes.
    assert pd.Series(ratios).between(0.45, 1.1).all()
    assert pd.Series(ratios).median() == pytest.approx(1, abs=0.05)


def test_a_forward_pass_takes_2nd_and_attention_its_products():
    assert forward_flops(QWEN, 10) == 2 * N * 10
    # 28 layers, queries 16 * 128 wide: 2 operations a product, for scores and for the weighted values.
    assert forward_flops(QWEN, 1, context=1000) - forward_flops(QWEN, 1) == 28 * 2 * 2 * (16 * 128) * 1000


def test_a_rate_bound_by_arithmetic_and_one_bound_by_memory_by_hand():
    gpu = gpu_named("h100-80gb")
    assert Work(989.4e12 * 3600).hours(gpu, 0.5) == pytest.approx(2)
    assert Work(989.4e12 * 3600, read=1.0).hours(gpu, 1) == pytest.approx(1)
    assert Work(1.0, read=3.35e12 * 3600).hours(gpu, 1) == pytest.approx(1)


def work(profile: str, checkpoint: str, overrides: dict) -> dict[str, Work]:
    run = resolve(profile, checkpoint, 0, overrides)
    return work_of(run, shape_of(run.model.model), None, assumed_lengths(load_profile(profile)))


def test_vllm_samples_without_padding_and_from_weights_in_the_computations_precision():
    own, engine = (
        work("qwen3", "student.grpo", {"sampling": sampling})
        for sampling in ({"engine": "transformers", "vllm": None}, {"engine": "vllm"})
    )
    sequences = 17400 * 64
    assert engine["training"] == own["training"]
    assert engine["sampling"].flops == forward_flops(QWEN, sequences * (130 + 1200), (130 + 1200) / 2)
    assert own["sampling"].flops == forward_flops(QWEN, sequences * (130 + 16384), (130 + 16384) / 2)
    cache = sequences * QWEN.cached("bfloat16") * (130 + 1200 / 2)
    assert engine["sampling"].read == 1200 * (4350 * 2 * N + cache)
    assert (own["sampling"].gpus, own["validation"].gpus) == (8, 1)  # which every process makes for itself


def test_training_takes_three_passes_more_with_checkpointing_less_of_frozen_weights_and_more_beside_a_reference():
    base = {"hardware": {"gradient_checkpointing": False}, "stages": {"sparse_rl": {"kl_coefficient": 0.0}}}
    lora = {"stages": {"sparse_rl": {"kl_coefficient": 0.0, "lora": {"rank": 16, "alpha": 32}}}}
    changes = (
        {},
        {"hardware": {"gradient_checkpointing": True}},
        lora,
        {"stages": {"sparse_rl": {"kl_coefficient": 0.1}}},
    )
    flops = [work("qwen3-single-gpu", "student.grpo", base | change)["training"].flops for change in changes]
    assert [one / flops[0] for one in flops] == pytest.approx([1, 4 / 3, 2 / 3, 4 / 3])


@pytest.mark.parametrize(("checkpoint", "gpus"), [("student", 4), ("teacher.rollouts.full", 4), ("student.grpo", 8)])
def test_a_job_asks_for_the_gpus_of_its_engine(checkpoint, gpus):
    engine = {"sampling": {"engine": "vllm", "vllm": {"tensor_parallel": 4}}}
    assert gpus_of(resolve("qwen3", checkpoint, 0, engine)) == gpus
    other = {"gpu_memory_utilization": None, "tensor_parallel": None}  # what only the profile's own mode reads
    server = {"sampling": {"vllm": {"mode": "server", "url": "http://localhost:8000"} | other}}
    assert gpus_of(resolve("qwen3", "student", 0, server)) == 1
    assert gpus_of(resolve("micro", "student.grpo", 0)) == 0


def test_what_is_left_on_the_disk_and_what_is_there_for_a_while():
    """Two trainer checkpoints, each of weights, AdamW's two moments and a self-teacher: 4 bytes a trained weight of each."""
    lengths = assumed_lengths(load_profile("qwen3-chemistry"))
    for name, of_weight in (("student.grpo", 12), ("student.srpo", 16)):
        assert disk_of(resolve("qwen3-chemistry", name, 0), QWEN, None, lengths) == (4 * N, 2 * of_weight * N)
    adapters = {"stages": {"sparse_rl": {"lora": {"rank": 16, "alpha": 32, "save": "adapter"}}}}
    run = resolve("qwen3-single-gpu", "student.grpo", 0, adapters)
    trained = QWEN.adapters(run.stage_params.lora)
    assert disk_of(run, QWEN, None, lengths) == (4 * trained, 24 * trained)
    rollouts, longest = (
        resolve("micro", "teacher.rl.rollouts.full", 0, SMALL),
        lengths.model_copy(update={"completion": 12}),
    )
    assert disk_of(rollouts, QWEN, None, longest) == (8 * 3 * 512 * 12, 0)
