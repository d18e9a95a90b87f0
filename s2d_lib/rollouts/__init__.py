"""Sampling from policies: one verb, `sample`, and the parquet form in which teacher rollouts are kept."""

from s2d_lib.rollouts.sample import Rollout, completion_states, sample
from s2d_lib.rollouts.store import read_rollouts, write_rollouts

__all__ = ["Rollout", "completion_states", "read_rollouts", "sample", "write_rollouts"]
