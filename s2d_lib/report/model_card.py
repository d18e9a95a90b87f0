"""The model card of an exported checkpoint: README.md with the Hub's metadata, from the records alone. Knows no network."""

import json
import shlex

import pandas as pd
from huggingface_hub import EvalResult, ModelCardData

from s2d_lib.claims.bootstrap import bootstrap
from s2d_lib.report.run_pages import markdown, parameter_table
from s2d_lib.report.style import route_label
from s2d_lib.results.bundle import Bundle, ancestry, label_ledger, summarise

MICRO = "micro/"  # what the names of models released inside the package begin with


def model_card(bundle: Bundle, profile: str, checkpoint: str, seed: int) -> str:
    """The card as text: metadata, recipe, ancestry, label ledger, evaluation, licence, versions.

    Args:
        bundle: Records of the checkpoint and of all runs that it was made from, and the checkpoint's evaluation.
        profile: Whose.
        checkpoint: Which.
        seed: Of its run.

    Raises:
        StudyError: A run of the ancestry is missing, or an evaluation set has fewer than two problems.
    """
    record = bundle.records[checkpoint, seed]
    resolved, evaluation = record["resolved"], _evaluation(bundle, checkpoint)
    parts = [
        f"---\n{_metadata(record, bundle, checkpoint, profile, evaluation)}\n---",
        f"# {checkpoint}",
        f"{route_label(checkpoint)}: `{resolved['model']['model']}` as the {resolved['role'].replace('_', ' ')} of profile "
        f"`{profile}`, seed {seed}, run `{record['hash'][:12]}`. Made by "
        f"`s2d run --profile {shlex.quote(profile)} --checkpoint {checkpoint} --seed {seed}`, after the runs below.",
        "## Recipe",
        f"Stage `{resolved['stage']}`, {record['optimizer_steps']} optimiser steps.",
        parameter_table(resolved),
        "## Ancestry",
        markdown(_ancestry(bundle, checkpoint, seed)),
        "## Labels",
        "Which model consumed which labels on the way; the total counts a problem that several runs used once.",
        markdown(label_ledger(bundle, checkpoint, seed)),
        "## Evaluation",
        markdown(_shown(evaluation)),
        "The 95% intervals are over problems, for the weights in this folder: they say nothing of another seed.",
        "## Licence",
        _licence(resolved["model"]["model"]),
        "## Versions",
        _versions(record["environment"]),
    ]
    return "\n\n".join(parts) + "\n"


def _metadata(record: dict, bundle: Bundle, checkpoint: str, profile: str, evaluation: pd.DataFrame) -> str:
    resolved = record["resolved"]
    base, seed = resolved["model"]["model"], resolved["seed"]
    stages = {bundle.records[name, seed]["resolved"]["stage"] for name in ancestry(bundle, checkpoint, seed)}
    results = [
        EvalResult(
            task_type="text-generation",
            dataset_type=row["set"],
            dataset_name=row["set"],
            metric_type="accuracy",
            metric_name=f"avg@{row['samples']}, %",
            metric_value=round(100 * row["avg"], 2),
        )
        for row in evaluation.to_dict("records")
    ]
    card = ModelCardData(
        model_name=f"{profile}-{checkpoint}-seed-{seed}",
        library_name="transformers",
        pipeline_tag="text-generation",
        license="apache-2.0" if base.startswith(MICRO) else "unknown",
        base_model=base if _on_the_hub(base) else None,
        tags=["s2d", "trl", *sorted(stage.replace("_", "-") for stage in stages - {"base", "teacher_rollouts"})],
        eval_results=results,
    )
    return card.to_yaml()


def _on_the_hub(model: str) -> bool:
    """Whether a role's model is named by its Hub id (see s2d_lib.models.policy.model_place for the other forms)."""
    return not model.startswith((MICRO, "package:", ".", "/", "~"))


def _licence(model: str) -> str:
    if model.startswith(MICRO):
        return f"Apache-2.0, as the package and its base model `{model}`."
    return (
        f"These weights are derived from `{model}`, whose licence applies to them, and were trained on its profile's problems; "
        "s2d does not know either licence. Look them up and put the model's into this card's header before publishing."
    )


def _ancestry(bundle: Bundle, checkpoint: str, seed: int) -> pd.DataFrame:
    rows = []
    for name in ancestry(bundle, checkpoint, seed):
        record = bundle.records[name, seed]
        resolved = record["resolved"]
        rows.append(
            {
                "checkpoint": name,
                "stage": resolved["stage"],
                "model": f"{resolved['model']['model']} ({resolved['role']})",
                "from": resolved["parents"].get("from", ""),
                "teacher": resolved["parents"].get("teacher", ""),
                "label pool": resolved["labels"] or "",
                "steps": record.get("optimizer_steps", ""),
                "learning rate": resolved["params"].get("learning_rate", ""),
                "run": f"`{record['hash'][:12]}`",
            }
        )
    return pd.DataFrame(rows)


def _evaluation(bundle: Bundle, checkpoint: str) -> pd.DataFrame:
    """`summarise`'s rows of the checkpoint with `low` and `high`, its interval over problems."""
    own = bundle.evaluation[bundle.evaluation["checkpoint"] == checkpoint]
    table = summarise(own)
    bounds = [bootstrap(bundle.accuracy(checkpoint, name).to_numpy()) for name in table["set"]]
    return table.assign(low=[b.low for b in bounds], high=[b.high for b in bounds])


def _shown(evaluation: pd.DataFrame) -> pd.DataFrame:
    return pd.DataFrame(
        {
            "set": row["set"],
            "problems": row["problems"],
            "samples": row["samples"],
            "avg@k, %": f"{100 * row['avg']:.1f} [{100 * row['low']:.1f}, {100 * row['high']:.1f}]",
            "pass@k, %": f"{100 * row['pass']:.1f}",
            "mean tokens": f"{row['tokens']:.1f}",
            "cut off, %": f"{100 * row['cut_off']:.1f}",
        }
        for row in evaluation.to_dict("records")
    )


def _versions(environment: dict) -> str:
    packages = ", ".join(f"{name} {version}" for name, version in environment["packages"].items() if version)
    return f"Python {environment['python']}, {packages}; s2d at commit {json.dumps(environment['git'])}."
