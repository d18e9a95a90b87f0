"""Every stage on a GPU: two steps in bfloat16 beside float32 on the same rollouts, and memory beside the plan.

Without a GPU they are skipped; S2D_TEST_DEVICE=cpu lets all but the memory be tried on a CPU.
"""

import contextlib
import os

import pandas as pd
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM
from trl import DistillationTrainer, GRPOTrainer

from s2d_lib.models.policy import load_policy
from s2d_lib.plan.cost import assumed_lengths, shape_of
from s2d_lib.plan.memory import held as planned_memory
from s2d_lib.runs import open_run
from s2d_lib.stages import stored_teacher
from s2d_lib.stages.inputs import prepare
from s2d_lib.stages.training import train
from s2d_lib.study import load_profile, resolve
from s2d_lib.study.load import deep_merge
from s2d_lib.study.settings import RoleModel
from tests.stages.conftest import make  # noqa: F401 (a fixture)

DEVICE = os.environ.get("S2D_TEST_DEVICE", "cuda")
GPUS = torch.cuda.device_count()
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.slow,
    pytest.mark.skipif(DEVICE == "cuda" and not GPUS, reason="needs a CUDA device"),
]

CHECKPOINTS = {
    "sparse_rl": "student.grpo",
    "teacher_sft": "teacher.sft",
    "forward_kl": "student.warm.raw_teacher",
    "opd": "student.bridge.raw_teacher",
    "teacher_sample_sft": "student.teacher_sample_sft.rl_teacher",
    "self_distillation": "student.srpo",
}
TWO_STEPS = {
    "steps": 2, "learning_rate": 1e-4, "schedule": "constant", "warmup_steps": 0, "batch": 16, "micro_batch": 8,
}  # fmt: skip
DTYPES = ("float32", "bfloat16")


def overrides(tiny: dict, dtype: str) -> dict:
    """Two steps of every stage on the device; enough rollouts that some of them are correct."""
    stages = dict.fromkeys(CHECKPOINTS, TWO_STEPS) | {"teacher_rollouts": {"samples_per_problem": 8}}
    return deep_merge(tiny, {"stages": stages, "hardware": {"device": DEVICE, "dtype": dtype}})


@contextlib.contextmanager
def sampling(kept: list, replay: bool):
    """While the block runs, trainers and teachers sample as ever and it is kept, or they are given what was kept, in order: so
    that two runs take their steps on the same text."""
    given, as_ever = iter(kept), stored_teacher.sampler

    def keeping(sampled):
        def generate(*args, **kwargs):
            if not replay:
                kept.append(sampled(*args, **kwargs))
            return next(given)

        return generate

    @contextlib.contextmanager
    def sampler(*args):
        with as_ever(*args) as sample:
            yield keeping(sample)

    with pytest.MonkeyPatch.context() as patch:
        for trainer in (GRPOTrainer, DistillationTrainer):
            patch.setattr(trainer, "_generate_single_turn", keeping(trainer._generate_single_turn))
        patch.setattr(stored_teacher, "sampler", sampler)
        yield


@pytest.mark.parametrize("stage", CHECKPOINTS)
def test_two_steps_in_bfloat16_lose_what_they_lose_in_float32(make, tiny, stage):  # noqa: F811
    """Weights stay float32, so a step's loss differs by the rounding of one forward pass, some tenths of a percent of a
    logit; 5% of the loss and 0.02 are well over that and well under what a wrong cast or mask does."""
    kept, losses = [], {}
    for dtype in DTYPES:
        with sampling(kept, replay=dtype == "bfloat16"):
            run = make(CHECKPOINTS[stage], overrides=overrides(tiny, dtype))
        metrics = pd.read_csv(run.path("metrics.csv"))
        assert metrics["step"].tolist() == [1, 2]
        losses[dtype] = metrics["loss"].tolist()
        spec = RoleModel.model_validate(run.record["resolved"]["model"])
        model = load_policy(spec, resolve("micro", "student", 0).hardware, run.path("model")).model
        assert all(torch.isfinite(weights).all() for weights in model.parameters())
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.05, abs=0.02)


@pytest.fixture
def large(tmp_path, root):
    """A model of 100 million random weights, so that they and not CUDA's own buffers are what memory goes to."""
    policy = load_policy(resolve("micro", "student", 0).model, resolve("micro", "student", 0).hardware)
    tokenizer = policy.tokenizer
    config = Qwen3Config(
        vocab_size=policy.model.config.vocab_size, hidden_size=1024, intermediate_size=3072, num_hidden_layers=8,
        num_attention_heads=16, num_key_value_heads=8, head_dim=64, tie_word_embeddings=True,
        bos_token_id=None, eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    torch.manual_seed(0)
    Qwen3ForCausalLM(config).save_pretrained(tmp_path / "large")
    tokenizer.save_pretrained(tmp_path / "large")
    return str(tmp_path / "large")


@pytest.mark.skipif(not GPUS, reason="needs a CUDA device: only its memory is counted")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("stage", ["sparse_rl", "forward_kl", "opd", "self_distillation"])
def test_memory_is_within_the_plan(make, tiny, large, stage, dtype):  # noqa: F811
    """The most that tensors held, beside the plan's peak: at most a tenth and 256 MB (cuBLAS's workspaces) over it."""
    roles = {role: {"model": large} for role in ("student", "teacher")}
    over = {"roles": roles, "validation": None, "problems": {"validation": None}, "sampling": {"batch": 16}}
    over = deep_merge(overrides(tiny, dtype), over)
    resolved = resolve("micro", CHECKPOINTS[stage], 0, over)
    for parent in resolved.parents.values():
        make(parent, overrides=over)
    run = open_run("micro", CHECKPOINTS[stage], 0, over)
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    train(run, prepare(run))
    held = torch.cuda.max_memory_allocated()
    shape = shape_of(large)
    taught_by = shape if stage in ("forward_kl", "opd") else None
    planned = planned_memory(resolved, shape, taught_by, assumed_lengths(load_profile("micro", over)))[0].total
    assert held <= 1.1 * planned + 256e6
    assert held >= 0.5 * planned  # a plan that is far over says nothing


@pytest.mark.skipif(GPUS < 2, reason="needs two CUDA devices")
def test_two_gpus_that_share_a_model_take_the_steps_of_one(make, tiny):  # noqa: F811
    """Through `accelerate launch` and the file that the profiles name."""
    alone = deep_merge(overrides(tiny, "float32"), {"stages": {"forward_kl": {"teacher_targets": "recompute"}}})
    both = {"hardware": {"processes": 2, "accelerate": "fsdp2.yaml"}}
    one, two = (make("student.warm.raw_teacher", overrides=deep_merge(alone, over)) for over in ({}, both))
    losses = [pd.read_csv(run.path("metrics.csv"))["loss"].tolist() for run in (one, two)]
    assert losses[1] == pytest.approx(losses[0], rel=1e-3, abs=1e-4)
