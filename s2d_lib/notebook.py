"""What every stage notebook does around its stage: open a run, prepare it, evaluate it, finish it."""

import ast
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import pandas as pd
from IPython import get_ipython
from IPython.display import display

from s2d_lib.errors import StudyError
from s2d_lib.grading import grade_many
from s2d_lib.plan.memory import refuse_what_does_not_fit
from s2d_lib.problems.base import Problem
from s2d_lib.report.style import use_style
from s2d_lib.results.bundle import read_evaluation, summarise, write_csv, write_samples
from s2d_lib.runs import Run, open_run
from s2d_lib.sampling import Rollout
from s2d_lib.stages import Inputs
from s2d_lib.stages import inputs as stage_inputs
from s2d_lib.stages.common import run_seed
from s2d_lib.stages.training import train
from s2d_lib.study import origins
from s2d_lib.study.settings import MAIN
from s2d_lib.study.strict import did_you_mean
from s2d_lib.vllm import sampler

PARAMETERS = ("profile", "checkpoint", "seed", "overrides")
INJECTED = "# Parameters\n"  # what papermill begins its cell with


def start(
    profile: str, checkpoint: str, seed: int, overrides: dict, stages: tuple[str, ...] = (), show: bool = False
) -> Run:
    """Open the run that a notebook's parameters name (as `open_run`) and show what it resolves to: where it starts, who teaches,
    on which labels, with which hyperparameters, and where each of these comes from. A parameter that the notebook does not
    have, bad values, or a checkpoint of another stage than `stages` (none: any) are StudyErrors."""
    refuse_unknown_parameters(PARAMETERS)
    use_style()
    run = open_run(profile, checkpoint, seed, overrides, stages, show)
    resolved = run.resolved
    table = _table(
        {
            "checkpoint": f"{checkpoint} (profile {profile}, seed {seed})",
            "stage": resolved.stage,
            "model": f"{resolved.model.model} as {resolved.role}",
            **resolved.parents,
            "label pool": resolved.labels,
            "evaluation": ", ".join(resolved.problems.evaluations),
            **resolved.params,
            "hash": resolved.hash[:12],
        }
    )
    display(table.assign(**{"from": pd.Series(origins(resolved), dtype=object)}).fillna(""))
    return run


def refuse_unknown_parameters(known: tuple[str, ...]) -> None:
    """Papermill only warns of a parameter that the notebook does not have; here it is a StudyError that names it."""
    shell = get_ipython()
    injected = [source for source in (shell.user_ns["In"] if shell else []) if source.startswith(INJECTED)]
    for statement in ast.parse(injected[-1]).body if injected else []:
        if (name := statement.targets[0].id) not in known:
            raise StudyError(f"this notebook has no parameter {name!r}; {did_you_mean(name, known)}")


def prepare(run: Run) -> Inputs:
    """Load what a run reads (`s2d_lib.stages.inputs.prepare`), once its memory is known to be enough, else a StudyError."""
    if not run.finished:
        refuse_what_does_not_fit(run.resolved)
    return stage_inputs.prepare(run)


def per_problem(name: str, problems: Sequence[Problem], rollouts: Sequence[Rollout], grading: str) -> pd.DataFrame:
    """Grade the rollouts of one set: one row a problem, every sample's grade kept."""
    asked = {p.id: p for p in problems}
    grades = grade_many([r.text for r in rollouts], [asked[r.problem].answer for r in rollouts], mode=grading)
    rows = [
        (name, r.problem, asked[r.problem].level, str(int(g.correct)), len(r.ids), not r.finished, g.formed)
        for r, g in zip(rollouts, grades, strict=True)
    ]
    table = pd.DataFrame(rows, columns=["set", "problem", "level", "correct", "tokens", "cut_off", "formed"])
    how = {"set": "first", "level": "first", "correct": "".join, "tokens": "mean", "cut_off": "mean", "formed": "mean"}
    return table.groupby("problem", sort=False).agg(how).reset_index()[table.columns]


def evaluate(run: Run, inputs: Inputs) -> pd.DataFrame:
    """Evaluate a run's policy on every evaluation set and keep the result per problem in evaluation.csv.

    The bytes of the file depend only on the resolved run and the machine, not on when or how often it was made. Where the
    profile has several decodings they stand below each other, by their names in the column `decoding`. One completion of
    each problem, at the main one, is kept as text in samples.csv. Returns the summary at the main decoding, a row a set.
    """
    path = run.path("evaluation.csv")
    if not path.is_file():
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
            first = {r.problem: r.text for r in rollouts if r.sample == 0}
            rows = [(name, p.id, p.prompt, p.answer, first[p.id]) for p in sets[name]]
            text = pd.DataFrame(rows, columns=["set", "problem", "prompt", "answer", "completion"])
            texts.append(text.assign(correct=part["correct"].str[0] == "1"))
    write_samples(pd.concat(texts), run.path("samples.csv"))
    write_csv(pd.concat(parts), path)


def finish(run: Run, inputs: Inputs | None = None) -> pd.DataFrame:
    """Write the record and publish the run; with its inputs the summary of its evaluation enters the record. Returns the
    record's main numbers as a table."""
    if inputs is not None and not run.finished:
        run.remember(evaluation=evaluate(run, inputs).to_dict("records"), problems=inputs.problems.report)
    record = run.finish()
    used, sampled = record.get("label_use", {}), record.get("sampled", {})
    return _table(
        {
            "optimiser steps": record.get("optimizer_steps"),
            "labeled problems used": len(used["problems"]) if used else None,
            "gradings": used.get("gradings"),
            "sequences sampled": sampled.get("sequences"),
            "tokens sampled": sampled.get("tokens"),
            "tokens trained on": record.get("trained_tokens"),
            "seconds": record["seconds"],
            "peak memory, MiB": record["peak_memory_mb"]["cpu"],
            "git": record["environment"]["git"],
        }
    )


def _table(rows: dict) -> pd.DataFrame:
    return pd.DataFrame({"value": {name: str(value) for name, value in rows.items() if value is not None}})


__all__ = ["evaluate", "finish", "prepare", "start", "train"]
