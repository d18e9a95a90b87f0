"""vLLM in training on a CPU: where no running engine can be updated, every update makes a new one."""

import contextlib
import copy
from dataclasses import replace

from peft import PeftModel
from transformers import Trainer

from s2d_lib.engines.answers import Request
from s2d_lib.engines.colocated import Colocated
from s2d_lib.policies.adapters import merged
from s2d_lib.policies.policy import Policy
from s2d_lib.rollouts.undisturbed import undisturbed
from s2d_lib.runs import Run
from s2d_lib.study import derive_seed


class FreshEngines:
    """In the place of TRL's VLLMGeneration (read from release 1.16), of which it has what a trainer calls.

    Every sample has a seed of its own, by step and place in the batch: a fresh engine's random stream would otherwise be the
    same at every step.

    Attributes:
        temperature, top_p, top_k, max_completion_length, logprobs: How to sample, under TRL's names.
        llm: vLLM's engine over the weights of the last update; None before the first one and after the end.
    """

    def __init__(self, trainer: Trainer, run: Run, policy: Policy, context: int):
        """No engine is made yet.

        Args:
            trainer: Whose model is sampled.
            run: Says how.
            policy: Whose tokenizer the model has.
            context: Tokens of the longest sequence.
        """
        self.trainer, self.run, self.policy, self.context = trainer, run, policy, context
        sampling = run.resolved.sampling
        self.temperature, self.top_p, self.top_k = sampling.temperature, sampling.top_p, sampling.top_k or 0
        self.max_completion_length, self.logprobs = sampling.max_new_tokens, 0
        self._engine: Colocated | None = None

    @property
    def llm(self):
        """See the class."""
        return None if self._engine is None else self._engine.llm

    def sync_weights(self) -> None:
        """End the last engine and make one from the weights as they are now, adapters merged.

        Raises:
            StudyError: vLLM can't be started on them.
        """
        self.close()
        resolved, model = self.run.resolved, self.trainer.model
        with undisturbed():  # vLLM seeds the streams that it shares with training
            self._engine = Colocated(
                replace(self.policy, model=merged(copy.deepcopy(model)) if isinstance(model, PeftModel) else model),
                resolved.sampling.vllm,
                resolved.hardware,
                batch=resolved.params["batch"] * resolved.params.get("steps_per_sampling", 1),
                context=self.context,
                place=self.run.path(".engine"),
                logprobs_mode="processed_logprobs",  # as TRL's engine: its importance weights are those of what was sampled
            )

    def generate(self, prompts: list[list[int]], images: None, num_generations: int, profiler=None) -> tuple:
        """A completion of every prompt; a prompt that is to have several comes as often.

        Returns:
            The prompts, their completions (token ids), and at each token the log-probabilities (nats) and ids of the sampled
            token and of the `logprobs` most likely ones.
        """
        seed, step = self.trainer.args.seed, self.trainer.state.global_step
        request = Request(
            samples=1,
            max_new_tokens=self.max_completion_length,
            temperature=self.temperature,
            top_p=self.top_p,
            top_k=self.top_k,
            seeds=[derive_seed(seed, "engine", step, row) for row in range(len(prompts))],
            top=self.logprobs,
        )
        with profiler or contextlib.nullcontext():
            answers = [one[0] for one in self._engine.answer(prompts, request)]
        values, ids = (
            [[list(part(at)) for at in one.log_probs] for one in answers] for part in (dict.values, dict.keys)
        )
        return prompts, [one.ids for one in answers], values, ids

    def close(self) -> None:
        """End the engine that is there."""
        if self._engine is not None:
            self._engine.close()
            self._engine = None
