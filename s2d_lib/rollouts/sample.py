"""One way to sample: completions of prompts from a policy, with their token ids."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tqdm.auto import tqdm
from transformers import set_seed

from s2d_lib.policies.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.rollouts.undisturbed import evaluating
from s2d_lib.study.settings import Decoding, Sampling


@dataclass(frozen=True, slots=True)
class Rollout:
    """One completion of one problem.

    Attributes:
        problem: Id of the problem.
        sample: Which of the problem's samples this is, from 0.
        ids: Token ids, EOS included where the completion ended by itself.
        text: Decoded without special tokens.
        finished: False where the length limit cut it off.
        log_prob: Of a stored one: nats of the whole completion under who made it, at temperature 1.
    """

    problem: str
    sample: int
    ids: tuple[int, ...]
    text: str
    finished: bool
    log_prob: float | None = field(default=None, compare=False)


def sample(
    policy: Policy,
    problems: Sequence[Problem],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    decoding: Decoding | None = None,
    about: str = "sampling",
    show: bool = True,
) -> list[Rollout]:
    """`samples` independent completions of every problem, in the order of the problems.

    Args:
        policy: Who answers.
        problems: What is asked.
        samples: Completions for each problem.
        sampling: Length limit and batch; temperature, top-p and top-k where there is no decoding.
        seed: Of the random stream; the same seed gives the same bytes on the same machine.
        decoding: Says temperature (0: greedy), top-p and top-k instead.
        about: Label of the progress bar.
        show: Whether there is a bar at all.
    """
    set_seed(seed)
    how = decoding or sampling
    drawn = {"do_sample": True, "temperature": how.temperature, "top_p": how.top_p, "top_k": how.top_k or 0}
    tokenizer, device = policy.tokenizer, policy.model.device
    jobs = [(problem, i) for problem in problems for i in range(samples)]
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    rollouts: list[Rollout] = []
    bar = tqdm(total=len(jobs), desc=about, unit="rollout", mininterval=1.0, disable=not show)
    with bar, evaluating(policy.model):
        for start in range(0, len(jobs), sampling.batch):
            batch = jobs[start : start + sampling.batch]
            inputs = tokenizer.pad(
                {"input_ids": [prompt_ids[p.id] for p, _ in batch]}, return_tensors="pt", padding_side="left"
            ).to(device)
            with torch.no_grad():
                out = policy.model.generate(
                    **inputs,
                    **(drawn if how.temperature else {"do_sample": False}),
                    max_new_tokens=sampling.max_new_tokens,
                    eos_token_id=tokenizer.eos_token_id,
                    pad_token_id=tokenizer.pad_token_id,
                )
            completions = [_cut(row, tokenizer.eos_token_id) for row in out[:, inputs["input_ids"].shape[1] :].tolist()]
            for (problem, i), ids, text in zip(batch, completions, policy.decode(completions), strict=True):
                rollouts.append(Rollout(problem.id, i, tuple(ids), text, ids[-1] == tokenizer.eos_token_id))
            bar.update(len(batch))
    return rollouts


def _cut(ids: list[int], eos: int) -> list[int]:
    return ids[: ids.index(eos) + 1] if eos in ids else ids


@torch.no_grad()
def completion_states(
    policy: Policy, prompt_ids: dict[str, list[int]], rollouts: Sequence[Rollout]
) -> tuple[torch.Tensor, torch.Tensor]:
    """Last hidden states (n, H) from which the policy predicts the rollouts' n tokens, and these tokens (n,)."""
    # Right padding: a causal model never looks at it, so it needs no mask and no shifted positions.
    rows = [[*prompt_ids[r.problem], *r.ids] for r in rollouts]
    device = policy.model.device
    ids = torch.full((len(rows), max(map(len, rows))), policy.tokenizer.pad_token_id, device=device)
    predicts = torch.zeros_like(ids, dtype=torch.bool)  # positions whose next token belongs to the completion
    for i, (row, rollout) in enumerate(zip(rows, rollouts, strict=True)):
        ids[i, : len(row)] = torch.tensor(row)
        predicts[i, len(row) - len(rollout.ids) - 1 : len(row) - 1] = True
    hidden = policy.model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    # Of a model that lies on several GPUs, the last one has them.
    hidden = hidden.to(device)[predicts]
    return hidden, ids.roll(-1, 1)[predicts]
