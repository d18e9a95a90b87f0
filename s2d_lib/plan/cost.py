"""What a run computes and keeps, before it is run: sequences (exact), tokens, FLOPs, GPU hours, disk.

A token is multiplied with each of a model's N parameters once: a forward pass over D tokens takes 2ND operations and training on
them 6ND (Kaplan et al. 2020, arXiv 2001.08361), 2ND more with gradient checkpointing and ND less where weights are frozen (LoRA);
attention over c earlier tokens adds 4 c * layers * query width a token, forward (PaLM, arXiv 2204.02311, appendix B). Training is
bound by arithmetic. Sampling a token reads all weights and the KV cache, so it takes the longer of its FLOPs and its bytes (Pope
et al. 2022, arXiv 2211.05102); transformers' batches end with their longest completion, among many the limit, vLLM's do not.
"""

import json
from collections.abc import Mapping, Sequence
from math import ceil
from pathlib import Path
from typing import NamedTuple

from s2d_lib.errors import StudyError
from s2d_lib.study import Resolved, project_root
from s2d_lib.study.problem_sets import AnySet, Half, LabelBudget, at_most
from s2d_lib.study.profile import Profile
from s2d_lib.study.resolve import RELEASED, run_of
from s2d_lib.study.settings import Lengths, Lora, RoleModel
from s2d_lib.study.stage_params import DENSE, SELF_TAUGHT
from s2d_lib.study.strict import did_you_mean, read_yaml

HERE = Path(__file__).parent
BYTES = {"float32": 4, "bfloat16": 2}
PROBLEMS = {
    **{"dapo-math-17k": 17176, "math-500": 500, "aime-2024": 30, "aime-2025": 30, "gsm8k": 1319},
    **{"sdpo-chemistry-train": 1890, "sdpo-physics-train": 720, "sdpo-biology-train": 450, "sdpo-material-train": 841},
    **{"sdpo-chemistry-test": 210, "sdpo-physics-test": 80, "sdpo-biology-test": 50, "sdpo-material-test": 94},
    **{"sdpo-tool-use-train": 4046, "sdpo-tool-use-test": 68},
}
"""Distinct problems of the public datasets, as s2d_lib.problems reads them."""


class Shape:
    """A decoder of the Qwen3 or Llama architecture (no biases, RMSNorm, gated MLP, grouped-query attention) by config.json."""

    def __init__(self, config: dict):
        width, layers, mlp = (config[name] for name in ("hidden_size", "num_hidden_layers", "intermediate_size"))
        self.width, self.layers, self.mlp = width, layers, mlp
        heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
        head = config.get("head_dim") or width // heads
        self.queries, self.keys = queries, keys = heads * head, kv_heads * head  # their widths; values are as keys
        self.linear = {  # inputs and outputs of a layer's linear layers
            "q_proj": (width, queries), "k_proj": (width, keys), "v_proj": (width, keys), "o_proj": (queries, width),
            "gate_proj": (width, mlp), "up_proj": (width, mlp), "down_proj": (mlp, width),
        }  # fmt: skip
        of_heads = {"qwen3": 2 * head, "llama": 0}[config["model_type"]]  # Qwen3 norms queries and keys too
        self.layer = sum(inputs * outputs for inputs, outputs in self.linear.values()) + 2 * width + of_heads
        self.embedding = config["vocab_size"] * width  # and as many of the head, which may be the same ones
        self.multiplied = self.embedding + layers * self.layer + width  # with a token: not what is only looked up
        self.parameters = self.multiplied + (0 if config.get("tie_word_embeddings") else self.embedding)

    def adapters(self, lora: Lora) -> int:
        """Parameters of adapters: rank * (inputs + outputs) of every linear layer that has one."""
        named = self.linear if lora.target_modules == "all-linear" else [n.split(".")[-1] for n in lora.target_modules]
        return lora.rank * self.layers * sum(sum(sizes) for name, sizes in self.linear.items() if name in named)

    def cached(self, dtype: str) -> int:
        """Bytes that a KV cache holds of one token."""
        return 2 * self.layers * self.keys * BYTES[dtype]


def shape_of(model: str, layers: Sequence[int] | None = None) -> Shape:
    """The shape of a role's model: from models.yaml, or the config.json of a folder; `layers`: those that the role keeps.

    Raises:
        StudyError: A model of which nothing is known here, or of another architecture.
    """
    if made := run_of(model):
        return shape_of(made.model.model, layers or made.model.layers)
    known = read_yaml(HERE / "models.yaml")
    folder = RELEASED / model.removeprefix("micro/") if model.startswith("micro/") else Path(model).expanduser()
    config = project_root() / folder / "config.json"
    try:
        found = known[model] if model in known else json.loads(config.read_text(encoding="utf-8"))
        return Shape(found | ({"num_hidden_layers": len(layers)} if layers else {}))
    except (OSError, KeyError, TypeError) as error:
        raise StudyError(
            f"the planner does not know the shape of model {model!r} ({type(error).__name__}: {error}): let the role's `model` "
            "be a folder with a config.json of the Qwen3 or Llama architecture, or add its numbers to s2d_lib/plan/models.yaml."
        ) from None


def gpu_named(name: str) -> dict[str, float]:
    """What gpus.yaml says of a GPU: `memory` (bytes), `flops` (peak dense bfloat16) and `bandwidth` (bytes), both per second; a
    StudyError for an unknown name."""
    known = read_yaml(HERE / "gpus.yaml")
    if name not in known:
        raise StudyError(f"unknown GPU {name!r}; {did_you_mean(name, known)} (add others to s2d_lib/plan/gpus.yaml)")
    return known[name]


class Counts(NamedTuple):
    """Sequences of a run."""

    sequences: int = 0  # sampled for training (or, of teacher rollouts, for others to train on)
    at_once: int = 1  # how many of them side by side
    trained: int = 0  # that carry a loss, each time they do
    tested: int = 0  # sampled for evaluation
    validated: int = 0  # sampled for validation while it trains


def counts(run: Resolved) -> Counts:
    """Sequences of a run: a property of its parameters and of the sizes of its sets. Raises as `size` does."""
    params, at_once = run.params, run.sampling.batch
    if run.stage == "teacher_rollouts":
        rollouts = size(run.problems.pool) * params["samples_per_problem"]
        return Counts(rollouts, min(at_once, rollouts))
    samples = sum(decoding.samples for decoding in run.evaluation.decodings.values())
    tested = samples * sum(size(one) for one in run.problems.evaluations.values())
    if run.stage == "base":
        return Counts(tested=tested)
    validated = 0
    if run.validation:  # before the first step, after every so many, after the last
        times = ceil(params["steps"] / run.validation.every) + 1
        validated = times * run.validation.samples * size(run.problems.validation)
    sharing = params.get("steps_per_sampling", 1)
    # TRL's trainers sample whole optimiser batches at once, also where the last sampling is for more steps than are left.
    per_sampling = params["batch"] * sharing
    sampled = per_sampling * ceil(params["steps"] / sharing) if run.samples_itself else 0
    return Counts(sampled, per_sampling if sampled else at_once, params["steps"] * params["batch"], tested, validated)


def size(one: AnySet | Half | LabelBudget) -> int:
    """Problems of a set; a StudyError where their number is not known before it is loaded."""
    whole = one.of if isinstance(one, Half) else one
    known = [n for n in (at_most(whole), PROBLEMS.get(getattr(whole, "file", ""))) if n]
    if not known:
        raise StudyError(
            f"the planner does not know how many problems dataset {whole.dataset!r} has: give its set a `limit`, or add its "
            "size to PROBLEMS in s2d_lib/plan/cost.py."
        )
    return (min(known) + (one.half == "1H")) // 2 if isinstance(one, Half) else min(known)


def assumed_lengths(profile: Profile) -> Lengths:
    """The profile's own `lengths`, within its limit; without them prompts are short and completions as long as the limit."""
    limit, own = profile.sampling.max_new_tokens, profile.lengths or Lengths(prompt=1, completion=1e9)
    return own.model_copy(update={"completion": min(own.completion, limit)})


def teacher_of(run: Resolved, resolved: Mapping[str, Resolved]) -> RoleModel | None:
    """The model of the teacher whose distributions a run matches, if it does; `resolved` are its ancestors, by their names."""
    return resolved[run.parents["teacher"]].model if run.stage in DENSE else None


def lora_of(run: Resolved) -> Lora | None:
    """What a run that trains says of LoRA."""
    return getattr(run.stage_params, "lora", None)


def trained_parameters(run: Resolved, model: Shape) -> int:
    """Parameters with a gradient and an optimiser's state; 0 of a run that trains nothing."""
    lora = lora_of(run)
    return model.adapters(lora) if lora else model.parameters if "steps" in run.params else 0


def forward_flops(model: Shape, tokens: float, context: float = 0.0) -> float:
    """A forward pass over `tokens` tokens that each look at `context` tokens on average; training takes three."""
    return tokens * (2 * model.multiplied + 4 * model.layers * model.queries * context)


class Work(NamedTuple):
    """A part of what a run computes."""

    flops: float
    read: float = 0.0  # bytes, from the GPU's memory
    gpus: int = 1  # that divide it among them

    def hours(self, gpu: dict[str, float], utilisation: float) -> float:
        """GPU hours, if that share of the GPU's peak FLOP/s and bandwidth is reached."""
        return max(self.flops / gpu["flops"], self.read / gpu["bandwidth"]) / utilisation / 3600


def work_of(run: Resolved, model: Shape, teacher: Shape | None, lengths: Lengths) -> dict[str, Work]:
    """The `training` of a run (a teacher's, reference's or self-teacher's passes among it), `sampling`, `evaluation` and
    `validation`, with completions of a mean length, on its own model and that of `teacher_of`."""
    count, hardware, length = counts(run), run.hardware, lengths.prompt + lengths.completion
    taught, trains = run.params.get("method") in SELF_TAUGHT, count.trained > 0
    limit, batch, validation = run.sampling.max_new_tokens, run.sampling.batch, run.validation

    def sampled(sequences: int, at_once: int, use: str | None = None, gpus: int = 1, limit: int = limit) -> Work:
        by_vllm = use and run.sampling.by_vllm(use)
        steps = min(lengths.completion, limit) if by_vllm else limit
        dtype, whole = "float32" if trains and not by_vllm else hardware.dtype, lengths.prompt + steps
        weights = ceil(sequences / at_once) * BYTES[dtype] * model.parameters
        cache = sequences * model.cached(dtype) * (lengths.prompt + steps / 2)
        return Work(forward_flops(model, sequences * whole, whole / 2), steps * (weights + cache), gpus)

    passes = 2 + (lora_of(run) is None) + hardware.gradient_checkpointing
    flops = passes * forward_flops(model, count.trained * length, length / 2)
    if run.stage in (*DENSE, "teacher_rollouts") or taught or run.params.get("kl_coefficient", 0) > 0:
        read = length + lengths.completion * taught  # a self-teacher reads a sibling's solution too
        flops += forward_flops(teacher or model, (count.trained or count.sequences) * read, read / 2)
    gpus, use = (hardware.processes, "training") if trains else (engine_gpus(run), "rollouts")
    checked = (validation.batch or batch, None, 1, validation.max_new_tokens or limit) if validation else (1,)
    return {
        "training": Work(flops, gpus=gpus),
        "sampling": sampled(count.sequences, count.at_once, use, gpus),
        "evaluation": sampled(count.tested, batch, "evaluation", engine_gpus(run)),
        "validation": sampled(count.validated, *checked),  # transformers', in every process
    }


def engine_gpus(run: Resolved) -> int:
    """GPUs over which a vLLM engine of its own samples a run's evaluation or rollouts; 1 without one."""
    options = run.sampling.by_vllm("rollouts" if run.stage == "teacher_rollouts" else "evaluation")
    return options.tensor_parallel if options and options.mode == "colocate" else 1


def gpus_of(run: Resolved) -> int:
    """GPUs that a run is given: those of its processes, of what one of them samples, or of a vLLM engine; 0 on a CPU."""
    hardware, trains = run.hardware, "steps" in run.params
    sampling = 1 if trains and hardware.processes == 1 else hardware.sampling_gpus
    return max(hardware.processes * trains, sampling, engine_gpus(run)) if hardware.device == "cuda" else 0


def disk_of(run: Resolved, model: Shape, teacher: Shape | None, lengths: Lengths) -> tuple[float, float]:
    """Bytes of a finished run's folder (its trained model or adapters in float32, or rollouts), and what it takes beside while it
    trains: two trainer checkpoints of weights, AdamW's moments and a self-teacher, and a teacher's kept hidden states."""
    count, trained, lora, params = counts(run), trained_parameters(run, model), lora_of(run), run.params
    if not trained:
        return 8.0 * count.sequences * lengths.completion, 0.0  # of a token its id and its text
    kept = 4 * (trained if lora and lora.save == "adapter" else model.parameters)
    checkpoint = (16 if params.get("method") in SELF_TAUGHT else 12) * trained
    stored = count.trained if params.get("teacher_targets", "recompute") != "recompute" else 0
    return kept, 2 * checkpoint + stored * lengths.completion * (teacher or model).width * BYTES[run.hardware.dtype]
