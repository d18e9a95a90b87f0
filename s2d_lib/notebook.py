"""What every stage notebook starts and ends with."""

import ast
import contextlib

import pandas as pd
from IPython import get_ipython
from IPython.display import display

from s2d_lib.errors import StudyError
from s2d_lib.evaluation import evaluate
from s2d_lib.plan.memory import refuse_what_does_not_fit
from s2d_lib.report.style import use_style
from s2d_lib.runs import Run, open_run
from s2d_lib.stages import Inputs
from s2d_lib.stages import inputs as stage_inputs
from s2d_lib.stages.training import train
from s2d_lib.study import origins
from s2d_lib.study.strict import did_you_mean

PARAMETERS = ("profile", "checkpoint", "seed", "overrides")
INJECTED = "# Parameters\n"  # what papermill begins its cell with


def start(
    profile: str, checkpoint: str, seed: int, overrides: dict, stages: tuple[str, ...], show: bool = False
) -> Run:
    """Open the run that a notebook's parameters name and show what it resolves to; arguments as `open_run`'s.

    Raises:
        StudyError: A parameter the notebook does not have, bad values, or a checkpoint of another notebook.
    """
    refuse_unknown_parameters(PARAMETERS)
    use_style()
    run = open_run(profile, checkpoint, seed, overrides, stages, show)
    display(resolved_table(run))
    return run


def prepare(run: Run) -> Inputs:
    """Load what a run reads, once its memory is known to be enough.

    Raises:
        StudyError: It would not fit; or see `s2d_lib.stages.inputs.prepare`.
    """
    if not run.finished:
        refuse_what_does_not_fit(run.resolved)
    return stage_inputs.prepare(run)


def refuse_unknown_parameters(known: tuple[str, ...]) -> None:
    """Papermill only warns of a parameter that the notebook does not have; here it is an error.

    Looks at the last cell of parameters that was run: papermill's, or one that gives a value to each.

    Raises:
        StudyError: Naming the unknown parameter.
    """
    shell = get_ipython()
    for source in reversed(shell.user_ns["In"] if shell else []):
        given = _values_of(source)
        if source.startswith(INJECTED) or given.issuperset(known):
            for name in sorted(given.difference(known)):
                raise StudyError(f"this notebook has no parameter {name!r}; {did_you_mean(name, known)}")
            return


def _values_of(source: str) -> set[str]:
    """The names that a cell gives plain values to; none where it does anything else."""
    with contextlib.suppress(SyntaxError, ValueError, AttributeError):
        found = ast.parse(source).body
        for statement in found:
            ast.literal_eval(statement.value)
        return {name.id for s in found for t in s.targets for name in ast.walk(t) if isinstance(name, ast.Name)}
    return set()


def resolved_table(run: Run) -> pd.DataFrame:
    """The resolved stage as a table: where it starts, who teaches, on which labels, with which hyperparameters, and where each of
    these comes from."""
    resolved = run.resolved
    table = _table(
        {
            "checkpoint": f"{resolved.checkpoint} (profile {resolved.profile}, seed {resolved.seed})",
            "stage": resolved.stage,
            "model": f"{resolved.model.model} as {resolved.role}",
            **resolved.parents,
            "label pool": resolved.labels,
            "evaluation": ", ".join(resolved.problems.evaluations),
            **resolved.params,
            "hash": resolved.hash[:12],
        }
    )
    return table.assign(**{"from": pd.Series(origins(resolved), dtype=object)}).fillna("")


def _table(rows: dict) -> pd.DataFrame:
    return pd.DataFrame({"value": {name: str(value) for name, value in rows.items() if value is not None}})


def finish(run: Run, inputs: Inputs | None = None) -> pd.DataFrame:
    """Write the record and publish the run.

    Args:
        run: The run.
        inputs: Of the run, where it has been evaluated; its summary then enters the record.

    Returns:
        The record's main numbers as a table.
    """
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


__all__ = ["evaluate", "finish", "prepare", "start", "train"]
