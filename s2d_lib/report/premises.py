"""What OPD is said to need of a teacher, measured: that it is good (C1), and near the student where the student goes (C2).

C2 is measured on the student's own states, before the warmup and after it: the divergences between teacher and student, how
many of their 16 likeliest tokens they share, and the variance of the implicit reward log p_T / p_S on the tokens sampled. These
are means over tokens; whether the student can begin as its teacher does is measured on its own.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import pandas as pd

from s2d_lib.claims import Claims, Estimate, Outcome, Results, bootstrap
from s2d_lib.claims.fair import accuracies, seeds_of, while_training
from s2d_lib.report.style import route_label
from s2d_lib.report.tables import write_forms
from s2d_lib.study.page import Study

QUANTITIES = {
    "forward_kl/student_states": "KL(teacher, student), nats",
    "reverse_kl/student_states": "KL(student, teacher), nats",
    "top16_overlap/student_states": "shared among the 16 likeliest tokens",
    "implicit_reward_variance/student_states": "variance of log p_T / p_S, nats squared",
    "opening/teacher_states": "p_S of the first token of the teacher's answers",
}
"""Column of the measurements while training -> what it is."""

NOTE = (
    "C1: the teacher's accuracy, with its interval over seeds and problems. C2: the rest, on states of the student, before the "
    "warmup and after its last step (95% over seeds). OPD without the warmup starts from what is before it."
)


def premises_table(results: Mapping[str, Results], claims: Claims, study: Study) -> pd.DataFrame:
    """The teachers of all warmed-up bridges in the predictions (claims P1 to P3) that were run, in every family.

    Returns:
        One row a teacher and quantity: `profile`, `teacher`, `warmup` (checkpoints), `seeds`; for what the paper evaluates on
        `accuracy, <set>` with `low` and `high` (shares); `quantity`, and `before` and `after` with `low` and `high`, NaN where
        it was not measured.
    """
    predictions = [claim for name, claim in claims.claims.items() if name.startswith("P")]
    named = [name for claim in predictions for c in claim.comparisons for name in c.better_first]
    starts = dict.fromkeys(study.checkpoints[name].from_ for name in named)
    warmups = [name for name in starts if name and study.checkpoints[name].stage == "forward_kl"]
    rows = []
    for found in results.values():
        for warmup in (name for name in warmups if seeds_of(found.bundle, name)):
            rows += _rows(found, warmup, study.checkpoints[warmup].teacher)
    return pd.DataFrame(rows)


def _rows(found: Results, warmup: str, teacher: str) -> list[dict]:
    shared = {"profile": found.name, "teacher": teacher, "warmup": warmup, "seeds": len(seeds_of(found.bundle, warmup))}
    for meant, name in found.profile.stands_for.items():
        shared |= _columns(f"accuracy, {meant}", bootstrap(accuracies(found.bundle, teacher, name).to_numpy()))
    return [
        shared
        | {"quantity": column}
        | _columns("before", while_training(found.bundle, warmup, column, 0))
        | _columns("after", while_training(found.bundle, warmup, column, -1))
        for column in QUANTITIES
    ]


def _columns(name: str, estimate: Estimate) -> dict[str, float]:
    return {name: estimate.mean, f"{name} low": estimate.low, f"{name} high": estimate.high}


def readable_premises(numbers: pd.DataFrame) -> pd.DataFrame:
    """The table for readers; a teacher's accuracy beside the first of its quantities."""
    rows = []
    repeated = numbers.duplicated(["profile", "teacher"])
    for row, again in zip(numbers.to_dict("records"), repeated, strict=True):
        sets = [name for name in row if f"{name} low" in row and name.startswith("accuracy, ")]
        cells = {name: _cell(row, name, 100, 1) if row[name] == row[name] else "no set" for name in sets}
        shown = {"profile": row["profile"], "teacher": route_label(row["teacher"])}
        shown |= {name.replace(", ", ", set for ") + ", %": "" if again else cells[name] for name in sets}
        shown["quantity"] = QUANTITIES[row["quantity"]]
        rows.append(shown | {when: _cell(row, when, 1, 3) for when in ("before", "after")})
    return pd.DataFrame(rows)


def _cell(row: dict, name: str, scale: float, digits: int) -> str:
    mean, low, high = (scale * row[f"{name}{end}"] for end in ("", " low", " high"))
    if mean != mean:
        return "not measured"
    return f"{mean:.{digits}f}" + (f" [{low:.{digits}f}, {high:.{digits}f}]" if low == low else "")


def write_premises(numbers: pd.DataFrame, folder: Path) -> None:
    """Write premises.csv, premises.md and premises.tex."""
    title = "What the predictions rest on: the teacher's reward (C1) and its distance from the student (C2)"
    write_forms(numbers, {title: readable_premises(numbers)}, folder, "premises", NOTE)


def asked_table(outcomes: Sequence[Outcome], claims: Claims) -> pd.DataFrame:
    """What claims presuppose, for readers: a row a premise, profile and checkpoint that was asked."""
    asked = {(o.profile, m.premise, m.checkpoint, m.evaluation, m.condition): m for o in outcomes for m in o.premises}
    order = list(claims.premises)
    rows = []
    for (profile, name, checkpoint, *_), measured in sorted(asked.items(), key=lambda item: order.index(item[0][1])):
        premise, condition, estimate = claims.premises[name], measured.condition, measured.estimate
        said = bool(rows) and rows[-1]["premise"] == name
        accuracy = condition.measure == "accuracy"
        scale, unit = (100, " points" if measured.minus else "%") if accuracy else (1, "")
        what = [f"{condition.measure} before the first step"]
        if accuracy:
            minus = f" minus that of {route_label(measured.minus)}" if measured.minus else ""
            what = [f"accuracy on {measured.evaluation or condition.set}{minus}"]
            what += [f"decoding of {route_label(side)}: {decoding}" for side, decoding in measured.decodings.items()]
        bounds = {"at least": condition.at_least, "at most": condition.at_most}
        value = [] if estimate is None else [scale * v for v in (estimate.mean, estimate.low, estimate.high)]
        rows.append(
            {
                "premise": name,
                "it says": "" if said else f"{premise.sentence} ({premise.source})",
                "profile": profile,
                "of": route_label(checkpoint),
                "measured": "; ".join(what),
                "value": "{:.3g} [{:.3g}, {:.3g}]".format(*value) if value else "",
                "bound": " ".join(
                    f"{word} {scale * bound:g}{unit}" for word, bound in bounds.items() if bound is not None
                ),
                "state": measured.state,
            }
        )
    return pd.DataFrame(rows)
