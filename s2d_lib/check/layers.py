"""`s2d check --layers`: which layers of a model can a smaller student do without? They go one after another, each time the one
whose loss costs least beside those that are gone already, so that no two are left out that stand in for each other."""

from collections.abc import Sequence

import pandas as pd
import torch

from s2d_lib.errors import StudyError
from s2d_lib.losses import Pair, linear_divergence
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import load_problems
from s2d_lib.sampling import Rollout, completion_states, evaluating, sample, undisturbed
from s2d_lib.stages.states import head_of
from s2d_lib.study import Resolved, derive_seed


def read_layers(resolved: Resolved, count: int, prompts: int = 32) -> pd.DataFrame:
    """`leave_out` for the model that a run's student is cut from, on its own answers to unlabelled prompts of the run's pool.
    Raises a StudyError where the run has no pool, or no layer would be left."""
    if not resolved.labels:
        raise StudyError(
            f"{resolved.checkpoint!r} has no prompts: name a checkpoint that trains, such as 'student.warm.raw_teacher'."
        )
    policy = load_policy(resolved.model.model_copy(update={"layers": None}), resolved.hardware)
    problems = load_problems(resolved.problems, resolved.labels).pool
    some = problems[:: max(1, len(problems) // prompts)][:prompts]  # of every task, which lie one behind the other
    with undisturbed():
        seed = derive_seed(resolved.profile, resolved.checkpoint, resolved.seed, "layers")
        rollouts = sample(policy, some, samples=1, sampling=resolved.sampling, seed=seed, show=False)
        return leave_out(policy, some, rollouts, count, resolved.sampling.batch)


@torch.no_grad()
def leave_out(policy: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], count: int, batch: int):
    """What it costs to leave out `count` layers, the cheapest of those that are left each time.

    Returns:
        A row for every number of layers left out, from 1 on; columns `layer`, its place in the whole model, `forward_kl`, of
        what is left from the whole model (nats, mean over the rollouts' tokens), and `kept`, the places of all that are left.
    """
    layers, base = policy.model.base_model.layers, policy.model.base_model
    if not 0 < count < len(layers):
        raise StudyError(f"of {len(layers)} layers, {count} can't be left out: give 1 to {len(layers) - 1}.")
    prompt_ids = dict(zip((p.id for p in problems), policy.prompt_ids(problems), strict=True))
    head = head_of(policy.model)
    parts = [rollouts[start : start + batch] for start in range(0, len(rollouts), batch)]

    def states(kept: Sequence[int]) -> torch.Tensor:
        base.layers = type(layers)(layers[place] for place in kept)
        try:
            with evaluating(policy.model):
                return torch.cat([completion_states(policy, prompt_ids, part)[0] for part in parts])
        finally:
            base.layers = layers

    kept, rows = list(range(len(layers))), []
    whole = states(kept)
    for _ in range(count):
        costs = {
            place: linear_divergence(Pair(states([k for k in kept if k != place]), head, whole, head), 0.0).loss.item()
            for place in kept
        }
        cheapest = min(costs, key=costs.get)
        kept.remove(cheapest)
        rows.append({"layer": cheapest, "forward_kl": costs[cheapest], "kept": list(kept)})
    return pd.DataFrame(rows, index=pd.RangeIndex(1, count + 1, name="left out"))
