"""`s2d check --pair`: would OPD pay for a student and its teacher? Asked on a handful of prompts, before anything is trained.

There are three answers. A teacher that is not clearly better than the student at its own best has nothing to teach. Where the
student hardly ever takes a step that the teacher means to take, its own answers do not go there, and OPD, which learns on them,
waits for chance: a short warmup on the teacher's answers comes first. Else OPD at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from s2d_lib.claims.bootstrap import bootstrap
from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.models.vocabularies import check_pair
from s2d_lib.notebook import per_problem
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import load_problems
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, sample, undisturbed
from s2d_lib.stages.inputs import Weights, parent_weights
from s2d_lib.stages.validation import first_tokens, token_measures
from s2d_lib.study import Resolved, derive_seed, lineage
from s2d_lib.study.settings import Decoding, Sampling

SAMPLES = 4  # answers of each model to a prompt
MEANT = 0.1  # a token that the teacher gives so much is one that it means: less may be a slip of its sampling
FIRST = 1e-5  # the student's least probability of such a token, where it begins an answer
LATER = 1e-3  # and where it goes on with one
LOST = 0.2  # share of the teacher's answers with a token below that, above which a warmup comes first
# Where they come from: the map (notebook 02), whose students differ in their opening or in how many of twelve functions they
# never saw worked. Openings of 0.6 to 1e-4 and one hidden function did as well without a warmup; openings of 1e-6 and 1e-8, where
# steps were scarce, and two and three hidden functions did not. LOST was set after that, between what this module says of the
# former (0 and 13 %) and of the latter (99, 28 and 41 %): one seed, 32 prompts, answers of ten tokens, one regime.

ROWS = {
    "top16_overlap": ("shared among the 16 likeliest tokens{chance}", ".0%"),
    "student_mass": ("the student's mass on the teacher's support", ".1%"),
    "teacher_mass": ("the teacher's mass on the student's support", ".1%"),
    "forward_kl": ("KL(teacher, student), nats a token", ".3f"),
    "reverse_kl": ("KL(student, teacher), nats a token", ".3f"),
    "opening": ("the student's probability of the first token, geometric mean", ".1e"),
    "lost_at_first": (f"answers that the student begins so with a chance under {FIRST:g}", ".0%"),
    "lost_later": (f"answers that it goes on with so, once, with a chance under {LATER:g}", ".0%"),
    "lost": ("answers out of its reach, for either reason", ".0%"),
    "sampled": ("reward, sampled", ".1%"),
    "greedy": ("reward, greedy", ".1%"),
    "passed": (f"reward, best of {SAMPLES} samples", ".1%"),
}
"""What is measured -> its label and format."""


@dataclass(frozen=True)
class Pair:
    """What was measured of a student and its teacher, and what it says."""

    numbers: pd.DataFrame  # a row for each of ROWS; columns `teacher` and `student`, on whose answers
    verdict: str  # `OPD at once`, `a short warmup first` or `this teacher has nothing to teach`
    because: str  # the numbers that decided
    chance: float  # overlap of the 16 likeliest tokens of two models that know nothing of each other

    @property
    def table(self) -> pd.DataFrame:
        """For readers."""
        chance = f" ({self.chance:.0%} by chance)" if self.chance >= 0.25 else ""
        shown = {"": [label.format(chance=chance) for label, _ in ROWS.values()]}
        for side in ("teacher", "student"):
            shown[f"{side}'s answers"] = [format(self.numbers.loc[row, side], form) for row, (_, form) in ROWS.items()]
        return pd.DataFrame(shown)

    def __str__(self) -> str:
        return f"{self.verdict}: {self.because}."


def read_pair(resolved: Resolved, prompts: int = 32) -> Pair:
    """Measure the student that a checkpoint starts from and its teacher, base models of which need no run, on at least 2 prompts
    of its label pool. Raises a StudyError where it has no such teacher, a parent is not there yet, or the two can't be bridged.
    """
    name = resolved.checkpoint
    if not {"from", "teacher"} <= resolved.parents.keys():
        raise StudyError(
            f"{name!r} has no teacher, or only a file of traces, to be compared with what it starts from: name a checkpoint such "
            "as 'student.opd_only.rl_teacher'."
        )
    if prompts < 2:
        raise StudyError(f"an interval needs at least 2 prompts, given {prompts}.")
    above = lineage(resolved.profile, name, resolved.seed, resolved.overrides)
    student, teacher = (_loaded(resolved, kind, above[resolved.parents[kind]]) for kind in ("from", "teacher"))
    check_pair(student, teacher)
    problems = load_problems(resolved.problems, resolved.labels)
    seed = derive_seed(resolved.profile, name, resolved.seed, "pair")
    size = min(prompts, len(problems.pool))
    chosen = np.random.default_rng(seed).choice(len(problems.pool), size, replace=False)
    own = resolved.validation.model_dump(include={"batch", "max_new_tokens"}) if resolved.validation else {}
    sampling = resolved.sampling.model_copy(update=own)
    return measure(student, teacher, [problems.pool[i] for i in chosen], problems.grading, sampling, seed)


def _loaded(resolved: Resolved, kind: str, parent: Resolved) -> Policy:
    weights = Weights(None) if parent.stage == "base" else parent_weights(Run(resolved), kind)
    return load_policy(parent.model, resolved.hardware.model_copy(update={"sampling_gpus": 1}), *weights)


def measure(
    student: Policy, teacher: Policy, problems: Sequence[Problem], grading: str, sampling: Sampling, seed: int
) -> Pair:
    """The measurement behind `read_pair`: both are sampled, and answer greedily once more; no random stream notices it."""
    columns, rewards = {}, {}
    greedy = Decoding(samples=1, temperature=0)
    with undisturbed():
        for side, policy in {"teacher": teacher, "student": student}.items():
            drawn = sample(policy, problems, samples=SAMPLES, sampling=sampling, seed=seed, show=False)
            best = sample(policy, problems, samples=1, sampling=sampling, decoding=greedy, seed=seed, show=False)
            grades = {"sampled": _grades(problems, drawn, grading), "greedy": _grades(problems, best, grading)}
            rewards[side] = {how: grade.mean(axis=1) for how, grade in grades.items()}
            columns[side] = _beside(student, teacher, problems, drawn, sampling.batch)
            columns[side] |= {how: reward.mean() for how, reward in rewards[side].items()}
            columns[side]["passed"] = grades["sampled"].max(axis=1).mean()
    verdict, because = reading(columns["teacher"], rewards)
    vocabulary = student.model.config.get_text_config().vocab_size
    return Pair(pd.DataFrame(columns), verdict, because, min(1.0, 16 / vocabulary))


def _grades(problems: Sequence[Problem], rollouts: Sequence[Rollout], grading: str) -> np.ndarray:
    """0 or 1, (problems, samples)."""
    return np.array([[int(bit) for bit in bits] for bits in per_problem("", problems, rollouts, grading)["correct"]])


def _beside(
    student: Policy, teacher: Policy, problems: Sequence[Problem], rollouts: Sequence[Rollout], batch: int
) -> dict[str, float]:
    """The rows up to the rewards, of some rollouts.

    A rollout is lost where a token y of it has p_T(y) >= MEANT and p_S(y) < FIRST, if it is its first, or < LATER.
    """
    measured = token_measures(student, teacher, problems, rollouts, batch)
    found = {name: values.double().cpu().numpy() for name, values in measured.items()}
    starts = first_tokens(rollouts)
    limits = np.full(len(found["student"]), np.log(LATER))
    limits[starts] = np.log(FIRST)
    missed = (found["teacher"] >= np.log(MEANT)) & (found["student"] < limits)
    later = missed.copy()
    later[starts] = False
    return {row: values.mean() for row, values in found.items() if row in ROWS} | {
        "opening": np.exp(found["student"][starts].mean()),
        "lost_at_first": missed[starts].mean(),
        "lost_later": np.logical_or.reduceat(later, starts).mean(),
        "lost": np.logical_or.reduceat(missed, starts).mean(),
    }


def reading(on_teacher: dict[str, float], rewards: dict[str, dict[str, np.ndarray]]) -> tuple[str, str]:
    """Verdict and reason, from what was measured on the teacher's answers and, for each side and decoding, the mean reward of
    every problem, (problems,)."""
    best = {side: max(of, key=lambda how: of[how].mean()) for side, of in rewards.items()}
    values = {side: rewards[side][best[side]] for side in rewards}
    gain = bootstrap(values["teacher"][None], values["student"][None])
    said = (
        f"the teacher's best reward ({values['teacher'].mean():.0%}, {best['teacher']}) less the student's "
        f"({values['student'].mean():.0%}, {best['student']}) is {100 * gain.mean:+.0f} "
        f"[{100 * gain.low:.0f}, {100 * gain.high:.0f}] points"
    )
    if gain.low <= 0:
        return "this teacher has nothing to teach", f"{said}, not clearly more on {len(values['teacher'])} prompts"
    far = (
        f"{on_teacher['lost']:.0%} of the teacher's answers are out of the student's reach (the limit is {LOST:.0%}), "
        f"{on_teacher['lost_at_first']:.0%} at the first token and {on_teacher['lost_later']:.0%} behind it"
    )
    return ("a short warmup first" if on_teacher["lost"] > LOST else "OPD at once"), f"{far}; {said}"
