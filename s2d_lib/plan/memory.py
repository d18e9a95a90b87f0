"""Memory of a run on a GPU, by part, and on how many GPUs its sharded state would fit.

What is counted is what the code does: trained weights and AdamW's two moments are float32, and so is the gradient
(16 bytes a parameter, as in ZeRO, arXiv 1910.02054, table 1, but all in float32); under bfloat16 autocast keeps a
bfloat16 copy of the weights through the forward pass; a dense stage's teacher lies beside it in the profile's dtype.
Where GPUs share that (FSDP2, ZeRO-3), each holds its part and, of the model that is computed with, embeddings and two layers
whole, in the computation's precision, and the gradients of one of them on their way into shards (ZeRO, section 5). Validation
is sampled by every process for itself.
Activations are counted at the length limit, since one batch that meets it ends the run. No stage ever holds the logits:
the dense stages' loss is made from hidden states (s2d_lib.losses), TRL's fused head does it for the others. A vLLM engine of
the run's own takes its share of a GPU's memory from the start (`gpu_memory_utilization`), whatever it needs of it. With LoRA
only the adapters have gradients and an optimiser's state; frozen weights are float32 too.
"""

from dataclasses import dataclass
from math import ceil

from s2d_lib.plan.architecture import Architecture
from s2d_lib.plan.one_base import DENSE
from s2d_lib.plan.tokens import counts, samples_itself, size, validation_limit
from s2d_lib.plan.trained import lora_of, trained_parameters
from s2d_lib.study import Resolved
from s2d_lib.study.settings import Lengths
from s2d_lib.study.several_processes import state_on_host
from s2d_lib.study.stage_params import SELF_TAUGHT
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

    `copies` are autocast's, of weights that are not shared; `kv_cache` is of what the processes sample together,
    `validation` of what each of them does; `gathered` is what a GPU holds beyond its even part of what several share.
    `engine_share` is what a vLLM engine beside it takes of a GPU's memory, `engine_least` the bytes that the engine needs of
    it: its weights and the cache of one sequence as long as its context (`Vllm.context`). `on_host`: the accelerate config
    keeps the shared state in the machine's memory.
    """

    weights: float = 0.0
    copies: float = 0.0
    teacher: float = 0.0
    gradients: float = 0.0
    optimiser: float = 0.0
    activations: float = 0.0
    kv_cache: float = 0.0
    validation: float = 0.0
    gathered: float = 0.0
    logits_avoided: float = 0.0
    engine_share: float = 0.0
    engine_least: float = 0.0
    on_host: bool = False

    @property
    def state(self) -> float:
        """What stays from step to step."""
        return self.weights + self.teacher + self.gradients + self.optimiser

    def shared(self, gpus: int) -> float:
        """What each of several GPUs holds of the state that they share evenly."""
        return (0.0 if self.on_host else self.state / gpus) + self.gathered

    def on(self, gpus: int = 1, sharded: bool = True) -> float:
        """Bytes of each of `gpus` GPUs that sample their own prompts and share the state (FSDP2, ZeRO-3, or layers of a model
        that is only sampled) or, if not `sharded`, each hold it whole.

        Updates and sampling take turns, so the largest of activations and KV caches counts.
        """
        state = self.shared(gpus) if sharded and gpus > 1 else self.state + self.copies
        return state + max(self.activations, self.kv_cache / gpus, self.validation)

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
    """Memory of a run at its worst: every completion as long as the limit. Of a run that several processes train, while they
    do (see `memory_afterwards`).

    Args:
        run: The run.
        model: Its own model.
        teacher: That of its dense targets, where it holds one beside its own (s2d_lib.plan.one_base).
        lengths: Of which the prompt's counts.
    """
    dtype, trains = run.hardware.dtype, bool(run.params.get("steps"))
    length = lengths.prompt + run.sampling.max_new_tokens
    if not trains:
        return _sampled(run, model, length, dtype, _use_after_training(run))
    rows, trained = run.params["micro_batch"], trained_parameters(run, model)
    dense, asked = run.stage in DENSE, run.params.get("teacher_targets") == "recompute"
    beside = teacher if dense and asked else None
    taught = run.params.get("method") in SELF_TAUGHT
    second = model if taught else beside
    # A loss between two models makes the head's gradient in a buffer of its own; adapters leave the head as it is.
    head = 4 * model.vocabulary * model.width if (dense or taught) and not lora_of(run) else 0
    if (
        taught and run.hardware.accelerate and dtype == "bfloat16"
    ):  # in which both heads are gathered: the loss is float32
        head *= 3
    # One for the evaluation of trained weights computes in float32, as they are; TRL's in the profile's precision.
    engines = {"training": dtype} if samples_itself(run) else {}
    engines |= dict.fromkeys(_by_the_same_process(run), "float32")
    # Keys meet float32 rotations and values join them, so what trained weights cache is float32, under autocast too.
    cache, validated = kv_bytes(model, "float32"), lengths.prompt + validation_limit(run)
    return Memory(
        **_trained_weights(run, model),
        teacher=BYTES[dtype] * beside.parameters if beside else 0.0,
        gradients=4 * trained,
        optimiser=8 * trained,
        activations=activations(model, dtype, rows, length, run.hardware.gradient_checkpointing) + head,
        kv_cache=_sampled_at_once(run) * length * cache,
        validation=_validated_at_once(run) * validated * max(cache, kv_bytes(beside, dtype) if beside else 0),
        gathered=_gathered(model, dtype, trained=True) + (_gathered(second, dtype) if second else 0.0),
        logits_avoided=4 * rows * run.sampling.max_new_tokens * model.vocabulary * (2 if dense else 1),
        **_engine(run, model, length, engines),
        on_host=state_on_host(run.hardware),
    )


def memory_afterwards(run: Resolved, model: Architecture, lengths: Lengths) -> Memory:
    """What one process holds that evaluates what several have trained: the whole model, in float32 as it was trained."""
    return _sampled(run, model, lengths.prompt + run.sampling.max_new_tokens, "float32", "evaluation")


def _sampled(run: Resolved, model: Architecture, length: float, dtype: str, use: Use) -> Memory:
    """A model that is only sampled; on several GPUs with its layers laid out over them, to the nearest one or so."""
    cache = 0 if run.sampling.by_vllm(use) else run.sampling.batch * length * kv_bytes(model, dtype)
    return Memory(
        weights=BYTES[dtype] * model.parameters,
        kv_cache=cache,
        gathered=1.25 * (BYTES[dtype] * model.layer + cache / model.layers),  # get_balanced_memory of accelerate
        **_engine(run, model, length, {use: dtype}),
    )


def _gathered(model: Architecture, dtype: str, trained: bool = False) -> float:
    """Bytes of a shared model that a GPU holds whole for a moment: weights and, of what is trained, a gradient that is made
    float32 to be summed."""
    weights = BYTES[dtype] * (model.embeddings + 2 * model.layer)
    return weights + trained * (BYTES[dtype] + 4) * max(model.vocabulary * model.width, model.layer)


def _sampled_at_once(run: Resolved) -> int:
    """Sequences that transformers samples side by side, in all processes: none where vLLM does all of it."""
    batches = [run.sampling.batch for use in _by_the_same_process(run) if not run.sampling.by_vllm(use)]
    if samples_itself(run) and not run.sampling.by_vllm("training"):
        batches.append(counts(run).at_once)
    return max(batches, default=0)


def _validated_at_once(run: Resolved) -> int:
    """Sequences of the validation that every process samples side by side, always by transformers."""
    if not run.validation:
        return 0
    return min(run.validation.batch or run.sampling.batch, run.validation.samples * size(run.problems.validation))


def _by_the_same_process(run: Resolved) -> list[Use]:
    """What the process that has trained goes on to sample; of several, none does."""
    return [_use_after_training(run)] if run.hardware.processes == 1 else []


def _use_after_training(run: Resolved) -> Use:
    return "rollouts" if run.stage == "teacher_rollouts" else "evaluation"


def _engine(run: Resolved, model: Architecture, length: float, uses: dict[Use, str]) -> dict[str, float]:
    """What vLLM engines of the run's own take and need, by what they are for and in which precision; nothing without one, and
    nothing of a server elsewhere."""
    own = {use: options for use in uses if (options := run.sampling.by_vllm(use)) and options.mode == "colocate"}
    if not own or run.hardware.device == "cpu":  # there it takes a GiB, no share
        return {}
    options, dtype = run.sampling.vllm, max((uses[use] for use in own), key=BYTES.get)
    context = options.context(length - run.sampling.max_new_tokens, run.sampling.max_new_tokens)
    held = BYTES[dtype] * model.parameters + context * kv_bytes(model, dtype)
    return {"engine_share": options.gpu_memory_utilization, "engine_least": held / options.tensor_parallel}


def _trained_weights(run: Resolved, model: Architecture) -> dict[str, float]:
    """The weights, their copy for autocast, and what a second model of the same size does not share with the first: all of
    its weights, or under LoRA a self-teacher's adapters (a reference model is the policy without any)."""
    lora, trained = lora_of(run), trained_parameters(run, model)
    held = model.parameters + (trained if lora else 0)
    taught = run.params.get("method") in SELF_TAUGHT
    second = taught or (run.params.get("kl_coefficient", 0) > 0 and not lora)
    copies = 2 * held if run.hardware.dtype == "bfloat16" else 0
    return {"weights": 4 * held + (4 * trained if second else 0), "copies": copies}


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
