"""vLLM in TRL's trainers: their arguments or their engines, and a check after the updates of its weights."""

import os
from collections.abc import Callable

import torch
from transformers import Trainer, TrainerCallback, set_seed

from s2d_lib.engines.answers import Answer, room_for
from s2d_lib.engines.client import bound
from s2d_lib.engines.colocated import QUIET
from s2d_lib.engines.fresh import FreshEngines
from s2d_lib.engines.greedy import PROBLEMS, TOP, Movement, compare, refuse_desync
from s2d_lib.engines.sampler import tolerance_of
from s2d_lib.policies.policy import Policy
from s2d_lib.policies.sharing import back_into_shards
from s2d_lib.problems.base import Problem
from s2d_lib.runs import Run
from s2d_lib.study import Resolved
from s2d_lib.study.vllm import CHECK_TOKENS, Vllm

GREEDY = {"temperature": 0.0, "top_p": 1.0, "top_k": 0, "max_completion_length": CHECK_TOKENS, "logprobs": TOP}


def vllm_arguments(run: Run, policy: Policy, problems: list[Problem]) -> dict:
    """What TRL's GRPOConfig and DistillationConfig need to sample by vLLM; empty where transformers samples, and where every
    update makes an engine of ours.

    Args:
        run: Says what samples.
        policy: Who is trained.
        problems: All that is sampled.
    """
    options = _options(run.resolved)
    if options is None or options.fresh_each_update:
        return {}
    # vLLM would stop at the end tokens that the model's own files name, which need not be the policy's.
    stop = {"ignore_eos": True, "stop_token_ids": [policy.tokenizer.eos_token_id]}
    common = {"use_vllm": True, "vllm_mode": options.mode, "generation_kwargs": stop}
    if options.mode == "server":
        return common | {
            "vllm_server_base_url": options.url.rstrip("/"),
            "vllm_server_timeout": options.timeout,
            "vllm_group_port": options.group_port,
        }
    for name, value in QUIET.items():  # for TRL's engine, which is made in this process: else it reports its use
        os.environ.setdefault(name, value)
    return common | {
        "vllm_gpu_memory_utilization": options.gpu_memory_utilization,
        "vllm_tensor_parallel_size": options.tensor_parallel,
        "vllm_max_model_length": _context(run.resolved, policy, problems),
    }


def _options(resolved: Resolved) -> Vllm | None:
    """vLLM's options where it samples in a training."""
    return None if resolved.params.get("states") == "teacher" else resolved.sampling.by_vllm("training")


def _context(resolved: Resolved, policy: Policy, problems: list[Problem]) -> int:
    prompts = policy.prompt_ids(problems)
    return room_for(resolved.sampling.vllm, policy, prompts, resolved.sampling.max_new_tokens)


def check_syncs(trainer: Trainer, run: Run, policy: Policy, problems: list[Problem]) -> None:
    """Let a trainer that samples by vLLM check its engine's weights, and give it fresh engines where that is asked for; leaves
    any other trainer as it is."""
    options = _options(run.resolved)
    if options is None:
        return
    if options.fresh_each_update:
        # All that TRL's trainers (1.16) read of vLLM once they are made.
        trainer.use_vllm, trainer.vllm_mode, trainer._last_loaded_step = True, options.mode, -1
        trainer.vllm_generation = FreshEngines(trainer, run, policy, _context(run.resolved, policy, problems))
    else:
        bound(trainer.vllm_generation, options)
        # vLLM has put its own seed into the random streams that it shares with the trainer.
        set_seed(trainer.args.seed + trainer.args.process_index)
    trainer.add_callback(SyncCheck(trainer, run, policy, problems))


class SyncCheck(TrainerCallback):
    """The greedy-token check after every so many updates of the engine's weights, the first of them included.

    TRL (read from release 1.16) updates them in `VLLMGeneration.sync_weights`, right before it samples; that is where the
    check hangs. In the end the last weights go to a server, which evaluation then finds there, and an engine of the
    trainer's own is ended, for evaluation to have the GPU's memory.
    """

    def __init__(self, trainer: Trainer, run: Run, policy: Policy, problems: list[Problem]):
        self.trainer, self.policy, self.problems = trainer, policy, problems[:PROBLEMS]
        self.options, self.about = run.resolved.sampling.vllm, run.resolved.checkpoint
        self.syncs, self.movement = 0, Movement()
        self.engine = trainer.vllm_generation
        self._sync: Callable[[], None] = self.engine.sync_weights
        self.engine.sync_weights = self.sync

    def sync(self) -> None:
        """Update the engine's weights and, when it is time, check them.

        Raises:
            StudyError: The engine does not hold the weights that are trained.
        """
        self._update()
        self.syncs += 1
        if (self.syncs - 1) % self.options.check_every == 0:
            self.check()

    def _update(self) -> None:
        back_into_shards(self.trainer.model_wrapped)  # out of which a validation may have just sampled
        self._sync()

    def check(self) -> None:
        """Ask the engine and compare; every process does, since some parts are all processes' together."""
        prompts = self.policy.prompt_ids(self.problems)
        before = {name: getattr(self.engine, name) for name in GREEDY}
        for name, value in GREEDY.items():
            setattr(self.engine, name, value)
        try:
            _, ids, log_probs, tokens = self.engine.generate(prompts=prompts, images=None, num_generations=1)
        finally:
            for name, value in before.items():
                setattr(self.engine, name, value)
        answers = [
            Answer(list(said), [dict(zip(*at, strict=True)) for at in zip(names, values, strict=True)])
            for said, names, values in zip(ids, tokens, log_probs, strict=True)
        ]
        model, tokenizer = self.trainer.model_wrapped, self.policy.tokenizer
        autocast = "bfloat16" if self.trainer.args.bf16 else "float32"
        tolerance = tolerance_of(self._dtype(), autocast, given=self.options.tolerance)
        found = compare(model, prompts, answers, eos=tokenizer.eos_token_id, tokens=CHECK_TOKENS, tolerance=tolerance)
        about = f"{self.about!r} at step {self.trainer.state.global_step}"
        refuse_desync(found, tolerance, about=about, problems=[p.id for p in self.problems], decode=tokenizer.decode)
        self.movement.refuse_standstill(found, tolerance, about=about)

    def _dtype(self) -> str:
        # TRL starts its engine in the precision that vLLM picks (half, for weights of float32); a server's is not asked for.
        llm = getattr(self.engine, "llm", None)
        return "bfloat16" if llm is None else str(llm.llm_engine.model_config.dtype).removeprefix("torch.")

    def on_train_end(self, args, state, control, **kwargs):
        """The last weights to the server, checked; or the end of the trainer's own engine."""
        if self.options.mode == "server":
            self._update()
            self.check()
        elif self.options.fresh_each_update:
            self.engine.close()
        else:
            self._free()

    def _free(self) -> None:
        llm, self.engine.llm = self.engine.llm, None
        if llm is not None:
            llm.llm_engine.engine_core.shutdown()
            torch.cuda.empty_cache()
