"""`s2d plan --pilot`: steps of a stage on the machine that is there, at full length: what one takes and what it holds.

All is as in the run (trainer, batch, precision, processes, engine), but that models start as published, no answer of
transformers ends before the limit, stored answers are random tokens, and nothing is validated or kept. Of two steps the second
counts: the first makes the optimiser's state. As no answer is right, a self-teacher, though held, is not asked for any.
"""

import sys
import tempfile
from dataclasses import replace
from math import ceil
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy
from s2d_lib.plan import Plan
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import Run, runs_root, write_json
from s2d_lib.sampling import Rollout
from s2d_lib.stages import Inputs, training
from s2d_lib.stages.inputs import in_full
from s2d_lib.study import lineage, resolve
from s2d_lib.study.stage_params import DENSE


def pilot(plan: Plan, checkpoint: str | None = None, overrides: dict | None = None) -> pd.Series:
    """Measure a checkpoint's training; by default of the one that holds most by the plan.

    Returns:
        `checkpoint`; `seconds a step` and `of them sampling`; `hours of all steps`, at most; `GB held` at most by a process (on
        a CPU its libraries among it) and `GB planned`.

    Raises:
        StudyError: A checkpoint that trains nothing; models or problems that are not here.
    """
    trained = plan.runs[plan.runs["trained"] > 0]
    trained = trained["total"].set_axis(trained["checkpoint"].str.split("@").str[0])
    name = checkpoint or trained.idxmax()
    if name not in trained:
        raise StudyError(f"{name!r} trains nothing in profile {plan.profile!r}: name one of its trained checkpoints.")
    resolved = resolve(plan.profile, name, 0, overrides)
    sharing = resolved.params.get("steps_per_sampling", 1)
    changed = {"steps": 2, "save_steps": 10**6 * sharing, "mask_truncated": False, "filter": False}
    params = resolved.params | {option: value for option, value in changed.items() if option in resolved.params}
    short = resolved.model_copy(update={"params": params, "validation": None})
    runs_root().mkdir(parents=True, exist_ok=True)
    place = tempfile.TemporaryDirectory(prefix=".pilot-", dir=runs_root())
    with place as folder, mock.patch.object(training, "MODULE", "s2d_lib.check.pilot"):
        run = Run(short, place=Path(folder))
        write_json(run.path("resolved.json"), {"hash": short.hash, **short.model_dump(mode="json")})
        metrics = training.train(run, full_length(run))
    steps, sampled = metrics["seconds/step"], metrics["seconds/sampling"]
    sampling = sampled.iloc[-1] if sharing == 1 else sampled.iloc[0] / sharing
    seconds, held = steps.iloc[-1] - sampled.iloc[-1] + sampling, run.facts["peak_memory_mb"]
    measured = {"checkpoint": name, "seconds a step": seconds, "of them sampling": sampling}
    measured["hours of all steps"] = seconds * resolved.params["steps"] / 3600
    measured["GB held"] = held.get("gpu", held["cpu"]) * 2**20 / 1e9
    return pd.Series(measured | {"GB planned": trained[[name]].iloc[0] / 1e9})


def full_length(run: Run) -> Inputs:
    """What the stage works with: models as published, the longest prompts, and answers as long as the limit."""
    resolved, hardware = run.resolved, run.resolved.hardware.model_copy(update={"sampling_gpus": 1})
    if hardware.accelerate:  # processes will share them
        hardware = hardware.model_copy(update={"device": "cpu"})
    policy, teacher, rows = load_policy(resolved.model, in_full(hardware)), None, 2 * resolved.params["batch"]
    policy.model.generation_config.min_new_tokens = limit = resolved.sampling.max_new_tokens
    if resolved.stage in DENSE:
        line = lineage(resolved.profile, resolved.checkpoint, resolved.seed, resolved.overrides)
        teacher = load_policy(line[resolved.parents["teacher"]].model, hardware)
    problems = load_problems(resolved.problems, resolved.labels)
    problems = replace(problems, pool=sorted(problems.pool, key=lambda problem: len(problem.prompt))[-rows:])
    if resolved.samples_itself:
        return Inputs(policy, problems, teacher)
    ids = tuple(np.random.default_rng(0).integers(len(policy.tokenizer), size=limit).tolist())
    copies = range(ceil(rows / len(problems.pool)))
    stored = [Rollout(one.id, copy, ids, "", False, 0.0) for one in problems.pool for copy in copies]
    return Inputs(policy, problems, teacher, stored)


if __name__ == "__main__":  # one of several processes (s2d_lib.stages.training)
    training.main(Path(sys.argv[1]), full_length)
