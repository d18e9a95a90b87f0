"""A profile's models, sampling, evaluation and hardware."""

from math import ceil
from typing import Any, Literal

from pydantic import (
    Field,
    NonNegativeFloat,
    NonNegativeInt,
    PositiveFloat,
    PositiveInt,
    model_serializer,
    model_validator,
)

from s2d_lib.study.strict import Strict, unless

Logging = Literal["none", "tensorboard", "trackio"]


class RoleModel(Strict):
    """Which model plays a role."""

    # Hub id, local directory, `package:<name>`, `micro/<name>` for the models released in the package, or
    # `run:<profile>/<checkpoint>` for one that a study of another profile has trained with seed 0.
    model: str | None = None
    # Instead of a model a file of its answers (s2d_lib.sampling), in the folder $S2D_DATA or by its path.
    traces: str | None = unless(None)
    gguf_file: str | None = None  # name of the GGUF file when `model` is a directory that holds one
    chat: bool = False  # wrap prompts into the tokenizer's chat template
    eos_token: str | None = None  # what ends a turn, where the model's own setting is not it
    pad_token: str | None = None
    # Jinja text in place of the tokenizer's own template; it may let every answer begin with words that are given.
    chat_template: str | None = unless(None)
    # Which of the model's layers are kept, by their places from 0 on, the others left out where it is loaded; null: all.
    layers: list[NonNegativeInt] | None = unless(None, min_length=1)

    def _refusals(self):
        neither = "a role is played by a `model` or by a file of `traces`: give one of them"
        yield (self.model is None) == (self.traces is None), neither
        more = self.traces is not None and self.model_dump(exclude_defaults=True).keys() != {"traces"}
        yield more, "a file of `traces` is read with the tokenizer of whoever learns from it: leave the rest out"
        disorder = "`layers` are places of a model's layers, from 0 on, in their order and each once"
        yield self.layers is not None and self.layers != sorted(set(self.layers)), disorder
        unread = "`chat_template` is read where `chat: true` is set: set it, or leave the template out"
        yield self.chat_template is not None and not self.chat, unread


Use = Literal["training", "rollouts", "evaluation"]
USES: tuple[Use, ...] = ("training", "rollouts", "evaluation")
OF_SERVER = ("url", "group_port", "timeout")  # options that only mode server reads
CHECK_TOKENS = 16  # of each answer in the greedy-token check


class Vllm(Strict):
    """vLLM as the engine for sampling. Only `uses` changes what is sampled with it; the rest says where and how."""

    # What is sampled by vLLM; the rest by transformers, as validation always is.
    uses: list[Use] = Field(list(USES), min_length=1)
    # Who samples a training: TRL's engine on its own GPUs, or a server that runs elsewhere and gets the weights. Rollouts and
    # evaluation have an engine of the run's own.
    mode: Literal["colocate", "server"] = "colocate"
    gpu_memory_utilization: float = Field(0.3, gt=0, le=1)  # share of a GPU's memory, the engine's weights included
    tensor_parallel: PositiveInt = 1  # GPUs that hold one engine together
    # Tokens of a prompt and its completion, for which an engine keeps room; null: as many as the run's longest prompt needs.
    max_model_len: PositiveInt | None = None
    url: str | None = None  # of a server: http://host:port
    group_port: PositiveInt = 51216  # over which a training's weights go to a server; one for each run at a time
    timeout: PositiveFloat = 240.0  # seconds in which the server must be there
    check_every: PositiveInt = 1  # updates of the engine's weights in training from one greedy-token check to the next
    tolerance: PositiveFloat | None = None  # of that check, nats; null: by the engine's precision

    @model_validator(mode="before")
    @classmethod
    def _null_is_not_said(cls, content: Any) -> Any:
        # So that a profile can take back what the one says that it extends, as it must to change the mode.
        said = isinstance(content, dict)
        return {name: value for name, value in content.items() if value is not None} if said else content

    def _refusals(self):
        served = self.mode == "server"
        for name in OF_SERVER:
            yield name in self.model_fields_set and not served, f"`{name}` belongs to mode server, and to no other"
        lost = served and not (self.url or "").startswith(("http://", "https://"))
        yield lost, "mode server needs the server's `url`, as in http://localhost:8000"
        idle = served and "training" not in self.uses
        yield idle, "mode server samples a training: add `training` to `uses`, or leave mode and `url` out"
        yield len(set(self.uses)) < len(self.uses), "`uses` names one use twice"

    @model_serializer(mode="wrap")
    def _only_what_is_read(self, handler) -> dict[str, Any]:
        return {name: value for name, value in handler(self).items() if self.mode == "server" or name not in OF_SERVER}

    def context(self, prompt: float, max_new_tokens: int) -> int:
        """Tokens for which an engine of the run's own keeps room: `max_model_len` or, rather than the model's whole context, the
        longest prompt and its completion, or the answer by which the engine is checked."""
        return self.max_model_len or ceil(prompt) + max(max_new_tokens, CHECK_TOKENS)


WHERE = frozenset(Vllm.model_fields) - {"uses"}
"""Options that enter no run's hash: where and how an engine runs changes no result."""


class Sampling(Strict):
    """How policies are sampled, in training and evaluation alike unless evaluation says otherwise."""

    temperature: PositiveFloat = 1.0
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: NonNegativeInt | None = Field(None, exclude_if=lambda value: not value)  # most likely tokens; 0 or null: all
    max_new_tokens: PositiveInt
    batch: PositiveInt = 64  # sequences sampled at a time outside the trainers
    engine: Literal["transformers", "vllm"] = unless("transformers")
    vllm: Vllm | None = unless(None)  # read where the engine is vllm

    @model_validator(mode="before")
    @classmethod
    def _vllm_has_defaults(cls, content: Any) -> Any:
        if isinstance(content, dict) and content.get("engine") == "vllm" and content.get("vllm") is None:
            return content | {"vllm": {}}
        return content

    def _refusals(self):
        unread = "the block `vllm` is read where `engine: vllm` is set: set it, or leave the block out"
        yield self.vllm is not None and self.engine != "vllm", unread

    def by_vllm(self, use: Use) -> Vllm | None:
        """vLLM's options where it is the engine for a use, else None."""
        return self.vllm if self.vllm is not None and use in self.vllm.uses else None


class Decoding(Strict):
    """How a model is sampled that is evaluated: avg@k, of `samples` independent samples for every problem."""

    samples: PositiveInt = 16  # 1 where the temperature is 0
    temperature: NonNegativeFloat = 1.0  # 0: greedy
    top_p: float = Field(1.0, gt=0, le=1)
    top_k: NonNegativeInt | None = Field(None, exclude_if=lambda value: not value)

    @property
    def words(self) -> str:
        """What readers call it: `greedy`, `T 1` or `T 0.7, top-p 0.8, top-k 20`."""
        if self.temperature == 0:
            return "greedy"
        limits = {"top-p": self.top_p if self.top_p < 1 else None, "top-k": self.top_k}
        return ", ".join([f"T {self.temperature:g}", *(f"{name} {one:g}" for name, one in limits.items() if one)])

    @model_validator(mode="before")
    @classmethod
    def _greedy_is_one_sample(cls, content: Any) -> Any:
        greedy = isinstance(content, dict) and content.get("temperature") == 0
        return {"samples": 1} | content if greedy else content

    def _refusals(self):
        more = self.samples > 1 or self.top_p < 1 or self.top_k
        yield self.temperature == 0 and more, "temperature 0 has one answer: leave out samples, top_p and top_k"


MAIN = "main"
"""The name of the decoding that all tables read, an evaluation's own."""


class Evaluation(Decoding):
    """The main decoding, by which every table goes, and further ones by name (`also: {greedy: {temperature: 0}}`), which take as
    many samples unless they say how many or are greedy."""

    also: dict[str, Decoding] = unless({})
    # Further temperatures of base models alone, so that tables can show what an untrained model reaches at its best one. In
    # no other run's resolved form.
    untrained: list[PositiveFloat] = unless([])

    @model_validator(mode="before")
    @classmethod
    def _as_many_samples(cls, content: Any) -> Any:
        also = content.get("also") if isinstance(content, dict) else None
        if isinstance(also, dict) and "samples" in content:
            sampled = {name: one for name, one in also.items() if isinstance(one, dict) and one.get("temperature") != 0}
            also = also | {name: {"samples": content["samples"]} | one for name, one in sampled.items()}
            return content | {"also": also}
        return content

    def _refusals(self):
        yield from super()._refusals()
        yield MAIN in self.also, f"`{MAIN}` is the evaluation's own decoding: name the one under `also` otherwise"
        known = {one.words for one in (self, *self.also.values())}
        for t in self.untrained:
            again = self._at(t).words in known or self.untrained.count(t) > 1
            yield again, f"`untrained` has temperature {t:g}, at which every model is evaluated, or has it twice"

    def _at(self, temperature: float) -> Decoding:
        return Decoding(samples=self.samples, temperature=temperature)

    @property
    def decodings(self) -> dict[str, Decoding]:
        """All of them, the main one first."""
        untrained = map(self._at, self.untrained)
        return {MAIN: self, **self.also, **{one.words: one for one in untrained}}


class Validation(Strict):
    """Accuracy on problems of its own while a stage trains; no evaluation set and no label pool has a say in it."""

    every: PositiveInt  # optimiser steps
    samples: PositiveInt = 4  # of every validation problem
    # Null: sampling's, as in training.
    temperature: PositiveFloat | None = unless(None)
    top_p: float | None = Field(None, gt=0, le=1, exclude_if=lambda value: value is None)
    # Where a completion is cut off, which then counts as any other; null: sampling.max_new_tokens.
    max_new_tokens: PositiveInt | None = unless(None)
    # Sequences at a time, sampled by transformers in every process beside the state of its training; null: sampling.batch.
    batch: PositiveInt | None = unless(None)


class Lengths(Strict):
    """Mean lengths in tokens, as the planner (s2d_lib.plan) assumes them; no run reads them."""

    prompt: PositiveFloat  # the chat template's own tokens and the instruction included
    completion: PositiveFloat


class Cluster(Strict):
    """What a cluster's scheduler is asked for, for every run, instead of what the planner predicts; no run reads it."""

    gpu: str | None = None  # whose speed the hours are for, a name in s2d_lib/plan/gpus.yaml; null: the planner's own
    hours: PositiveFloat | None = None  # until a run is killed
    memory: PositiveFloat | None = None  # of the machine, in GB
    partition: str | None = None  # Slurm's; null: the scheduler chooses


class Hardware(Strict):
    """Where a run computes."""

    device: Literal["cpu", "cuda"] = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"  # of the computation; trained weights stay float32
    threads: PositiveInt = 1  # torch threads of one run; run jobs side by side rather than raising it
    gradient_checkpointing: bool = False
    processes: PositiveInt = unless(1)  # that train together; each takes micro_batch sequences at a time
    # A file in params/accelerate: how they share a model; null: each holds it whole.
    accelerate: str | None = unless(None)
    # Over which one process lays out the layers of a model that it only samples (base, rollouts, evaluation after a training in
    # several processes). They compute one after the other: more of them are memory, not speed.
    sampling_gpus: PositiveInt = unless(1)

    def _refusals(self):
        alone = self.accelerate and (self.processes == 1 or self.device == "cpu")
        yield alone, "`accelerate` says how several processes on GPUs share a model: raise `processes`, or leave it out"
        cpu = self.sampling_gpus > 1 and self.device == "cpu"
        yield cpu, "`sampling_gpus` are GPUs: set `device: cuda`, or leave it out"


NOT_TARGETS = ("lm_head", "embed_tokens")


class Lora(Strict):
    """Low-rank adapters on linear layers (Hu et al. 2021, arXiv 2106.09685): W + alpha / rank * B A, W frozen."""

    rank: PositiveInt
    alpha: PositiveFloat
    dropout: float = Field(0.0, ge=0, lt=1)  # on the adapters' inputs, in training
    target_modules: Literal["all-linear"] | list[str] = "all-linear"  # names of linear layers; the head is none of them
    # merged: a normal checkpoint. adapter: only the adapters, a small file over the checkpoint that training began with.
    save: Literal["merged", "adapter"] = "merged"

    def _refusals(self):
        none = "no layer has an adapter, so nothing would be trained: name some, or all-linear"
        yield not self.target_modules, none
        shared = "losses read the head's weights themselves, and it may share them with the embeddings"
        for name in NOT_TARGETS:
            yield name in self.target_modules, f"{name} can't have an adapter: {shared}"
