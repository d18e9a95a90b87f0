"""vLLM in this process's hands: an engine made for one checkpoint, and gone after it.

Its weights are never updated in place. On the CPU that can't be done (vLLM 0.31.0: linear weights are repacked, TRL's
`load_weights` raises on them, and `collective_rpc("reload_weights")` leaves wrong ones without a word); on a GPU only
TRL's trainers do it, with an engine of their own.
"""

import contextlib
import gc
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import torch

from s2d_lib.engines.answers import Answer, Request, refuse_longer_than
from s2d_lib.engines.version import checked_version
from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import Policy, save_policy
from s2d_lib.study.settings import Hardware
from s2d_lib.study.vllm import Vllm

QUIET = {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_CONFIGURE_LOGGING": "1", "VLLM_NO_USAGE_STATS": "1"}
ON_CPU = {
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # other runs have the same cores
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",  # two more processes would import vLLM again, which takes longer than the rest
}


class Colocated:
    """vLLM's engine over a policy's weights, as they are when it is made.

    Attributes:
        dtype: Of its computation, the policy's.
    """

    def __init__(
        self,
        policy: Policy,
        options: Vllm,
        hardware: Hardware,
        *,
        batch: int,
        context: int,
        place: Path,
        logprobs_mode: str = "raw_logprobs",
    ):
        """Write the policy to `place`, a folder of this engine's own that is removed again, and start an engine on it.

        Args:
            policy: Whose weights.
            options: vLLM's.
            hardware: The run's.
            batch: Sequences sampled at a time.
            context: Tokens of the longest of them, prompt and completion.
            place: For the weights while the engine loads them: what lies on disk may be another checkpoint's, or adapters.
            logprobs_mode: Of which logits the log-probabilities are, in vLLM's words: the model's, or those that are sampled
                from (`processed_logprobs`).

        Raises:
            StudyError: vLLM is missing or of an unsupported version, or it can't serve the model.
        """
        self.version = checked_version(hardware.device)
        self.eos, self.dtype = policy.tokenizer.eos_token_id, str(policy.model.dtype).removeprefix("torch.")
        self._owns_groups = not torch.distributed.is_initialized()
        with _environment(hardware):
            from vllm import LLM, SamplingParams

            self._params, set_num_threads = SamplingParams, torch.set_num_threads
            shutil.rmtree(place, ignore_errors=True)
            try:
                save_policy(policy, place)
                self.llm = LLM(
                    model=str(place),
                    dtype=self.dtype,
                    tensor_parallel_size=options.tensor_parallel,
                    gpu_memory_utilization=options.gpu_memory_utilization,
                    max_model_len=context,
                    max_num_seqs=batch,
                    skip_tokenizer_init=True,  # token ids go in and come out
                    generation_config="vllm",
                    logprobs_mode=logprobs_mode,
                    enforce_eager=hardware.device == "cpu",  # compiling takes longer there than it saves
                    disable_log_stats=True,
                    seed=0,  # of what no request's seed decides: nothing
                )
            except StudyError:
                raise
            except Exception as error:
                raise StudyError(_reason(error, options)) from error
            finally:
                shutil.rmtree(place, ignore_errors=True)
                torch.set_num_threads = set_num_threads  # on a CPU vLLM leaves one that does nothing
        self.context = context

    def answer(self, prompts: Sequence[list[int]], request: Request, *, show: bool = False, about: str = "") -> list:
        """Completions of every prompt.

        Raises:
            StudyError: A prompt and its completion may be longer than the engine's context.
        """
        refuse_longer_than(self.context, prompts, request.max_new_tokens)
        seeds = request.seeds or [None] * len(prompts)
        fields = request.fields(self.eos)
        params = [self._params(**fields, seed=seed, detokenize=False) for seed in seeds]
        asked = [{"prompt_token_ids": list(prompt)} for prompt in prompts]
        found = self.llm.generate(asked, params, use_tqdm=show)
        return [[_answer(one) for one in sorted(reply.outputs, key=lambda one: one.index)] for reply in found]

    def close(self) -> None:
        """End the engine and give its memory back."""
        if self.llm is not None:
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
    found = [{token: one.logprob for token, one in at.items()} for at in output.logprobs or ()]
    return Answer(list(output.token_ids), found)


@contextlib.contextmanager
def _environment(hardware: Hardware):
    """vLLM reads these while it is imported and started; what the user has set stays."""
    wanted = QUIET | (ON_CPU | {"OMP_NUM_THREADS": str(hardware.threads)} if hardware.device == "cpu" else {})
    added = {name: value for name, value in wanted.items() if name not in os.environ}
    os.environ |= added
    try:
        yield
    finally:
        for name in added:
            os.environ.pop(name, None)


def _reason(error: Exception, options: Vllm) -> str:
    said = " ".join(str(error).split())[:300] or type(error).__name__
    remedy = (
        "lower or raise `sampling.vllm.gpu_memory_utilization`, lower `max_model_len`, or set `engine: transformers`"
    )
    return f"vLLM could not start on this model ({said}): {remedy}."
