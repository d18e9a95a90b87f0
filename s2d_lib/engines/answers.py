"""What is asked of an engine, and what it answers."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import Policy
from s2d_lib.study.vllm import Vllm


class Answer(NamedTuple):
    """One completion.

    Attributes:
        ids: Its tokens, EOS included.
        log_probs: At each of them, the log-probability (nats, of the engine's own logits) of it and of the most likely
            tokens, by id; empty where they were not asked for.
    """

    ids: list[int]
    log_probs: list[dict[int, float]]


@dataclass(frozen=True)
class Request:
    """How an engine is to sample.

    Attributes:
        samples: Completions of each prompt.
        max_new_tokens: Their length limit.
        temperature: 0 for the most likely tokens.
        top_p: Nucleus.
        top_k: Only among so many most likely tokens; 0 for all.
        seeds: One for each prompt, for all its samples together; without them nothing may be random.
        top: How many tokens' log-probabilities are wanted; None for no log-probabilities at all.
    """

    samples: int
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    seeds: Sequence[int] | None = None
    top: int | None = None

    def fields(self, eos: int) -> dict:
        """What vLLM's SamplingParams and its server's requests both call it, the seed aside.

        Nothing is left to a model's generation_config, nor to an end token that the model's own files may name.
        """
        return {
            "n": self.samples,
            "max_tokens": self.max_new_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
            "top_k": self.top_k,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "stop_token_ids": [eos],
            "ignore_eos": True,
            "logprobs": self.top,
        }


class Engine(Protocol):
    """Something that holds a policy's weights and samples from them."""

    dtype: str  # of its computation: float32, bfloat16, float16

    def answer(self, prompts: Sequence[list[int]], request: Request) -> list[list[Answer]]:
        """Completions of every prompt (token ids), `request.samples` of each."""

    def close(self) -> None:
        """Free what it holds."""


def room_for(options: Vllm, policy: Policy, prompts: Sequence[list[int]], max_new_tokens: int) -> int:
    """Tokens for which an engine that is asked these prompts (token ids) keeps room, `Vllm.context`; never more than the
    model's own context."""
    own = policy.model.config.get_text_config().max_position_embeddings
    return min(options.context(max(map(len, prompts)), max_new_tokens), own)


def refuse_longer_than(context: int, prompts: Sequence[list[int]], max_new_tokens: int) -> None:
    """Refuse prompts (token ids) that do not fit vLLM's context together with their completions.

    Raises:
        StudyError: The longest of them does not.
    """
    longest = max(map(len, prompts)) + max_new_tokens
    if longest > context:
        raise StudyError(
            f"a prompt and its completion may take {longest} tokens, but vLLM's context is {context}: lower max_new_tokens, or "
            "raise `sampling.vllm.max_model_len` where the model's own context allows it."
        )
