"""Evaluation: avg@k with its standard error over problems, pass@k, length and cut-off share, per problem."""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from s2d_lib.grading import grade_many
from s2d_lib.problems.base import Problem
from s2d_lib.results.bundle import read_evaluation, summarise, write_csv, write_samples
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout
from s2d_lib.stages.common import run_seed
from s2d_lib.stages.inputs import Inputs
from s2d_lib.study.settings import MAIN
from s2d_lib.vllm import sampler

COLUMNS = ["set", "problem", "level", "correct", "tokens", "cut_off", "formed"]


def per_problem(name: str, problems: Sequence[Problem], rollouts: Sequence[Rollout], grading: str) -> pd.DataFrame:
    """Grade the rollouts of one set: one row a problem, every sample's grade kept."""
    answers = {p.id: p.answer for p in problems}
    grades = grade_many([r.text for r in rollouts], [answers[r.problem] for r in rollouts], mode=grading)
    table = pd.DataFrame(
        {
            "problem": [r.problem for r in rollouts],
            "correct": ["1" if g.correct else "0" for g in grades],
            "tokens": [len(r.ids) for r in rollouts],
            "cut_off": [not r.finished for r in rollouts],
            "formed": [g.formed for g in grades],
        }
    )
    rows = (
        table.groupby("problem", sort=False)
        .agg({"correct": "".join, "tokens": "mean", "cut_off": "mean", "formed": "mean"})
        .reset_index()
    )
    levels = {p.id: p.level for p in problems}
    rows.insert(0, "set", name)
    rows.insert(2, "level", rows["problem"].map(levels))
    return rows[COLUMNS]


def evaluate(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Evaluate a run's policy on every evaluation set and keep the result per problem in evaluation.csv.

    The bytes of the file depend only on the resolved run and the machine, not on when or how often it was made. Where the
    profile has several decodings they stand below each other, by their names in the column `decoding`. One completion of
    each problem, at the main one, is kept as text in samples.csv.

    Returns:
        The summary at the main decoding, one row a set.
    """
    path = run.path("evaluation.csv")
    if not path.is_file():
        with run.phase("evaluation"):
            _evaluate(run, inputs, path)
    return summarise(read_evaluation(path))


def _evaluate(run: Run, inputs: Inputs, path: Path) -> None:
    resolved, sets = run.resolved, inputs.problems.evaluations
    inputs.drop_training()
    with sampler(run, inputs.policy, "evaluation", [p for problems in sets.values() for p in problems]) as sample:
        sampled = {
            (label, name): sample(
                problems,
                samples=decoding.samples,
                sampling=resolved.sampling,
                decoding=decoding,
                seed=run_seed(run, f"evaluation {name}" if label == MAIN else f"evaluation {name} {label}"),
                about=f"evaluating on {name}" if label == MAIN else f"evaluating on {name}, {label}",
            )
            for label, decoding in resolved.evaluation.decodings.items()
            for name, problems in sets.items()
        }
    parts, texts = [], []
    for (label, name), rollouts in sampled.items():
        part = per_problem(name, sets[name], rollouts, inputs.problems.grading)
        if label == MAIN:
            texts.append(_first_samples(name, sets[name], rollouts, part))
        parts.append(part.assign(decoding=label) if len(resolved.evaluation.decodings) > 1 else part)
    write_samples(pd.concat(texts), run.path("samples.csv"))
    write_csv(pd.concat(parts), path)


def _first_samples(name: str, problems: Sequence[Problem], rollouts: Sequence[Rollout], part: pd.DataFrame):
    first = {r.problem: r for r in rollouts if r.sample == 0}
    return pd.DataFrame(
        {
            "set": name,
            "problem": [p.id for p in problems],
            "prompt": [p.prompt for p in problems],
            "answer": [p.answer for p in problems],
            "completion": [first[p.id].text for p in problems],
            "correct": [bits[0] == "1" for bits in part["correct"]],
        }
    )
