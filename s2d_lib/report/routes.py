"""The study's graph for readers: what every route is made from (paper A's table 1).

A *line* is a checkpoint and the ones whose weights it continues, back to its base model. A route is the line of the
deployed student and, before it, those of its teachers.
"""

import re

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.report.looks import load_report, route_label
from s2d_lib.report.tables import Sheet
from s2d_lib.study import STAGES
from s2d_lib.study.methods import methods
from s2d_lib.study.page import Checkpoint, Study
from s2d_lib.study.strict import did_you_mean


def line_of(study: Study, checkpoint: str) -> list[str]:
    """The checkpoint and those whose weights it continues, its base model first; a StudyError where it is not declared."""
    if checkpoint not in study.checkpoints:
        hint = did_you_mean(checkpoint, study.checkpoints)
        raise StudyError(f"study.yaml declares no checkpoint {checkpoint!r}; {hint}")
    line = [checkpoint]
    while parent := study.checkpoints[line[0]].from_:
        line.insert(0, parent)
    return line


def teachers_of(study: Study, checkpoint: str) -> list[str]:
    """Whose dense signal or samples the checkpoint's own line learns from, each once."""
    nodes = (study.checkpoints[name] for name in line_of(study, checkpoint))
    return list(dict.fromkeys(node.teacher for node in nodes if node.teacher))


def lines_of(study: Study, checkpoint: str) -> list[list[str]]:
    """The lines of a route, those of teachers before those of whom they teach; the deployed one is last."""
    above = [line for teacher in teachers_of(study, checkpoint) for line in lines_of(study, teacher)]
    return list({line[-1]: line for line in [*above, line_of(study, checkpoint)]}.values())


def learns_from_labels(node: Checkpoint) -> bool:
    """Whether a stage grades answers against the labels of its pool; one with a teacher uses its prompts alone, unless it
    filters the teacher's answers."""
    graded = STAGES[node.stage].graded or node.teacher is None or bool(node.overrides.get("filter"))
    return node.labels is not None and graded


def stage_words(node: Checkpoint) -> str:
    """A stage in words: `GRPO on full`, `OPD (1H)`, with what it changes of the profile's settings."""
    called = load_report().stages
    first, *as_long = (called.get(stage, stage.replace("_", " ")) for stage in (node.stage, *(node.steps_of or ())))
    words = first + (f" on {node.labels}" if learns_from_labels(node) else f" ({node.labels})")
    words += f" for as many steps as {' and '.join(as_long)}" if as_long else ""
    changed = " and ".join(f"{key} {value}" for key, value in node.overrides.items())
    return f"{words} with {changed}" if changed else words


def role_of(study: Study, checkpoint: str) -> str:
    """Which of a profile's models the checkpoint is, in words."""
    return study.checkpoints[line_of(study, checkpoint)[0]].role.replace("_", " ")


def story(study: Study, checkpoint: str) -> str:
    """The route in words: `teacher: GRPO on full -> student: forward KL (full), OPD (full)`."""
    parts, seen = [], set()
    for line in lines_of(study, checkpoint):
        role, stages = role_of(study, line[0]), [stage_words(study.checkpoints[name]) for name in line[1:]]
        # A teacher of the deployed size is another copy of the same base model.
        parts.append(f"{'fresh ' if role in seen else ''}{role}: {', '.join(stages) or 'as published'}")
        seen.add(role)
    return " -> ".join(parts)


def routes_of(study: Study) -> list[str]:
    """Checkpoints of study.yaml that are the end of a route, as declared: a table lists them, or nothing is made from them."""
    brought = {name for method in methods().values() for name in method.checkpoints}
    listed = {row for table in study.tables.values() for row in table.rows}
    used = {parent for node in study.checkpoints.values() for parent in (node.from_, node.teacher)}
    return [name for name in study.checkpoints if name in listed or name not in used | brought]


def route_map(study: Study) -> Sheet:
    """Every route of the study, and what it is made from.

    Its numbers: `route` (a checkpoint), `label`, `ends in` (the role of the model), `stages` (in words, over its ancestry),
    `teacher` (whose signal the deployed weights learn from), `labels upstream`, `labels downstream` (pools whose labels
    teachers, and the deployed student, learn from), `tables` (names in study.yaml) and `numbers` (those of the paper's tables
    among these).
    """
    rows = []
    for name in routes_of(study):
        *teachers, own = lines_of(study, name)
        if role_of(study, name) != "student":
            teachers, own = [*teachers, own], []
        row = {"route": name, "label": route_label(name), "ends in": role_of(study, name), "stages": story(study, name)}
        row["teacher"] = ", ".join(teachers_of(study, name))
        for where, names in (("upstream", [one for line in teachers for one in line]), ("downstream", own)):
            nodes = [study.checkpoints[one] for one in names]
            row[f"labels {where}"] = " and ".join(dict.fromkeys(n.labels for n in nodes if learns_from_labels(n)))
        tables = [table for table, listed in study.tables.items() if name in listed.rows]
        numbers = [match[1] for table in tables if (match := re.fullmatch(r"table(\d+)", table))]
        rows.append(row | {"tables": ", ".join(tables), "numbers": ", ".join(numbers)})
    numbers = pd.DataFrame(rows)
    shown = numbers[["label", "stages", "labels upstream", "labels downstream"]].rename(columns={"label": "route"})
    shown["tables"] = numbers["tables"].str.replace(r"table(?=\d)", "", regex=True)
    table = {"The map of routes and controls": shown.replace("", "none")}
    return Sheet("route_map", numbers, table, load_report().notes["routes"])
