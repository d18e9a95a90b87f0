"""What a profile says of vLLM: for which sampling, where its engine is, and how it is checked."""

from math import ceil
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_serializer, model_validator

from s2d_lib.study.strict import Strict

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
