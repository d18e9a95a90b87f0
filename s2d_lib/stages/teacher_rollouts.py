"""Teacher rollouts: the teacher answers every prompt of the pool once and for all stages that train on its states."""

from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, read_rollouts, write_rollouts
from s2d_lib.stages.heads import sequence_log_probs
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.training import run_seed
from s2d_lib.vllm import sampler


def teacher_rollouts(run: Run, inputs: Inputs) -> list[Rollout]:
    """Sample `samples_per_problem` completions of every problem of the pool from the teacher.

    Returns:
        The rollouts. The run keeps them in rollouts.parquet, with their log-probabilities and how they were sampled.
    """
    path = run.path("rollouts.parquet")
    if path.is_file():
        return read_rollouts(path)[0]
    resolved = run.resolved
    seed = run_seed(run, "rollouts")
    with run.phase("sampling"), sampler(run, inputs.policy, "rollouts", inputs.problems.pool) as sample:
        rollouts = sample(
            inputs.problems.pool,
            samples=resolved.stage_params.samples_per_problem,
            sampling=resolved.sampling,
            seed=seed,
            about=f"{resolved.checkpoint}",
        )
    log_probs = sequence_log_probs(inputs.policy, inputs.problems.pool, rollouts, resolved.sampling.batch)
    how = {
        "teacher": resolved.parents["teacher"],
        "temperature": resolved.sampling.temperature,
        "top_p": resolved.sampling.top_p,
        "top_k": resolved.sampling.top_k or 0,
        "log_prob": "nats of the whole completion under the teacher at temperature 1, top-p 1",
        "seed": seed,
    }
    tokens = sum(len(r.ids) for r in rollouts)
    run.remember(sampled={"sequences": len(rollouts), "tokens": tokens}, problems=inputs.problems.report)
    write_rollouts(path, rollouts, log_probs, how)
    return rollouts
