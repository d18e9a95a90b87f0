"""A first look at the default study, from what is committed: a student before and after, on the same problems."""

import shutil
from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.runs import FinishedRun, publish, read_finished, write_json
from s2d_lib.study import Resolved, points, project_root, resolve

PROFILE, ROUTE, CELL, SEED, SET = "micro", "student.bridge.rl_teacher", {"end": "hard"}, 0, "micro-math"
FOLDER = Path("figures", PROFILE)


def shown() -> Resolved | None:
    """The run whose student is shown; None where the profile's map does not have it."""
    found = (point for point in points(PROFILE) if (point.route, point.cell) == (ROUTE, CELL))
    return next((resolve(PROFILE, point.route, SEED, point.overrides) for point in found), None)


def keep(run: FinishedRun) -> None:
    """Keep a finished run's model, and its record without the other files, in figures/micro/look."""
    final = project_root() / FOLDER / "look"
    shutil.rmtree(beside := final.with_name(".look"), ignore_errors=True)
    shutil.copytree(run.path("model"), beside / "model")
    files = {name: known for name, known in run.record["files"].items() if name.startswith("model/")}
    write_json(beside / "record.json", run.record | {"files": files})
    publish(beside, final)


def look() -> str:
    """Three problems, answered greedily by the student before and after and graded; the table of the map's ends; where its figure
    lies. A StudyError where the student that is kept is not the one that the profile resolves to."""
    # Here, since `s2d results`, which keeps the student, must not wait for torch
    from s2d_lib.grading import grade_many
    from s2d_lib.models.policy import load_policy
    from s2d_lib.problems.sources import load_problems
    from s2d_lib.report.looks import route_label
    from s2d_lib.report.tables import LINK, markdown
    from s2d_lib.sampling import sample

    folder, resolved = project_root() / FOLDER, shown()
    kept = read_finished(folder / "look")
    if resolved is None or kept is None or kept.record["hash"] != resolved.hash:
        raise StudyError(f"{folder / 'look'} is not of profile {PROFILE!r} as it is: `make study` writes it.")
    problems, how = load_problems(resolved.problems, resolved.labels), resolved.evaluation.decodings["greedy"]
    asked = problems.evaluations[SET][:3]
    table = pd.DataFrame({f"{SET} asks": [p.prompt for p in asked], "answer": [p.answer for p in asked]})
    for who, place in {"untrained": None, f"after: {route_label(ROUTE)}": kept.path("model")}.items():
        policy = load_policy(resolved.model, resolved.hardware, place)
        said = sample(policy, asked, samples=1, sampling=resolved.sampling, decoding=how, seed=SEED, show=False)
        grades = grade_many([one.text for one in said], table["answer"], mode=problems.grading)
        table[who] = [f"{'right' if g.correct else 'wrong'}: {s.text}" for g, s in zip(grades, said, strict=True)]
    ends = LINK.sub(r"\1", (folder / "ends.md").read_text(encoding="utf-8"))
    title = "The student of the hard end, before and after training"
    return f"{title}\n\n{markdown(table)}\n\nEvery route, percent right\n\n{ends}\nAs a figure: {FOLDER / 'ends.png'}"
