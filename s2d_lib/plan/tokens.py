"""What a run samples and trains on, before it is run: sequences are exact, tokens as good as the assumed lengths."""

import math
from dataclasses import dataclass

from s2d_lib.errors import StudyError
from s2d_lib.study import Resolved
from s2d_lib.study.problem_sets import AnySet, BenchmarkSet, CompetitionSet, GymSet, Half, LabelBudget, MicroSet
from s2d_lib.study.profile import Profile
from s2d_lib.study.settings import Lengths

PROBLEMS = {"dapo-math-17k": 17176, "math-500": 500, "aime-2024": 30, "aime-2025": 30, "gsm8k": 1319}
"""Distinct problems of the competition datasets, as s2d_lib.problems.public reads them."""
_TRAIN_AND_TEST = {"chemistry": (1890, 210), "physics": (720, 80), "biology": (450, 50), "material": (841, 94)}
_TRAIN_AND_TEST["tool-use"] = (4046, 68)
PROBLEMS |= {
    f"sdpo-{name}-{part}": n
    for name, both in _TRAIN_AND_TEST.items()
    for part, n in zip(("train", "test"), both, strict=True)
}


@dataclass(frozen=True)
class Counts:
    """What one run costs, counted.

    Attributes:
        sequences: Completions sampled for training (or, of teacher rollouts, for others to train on).
        at_once: How many of them are sampled side by side.
        trained: Completions that carry a loss, each time they do.
        tested: Completions sampled for evaluation.
        validated: Completions sampled for validation while it trains.
    """

    sequences: int = 0
    at_once: int = 1
    trained: int = 0
    tested: int = 0
    validated: int = 0


def counts(run: Resolved) -> Counts:
    """Sequences of a run: a property of its parameters and of the sizes of its sets.

    Raises:
        StudyError: A set whose size is not known before it is loaded.
    """
    params, at_once = run.params, run.sampling.batch
    if run.stage == "teacher_rollouts":
        rollouts = size(run.problems.pool) * params["samples_per_problem"]
        return Counts(sequences=rollouts, at_once=min(at_once, rollouts))
    samples = sum(decoding.samples for decoding in run.evaluation.decodings.values())
    tested = samples * sum(size(one) for one in run.problems.evaluations.values())
    if run.stage == "base":
        return Counts(tested=tested)
    validated = 0
    if run.validation:  # before the first step, after every so many, after the last
        times = math.ceil(params["steps"] / run.validation.every) + 1
        validated = times * run.validation.samples * size(run.problems.validation)
    trained, sharing = params["steps"] * params["batch"], params.get("steps_per_sampling", 1)
    # TRL's trainers sample whole optimiser batches at once, also where the last sampling is for more steps than are left.
    per_sampling = params["batch"] * sharing
    sampled = per_sampling * math.ceil(params["steps"] / sharing) if samples_itself(run) else 0
    return Counts(sampled, per_sampling if sampled else at_once, trained, tested, validated)


def samples_itself(run: Resolved) -> bool:
    """Whether a run that trains samples the completions that it trains on, and not another run before it."""
    return run.stage in ("sparse_rl", "self_distillation") or run.params.get("states") == "student"


def validation_limit(run: Resolved) -> int:
    """Longest completion of the validation, in tokens."""
    return (run.validation and run.validation.max_new_tokens) or run.sampling.max_new_tokens


def size(one: AnySet | Half | LabelBudget) -> int:
    """Problems of a set.

    Raises:
        StudyError: When it is not known before the set is loaded.
    """
    match one:
        case Half():
            return size(one.of) // 2
        case LabelBudget():
            return one.labels
        case MicroSet():
            return one.count
        case GymSet():
            return one.size
        case CompetitionSet() | BenchmarkSet() if one.file in PROBLEMS:
            return min(one.limit or PROBLEMS[one.file], PROBLEMS[one.file])
        case CompetitionSet() | BenchmarkSet() if one.limit:
            return one.limit
    raise StudyError(
        f"the planner does not know how many problems dataset {one.dataset!r} has: give its set a `limit`, or add its "
        "size to PROBLEMS in s2d_lib/plan/tokens.py."
    )


def assumed_lengths(profile: Profile) -> Lengths:
    """The profile's own `lengths`, within its limit; without them prompts and completions are as long as the limit."""
    limit = profile.sampling.max_new_tokens
    if profile.lengths is None:
        return Lengths(prompt=limit, completion=limit)
    return profile.lengths.model_copy(update={"completion": min(profile.lengths.completion, limit)})
