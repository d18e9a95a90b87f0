"""Memory of a run on a GPU, by part, and on how many GPUs its sharded state would fit.

What is counted is what the code does: trained weights and AdamW's two moments are float32, and so is the gradient
(16 bytes a parameter, as in ZeRO, arXiv 1910.02054, table 1, but all in float32); under bfloat16 autocast keeps a
bfloat16 copy of the weights through the forward pass; a dense stage's teacher lies beside it in the profile's dtype.
Activations are counted at the length limit, since one batch that meets it ends the run. No stage ever holds the logits:
the dense stages' loss is made from hidden states (s2d_lib.losses), TRL's fused head does it for the others. A vLLM engine of
the run's own takes its share of a GPU's memory from the start (`gpu_memory_utilization`), whatever it needs of it. With LoRA
only the adapters have gradients and an optimiser's state; frozen weights are float32 too.
"""

from dataclasses import dataclass
from math import ceil

from s2d_lib.plan.architecture import Architecture
from s2d_lib.plan.tokens import counts, samples_itself
from s2d_lib.plan.trained import lora_of, trained_parameters
from s2d_lib.study import Resolved
from s2d_lib.study.self_distillation_params import SELF_TAUGHT
from s2d_lib.study.settings import Lengths
from s2d_lib.study.vllm import Use

BYTES = {"float32": 4, "bfloat16": 2}
MOST_GPUS = 1024
RESERVE = 0.1  # of a GPU's memory: CUDA's context, buffers of kernels and of communication, fragments

# Bytes that one layer keeps of a token for the backward pass, for each unit of: residual stream, MLP, queries, keys (or
# values), query heads, key heads; and for itself. Counted with autograd's saved-tensor hooks on the layers of
# transformers 5.17 with scaled-dot-product attention over padded batches, weights in float32 (a test counts again).
KEPT = {
    ("qwen3", "float32"): (24, 16, 24, 8, 8, 4, 8),
    ("qwen3", "bfloat16"): (26, 8, 14, 6, 8, 4, 8),
    ("llama", "float32"): (24, 16, 16, 0, 4, 0, 8),
    ("llama", "bfloat16"): (26, 8, 8, 0, 4, 0, 8),
}


@dataclass(frozen=True)
class Memory:
    """Bytes of a run in one process, by part; `logits_avoided` are those that a loss over whole logits would add.

    `engine_share` is what a vLLM engine beside it takes of a GPU's memory, `engine_least` the bytes that the engine needs of
    it: its weights and the cache of one sequence as long as its context (`Vllm.context`).
    """

    weights: float = 0.0
    teacher: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0
    kv_cache: float = 0.0
    logits_avoided: float = 0.0
    engine_share: float = 0.0
    engine_least: float = 0.0

    @property
    def state(self) -> float:
        """What stays from step to step."""
        return self.weights + self.teacher + self.gradients + self.optimiser

    def on(self, gpus: int = 1, sharded: bool = True) -> float:
        """Bytes of each of `gpus` GPUs that sample their own prompts and share the state evenly (FSDP2, ZeRO-3) or, if not
        `sharded`, each hold it whole.

        Updates and sampling take turns, so the larger of activations and KV cache counts.
        """
        return self.state / (gpus if sharded else 1) + max(self.activations, self.kv_cache / gpus)

    def room(self, memory: float) -> float:
        """What a GPU of `memory` bytes has for the run: without the reserve and without vLLM's share."""
        return (1 - RESERVE - self.engine_share) * memory

    def gpus(self, memory: float) -> int | None:
        """The fewest GPUs of `memory` bytes each; None where a micro-batch, or an engine, does not fit however many there
        are."""
        if self.engine_least > self.engine_share * memory:
            return None
        return next((n for n in range(1, MOST_GPUS + 1) if self.on(n) <= self.room(memory)), None)


def memory_of(run: Resolved, model: Architecture, teacher: Architecture | None, lengths: Lengths) -> Memory:
    """Memory of a run at its worst: every completion as long as the limit.

    Args:
        run: The run.
        model: Its own model.
        teacher: That of its dense targets, where it has one.
        lengths: Of which the prompt's counts.
    """
    dtype, trains = run.hardware.dtype, bool(run.params.get("steps"))
    length = lengths.prompt + run.sampling.max_new_tokens
    cached = _sampled_at_once(run) * length
    engine = _engine(run, model, lengths.prompt)
    if not trains:
        return Memory(weights=BYTES[dtype] * model.parameters, kv_cache=cached * kv_bytes(model, dtype), **engine)
    rows = run.params["micro_batch"]
    dense, asked = run.stage in ("forward_kl", "opd"), run.params.get("teacher_targets") == "recompute"
    # The loss of dense stages makes the head's gradient in a buffer of its own.
    head = 4 * model.vocabulary * model.width if dense else 0
    return Memory(
        weights=_trained_weights(run, model),
        teacher=BYTES[dtype] * teacher.parameters if dense and asked and teacher else 0.0,
        gradients=4 * trained_parameters(run, model),
        optimiser=8 * trained_parameters(run, model),
        activations=activations(model, dtype, rows, length, run.hardware.gradient_checkpointing) + head,
        # Keys meet float32 rotations and values join them, so what trained weights cache is float32, under autocast too.
        kv_cache=cached * kv_bytes(model, "float32"),
        logits_avoided=4 * rows * run.sampling.max_new_tokens * model.vocabulary * (2 if dense else 1),
        **engine,
    )


def _sampled_at_once(run: Resolved) -> int:
    """Sequences that transformers samples side by side: none where vLLM does all of it."""
    batches = [run.sampling.batch] if run.validation else []  # validation is always transformers'
    if samples_itself(run) and not run.sampling.by_vllm("training"):
        batches.append(counts(run).at_once)
    if not run.sampling.by_vllm(_use_after_training(run)):
        batches.append(run.sampling.batch)
    return max(batches, default=0)


def _use_after_training(run: Resolved) -> Use:
    return "rollouts" if run.stage == "teacher_rollouts" else "evaluation"


def _engine(run: Resolved, model: Architecture, prompt: float) -> dict[str, float]:
    """What a vLLM engine of the run's own takes and needs; nothing without one, and nothing of a server elsewhere."""
    uses = [_use_after_training(run), *(["training"] if samples_itself(run) else [])]
    options = next(filter(None, map(run.sampling.by_vllm, uses)), None)
    if options is None or options.mode == "server" or run.hardware.device == "cpu":  # there it takes a GiB, no share
        return {}
    context = options.context(prompt, run.sampling.max_new_tokens)
    held = BYTES[run.hardware.dtype] * model.parameters + context * kv_bytes(model, run.hardware.dtype)
    return {"engine_share": options.gpu_memory_utilization, "engine_least": held / options.tensor_parallel}


def _trained_weights(run: Resolved, model: Architecture) -> float:
    """The weights, their copy for autocast, and what a second model of the same size does not share with the first: all of
    its weights, or under LoRA a self-teacher's adapters (a reference model is the policy without any)."""
    copy, lora, trained = 2 if run.hardware.dtype == "bfloat16" else 0, lora_of(run), trained_parameters(run, model)
    taught = run.params.get("method") in SELF_TAUGHT
    second = taught or (run.params.get("kl_coefficient", 0) > 0 and not lora)
    return (4 + copy) * (model.parameters + (trained if lora else 0)) + (4 * trained if second else 0)


def kv_bytes(model: Architecture, dtype: str) -> int:
    """Bytes that the KV cache holds of one token."""
    return 2 * model.layers * model.kv_width * BYTES[dtype]


def layer_bytes(model: Architecture, dtype: str, length: float) -> float:
    """Bytes that one layer keeps of one token for the backward pass, its row of the attention mask included."""
    sizes = (model.width, model.mlp, model.query_width, model.kv_width, model.heads, model.kv_heads, 1)
    kept = sum(each * size for each, size in zip(KEPT[model.family, dtype], sizes, strict=True))
    return kept + BYTES[dtype] * length


def activations(model: Architecture, dtype: str, rows: int, length: float, checkpointing: bool) -> float:
    """Bytes kept for the backward pass of `rows` sequences, and one layer's gradients, taken to be as large as it.

    With checkpointing every layer keeps its input, in float32, and one layer at a time is computed again.
    """
    tokens, layer = rows * ceil(length), layer_bytes(model, dtype, length)
    if checkpointing:
        return tokens * (4 * model.width * model.layers + 2 * layer)
    return tokens * layer * (model.layers + 1)
