"""Time of a run on one GPU, from its FLOPs and from what sampling reads of the GPU's memory.

Training is bound by arithmetic: FLOPs / (utilisation * peak). Sampling a token reads all weights and the KV cache of all
sequences, so it takes the larger of its FLOPs and its bytes at the same utilisation (the roofline of Williams et al. 2009,
as in Pope et al. 2022, arXiv 2211.05102). transformers samples in fixed batches, which end with their longest completion:
every sequence is computed for as many steps as that takes, which among many sequences is the limit. vLLM fills the place of
a sequence that has ended, so each costs its own length.
"""

from dataclasses import dataclass, replace
from math import ceil

from s2d_lib.plan.architecture import Architecture
from s2d_lib.plan.flops import forward_flops, sampling_flops, training_flops
from s2d_lib.plan.gpus import Gpu
from s2d_lib.plan.memory import BYTES, kv_bytes
from s2d_lib.plan.one_base import DENSE
from s2d_lib.plan.tokens import counts, validation_limit
from s2d_lib.plan.trained import lora_of
from s2d_lib.study import Resolved
from s2d_lib.study.settings import Lengths
from s2d_lib.study.stage_params import SELF_TAUGHT
from s2d_lib.study.vllm import Use

AROUND = 0.5  # hours of a run for what is not counted: loading, grading, saving


@dataclass(frozen=True)
class Work:
    """What a run computes: FLOPs of its parts, and bytes that its sampling reads from the GPU's memory.

    `sampling`, `testing` (evaluation) and `validation` are (FLOPs, bytes); `teacher` is a teacher's, a reference model's or
    a self-teacher's forward passes, `training` the passes with gradients.
    """

    sampling: tuple[float, float] = (0.0, 0.0)
    testing: tuple[float, float] = (0.0, 0.0)
    validation: tuple[float, float] = (0.0, 0.0)
    teacher: float = 0.0
    training: float = 0.0

    @property
    def flops(self) -> float:
        """All of them."""
        return self.sampling[0] + self.testing[0] + self.validation[0] + self.teacher + self.training

    def hours(self, gpu: Gpu, utilisation: float) -> float:
        """GPU hours, if that share of the GPU's peak FLOP/s and bandwidth is reached."""
        seconds = (self.teacher + self.training) / gpu.flops
        return seconds / utilisation / 3600 + self.sampling_hours(gpu, utilisation)

    def sampling_hours(self, gpu: Gpu, utilisation: float) -> float:
        """The part of them that sampling takes, for training, evaluation and validation."""
        parts = (self.sampling, self.testing, self.validation)
        seconds = sum(max(flops / gpu.flops, read / gpu.bandwidth) for flops, read in parts)
        return seconds / utilisation / 3600

    def elapsed(self, gpu: Gpu, utilisation: float, processes: int, engine: int) -> float:
        """Hours that pass where `processes`, a GPU each, divide training and its sampling, each validates for itself, and in the
        end `engine` GPUs evaluate together."""
        tested, validated = Work(testing=self.testing), Work(validation=self.validation)
        divided = replace(self, testing=(0.0, 0.0), validation=(0.0, 0.0))
        hours = [part.hours(gpu, utilisation) for part in (divided, tested, validated)]
        return hours[0] / processes + hours[1] / engine + hours[2]


def work_of(
    run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths, padded: bool = True
) -> Work:
    """The work of a run.

    Args:
        run: The run.
        model: Its own model.
        teacher: That of its dense targets, where it is not its own model with other adapters.
        lengths: Mean tokens of prompts and completions.
        padded: transformers samples in fixed batches, up to the limit; without it every completion costs its own length
            only, as with vLLM.
    """
    count, length = counts(run), lengths.prompt + lengths.completion
    trains = count.trained > 0

    def sampled(sequences: int, at_once: int, use: Use | None) -> tuple[float, float]:
        by_vllm = use and run.sampling.by_vllm(use)
        limit = run.sampling.max_new_tokens if use else validation_limit(run)
        steps = limit if padded and not by_vllm else min(lengths.completion, limit)
        dtype = "float32" if trains and not by_vllm else run.hardware.dtype
        flops = sampling_flops(model, sequences, lengths.prompt, steps)
        weights = ceil(sequences / at_once) * BYTES[dtype] * model.parameters
        cache = sequences * kv_bytes(model, dtype) * (lengths.prompt + steps / 2)
        return flops, steps * (weights + cache)

    return Work(
        sampling=sampled(count.sequences, count.at_once, "training" if trains else "rollouts"),
        testing=sampled(count.tested, run.sampling.batch, "evaluation"),
        # transformers', whatever samples the rest
        validation=sampled(count.validated, run.validation.batch or run.sampling.batch if run.validation else 1, None),
        teacher=_scoring(run, model, teacher, lengths),
        training=training_flops(
            model,
            count.trained * length,
            length / 2,
            run.hardware.gradient_checkpointing,
            frozen=lora_of(run) is not None,
        ),
    )


def _scoring(run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths) -> float:
    """FLOPs of forward passes without gradients: who else reads the completions that are trained on."""
    count, length = counts(run), lengths.prompt + lengths.completion
    if run.stage in DENSE:  # an upper bound where the targets are kept over epochs
        return forward_flops(teacher or model, count.trained * length, length / 2)
    if run.stage == "teacher_rollouts":  # their log-probabilities
        return forward_flops(model, count.sequences * length, length / 2)
    if run.params.get("method") in SELF_TAUGHT:  # it reads a sibling's solution too, and at most every rollout
        longer = length + lengths.completion
        return forward_flops(model, count.trained * longer, longer / 2)
    if run.params.get("kl_coefficient", 0) > 0:
        return forward_flops(model, count.trained * length, length / 2)
    return 0.0
