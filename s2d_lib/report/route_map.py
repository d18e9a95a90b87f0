"""The map of routes (Table 1): what every one of them is made from, in words, from study.yaml alone.

A *line* is a checkpoint and the ones whose weights it continues, back to its base model. A route is the line of the
deployed student and, before it, those of its teachers.
"""

import re
from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.report.style import route_label
from s2d_lib.report.tables import write_forms
from s2d_lib.study.load import did_you_mean
from s2d_lib.study.page import Checkpoint, Study

STAGES = {
    "sparse_rl": "GRPO",
    "teacher_sft": "SFT",
    "forward_kl": "forward KL",
    "opd": "OPD",
    "teacher_sample_sft": "teacher-sample SFT",
}
"""Stage -> what readers see; another one shows under its own name."""

NOTE = (
    "Stages in the order in which weights go through them, what each learns from after `on`: the labels of a pool, or in "
    "brackets its prompts alone. Labels upstream are those that teachers of the route learn from, downstream those that the "
    "deployed student learns from itself."
)


def line_of(study: Study, checkpoint: str) -> list[str]:
    """The checkpoint and those whose weights it continues, its base model first.

    Raises:
        StudyError: When the study does not declare it.
    """
    if checkpoint not in study.checkpoints:
        raise StudyError(
            f"study.yaml declares no checkpoint {checkpoint!r}; {did_you_mean(checkpoint, study.checkpoints)}"
        )
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
    found: dict[str, list[str]] = {}

    def visit(name: str) -> None:
        if name not in found:
            for teacher in teachers_of(study, name):
                visit(teacher)
            found[name] = line_of(study, name)

    visit(checkpoint)
    return list(found.values())


def learns_from_labels(node: Checkpoint) -> bool:
    """Whether a stage grades answers against the labels of its pool; one with a teacher uses its prompts alone, unless it
    filters the teacher's answers."""
    return node.labels is not None and (node.teacher is None or bool(node.overrides.get("filter")))


def stage_name(stage: str) -> str:
    """What readers see of a stage."""
    return STAGES.get(stage, stage.replace("_", " "))


def stage_words(node: Checkpoint) -> str:
    """A stage in words: `GRPO on full`, `OPD (1H)`, with what it changes of the profile's settings."""
    words = stage_name(node.stage)
    words += f" on {node.labels}" if learns_from_labels(node) else f" ({node.labels})"
    if node.steps_of:
        words += f" for as many steps as {' and '.join(map(stage_name, node.steps_of))}"
    if node.overrides:
        words += f" with {' and '.join(f'{key} {value}' for key, value in node.overrides.items())}"
    return words


def story(study: Study, checkpoint: str) -> str:
    """The route in words: `teacher: GRPO on full -> student: forward KL (full), OPD (full)`."""
    parts, seen = [], set()
    for line in lines_of(study, checkpoint):
        role = role_of(study, line[0])
        stages = [stage_words(study.checkpoints[name]) for name in line[1:]]
        # A teacher of the deployed size is another copy of the same base model.
        who = f"fresh {role}" if role in seen else role
        seen.add(role)
        parts.append(f"{who}: {', '.join(stages) or 'as published'}")
    return " -> ".join(parts)


def role_of(study: Study, checkpoint: str) -> str:
    """Which of a profile's models the checkpoint is, in words."""
    return study.checkpoints[line_of(study, checkpoint)[0]].role.replace("_", " ")


def routes_of(study: Study) -> list[str]:
    """Checkpoints that are the end of a route, as declared: a table lists them, or nothing is made from them."""
    listed = {row for table in study.tables.values() for row in table.rows}
    used = {parent for node in study.checkpoints.values() for parent in (node.from_, node.teacher)}
    return [name for name in study.checkpoints if name in listed or name not in used]


def route_map(study: Study) -> pd.DataFrame:
    """Every route of the study.

    Returns:
        One row a route: `route` (its checkpoint), `label` (for readers), `ends in` (the role of the model), `stages` (in
        words, over its ancestry), `teacher` (whose signal the deployed weights learn from), `labels upstream`, `labels
        downstream` (pools; empty for none), `tables` (names in study.yaml) and `numbers` (those of the paper's tables among
        these).
    """
    rows = []
    for name in routes_of(study):
        tables = [table for table, listed in study.tables.items() if name in listed.rows]
        rows.append(
            {
                "route": name,
                "label": route_label(name),
                "ends in": role_of(study, name),
                "stages": story(study, name),
                "teacher": ", ".join(teachers_of(study, name)),
                **_labels(study, name),
                "tables": ", ".join(tables),
                "numbers": ", ".join(number for table in tables if (number := table_number(table))),
            }
        )
    return pd.DataFrame(rows)


def table_number(name: str) -> str:
    """The number of the paper's table that a table of study.yaml is named by; empty for others."""
    numbered = re.fullmatch(r"table(\d+)", name)
    return numbered[1] if numbered else ""


def _labels(study: Study, checkpoint: str) -> dict[str, str]:
    """Pools whose labels teachers learn from (upstream) and the deployed student (downstream)."""
    *teachers, own = lines_of(study, checkpoint)
    student = role_of(study, checkpoint) == "student"
    upstream = [name for line in teachers for name in line] + ([] if student else own)
    return {
        "labels upstream": " and ".join(_pools(study, upstream)),
        "labels downstream": " and ".join(_pools(study, own if student else [])),
    }


def _pools(study: Study, names: list[str]) -> list[str]:
    nodes = (study.checkpoints[name] for name in names)
    return list(dict.fromkeys(node.labels for node in nodes if learns_from_labels(node)))


def write_route_map(study: Study, folder: Path) -> None:
    """Write route_map.csv, route_map.md and route_map.tex, Table 1 of the study."""
    numbers = route_map(study)
    shown = numbers[["label", "stages", "labels upstream", "labels downstream"]].rename(columns={"label": "route"})
    shown = shown.replace("", "none")
    shown["tables"] = [
        ", ".join(table_number(table) or table for table in tables.split(", ")) for tables in numbers["tables"]
    ]
    write_forms(numbers, {"The map of routes and controls": shown.replace("", "none")}, folder, "route_map", NOTE)
