"""Exporting a checkpoint: a normal model folder with its model card, complete in itself; nothing is contacted."""

import os
import shutil
from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.models.policy import load_policy, save_policy
from s2d_lib.report.pages import model_card
from s2d_lib.results.bundle import Bundle
from s2d_lib.runs import FinishedRun, Run, command_for, find_run, state
from s2d_lib.stages.inputs import weights_of
from s2d_lib.study import Resolved, resolve
from s2d_lib.study.settings import Hardware


def export(profile: str, checkpoint: str, seed: int, to: Path) -> Path:
    """Write a finished run's model and its card into a new folder, whole or not at all.

    Args:
        profile: Name of params/<profile>.yaml.
        checkpoint: A trained checkpoint; one that was kept as adapters is merged into what they lie over.
        seed: Of the run.
        to: The folder.

    Returns:
        The folder.

    Raises:
        StudyError: The folder is there already; the checkpoint is not one that training makes; its run, or one that it was
            made from, is unfinished, stale or broken.
    """
    resolved = resolve(profile, checkpoint, seed)
    if to.exists():
        raise StudyError(f"{to} is there already: name another folder, or delete it first.")
    if resolved.stage in ("base", "teacher_rollouts"):
        raise StudyError(
            f"{checkpoint!r} is stage {resolved.stage!r}, which trains no model of its own: export a trained checkpoint."
        )
    found = find_run(resolved)
    if found is None:
        what = f"the run {checkpoint!r} (profile {profile}, seed {seed}) {state(resolved)}"
        raise StudyError(f"{what}: `{command_for(resolved)}` makes it.")
    run = Run(resolved, found)
    card, weights = model_card(_bundle(run), profile, checkpoint, seed), weights_of(run)
    beside = to.with_name(f".{to.name}.{os.getpid()}")
    to.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(beside, ignore_errors=True)
    if weights.adapters:
        save_policy(load_policy(resolved.model, Hardware(), *weights), beside)
    else:
        shutil.copytree(weights.place, beside)
    (beside / "README.md").write_text(card, encoding="utf-8")
    beside.rename(to)
    return to


def _bundle(run: Run) -> Bundle:
    """Records of a run and of all that it was made from."""
    seed, records = run.resolved.seed, {}

    def visit(finished: FinishedRun) -> None:
        if (finished.name, seed) not in records:
            records[finished.name, seed] = finished.record
            made = Run(Resolved.model_validate(finished.record["resolved"]), finished)
            for kind in made.resolved.parents:
                visit(made.parent(kind))

    visit(run.finished)
    return Bundle(pd.DataFrame(), pd.DataFrame(), records)
