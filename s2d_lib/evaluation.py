"""Evaluation: avg@k with its standard error over problems, pass@k, length and cut-off share, per problem."""

from collections.abc import Sequence
from itertools import product
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
    asked = {p.id: p for p in problems}
    grades = grade_many([r.text for r in rollouts], [asked[r.problem].answer for r in rollouts], mode=grading)
    rows = [
        (r.problem, "1" if g.correct else "0", len(r.ids), not r.finished, g.formed)
        for r, g in zip(rollouts, grades, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["problem", "correct", "tokens", "cut_off", "formed"])
    how = {"correct": "".join, "tokens": "mean", "cut_off": "mean", "formed": "mean"}
    table = table.groupby("problem", sort=False).agg(how).reset_index()
    return table.assign(set=name, level=[asked[one].level for one in table["problem"]])[COLUMNS]


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
    resolved, sets, sampled = run.resolved, inputs.problems.evaluations, {}
    inputs.drop_training()
    with sampler(run, inputs.policy, "evaluation", [p for problems in sets.values() for p in problems]) as sample:
        for (label, decoding), name in product(resolved.evaluation.decodings.items(), sets):
            sampled[label, name] = sample(
                sets[name],
                samples=decoding.samples,
                sampling=resolved.sampling,
                decoding=decoding,
                seed=run_seed(run, f"evaluation {name}" if label == MAIN else f"evaluation {name} {label}"),
                about=f"evaluating on {name}" if label == MAIN else f"evaluating on {name}, {label}",
            )
    parts, texts = [], []
    for (label, name), rollouts in sampled.items():
        part = per_problem(name, sets[name], rollouts, inputs.problems.grading)
        parts.append(part.assign(decoding=label) if len(resolved.evaluation.decodings) > 1 else part)
        if label == MAIN:
            asked = pd.DataFrame(
                [(p.id, p.prompt, p.answer) for p in sets[name]], columns=["problem", "prompt", "answer"]
            )
            first = {r.problem: r.text for r in rollouts if r.sample == 0}
            said = {"completion": asked["problem"].map(first), "correct": part["correct"].str[0] == "1"}
            texts.append(asked.assign(**said, set=name)[["set", *asked, *said]])
    write_samples(pd.concat(texts), run.path("samples.csv"))
    write_csv(pd.concat(parts), path)
