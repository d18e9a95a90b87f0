"""Rollouts that do not depend on who samples them: every one has a random stream of its own, by its place in the step.

In one process as in several the same prompts then get the same completions, as long as the policies are the same. As a
module (`python -m tests.stages.seeded_rollouts <folder>`) it is s2d_lib.worker with that change.
"""

import sys
from pathlib import Path

import torch
from trl import DistillationTrainer, GRPOTrainer

from s2d_lib import worker
from s2d_lib.study import derive_seed


def seed_rollouts(patch=setattr) -> None:
    """Let TRL's trainers sample one prompt at a time; `patch` sets an attribute (monkeypatch's, to take it back)."""
    for trainer in (GRPOTrainer, DistillationTrainer):
        patch(trainer, "_generate_single_turn", _one_at_a_time(trainer._generate_single_turn))


def _one_at_a_time(sampled):
    def generate(self, prompt_ids, *rest, **named):
        first, step, parts = self.accelerator.process_index * len(prompt_ids), self.state.global_step, []
        with torch.random.fork_rng():
            for place, ids in enumerate(prompt_ids, start=first):
                torch.manual_seed(derive_seed("rollout", step, place))
                parts.append(sampled(self, [ids], *rest, **named))
        if isinstance(parts[0], tuple):  # GRPO's, with log-probabilities that only vLLM has
            return [ids for found, _ in parts for ids in found], None
        return [ids for found in parts for ids in found]

    return generate


if __name__ == "__main__":
    seed_rollouts()
    worker.main(Path(sys.argv[1]))
