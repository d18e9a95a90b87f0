"""The regime check: what runs on their own seeds said about the setting, before the study."""

from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.report.map import BEST, BRIDGE, OPD
from s2d_lib.results.bundle import read_evaluation, summarise
from s2d_lib.runs import FinishedRun
from s2d_lib.study.settings import MAIN

PLACE = ["cell", "checkpoint", "decoding"]


def write_regime(runs: list[tuple[str, FinishedRun]], path: Path) -> None:
    """Write the accuracies of runs.

    Args:
        runs: With each the dials of its cell on a map, empty for none.
        path: A row a run: `cell`, `checkpoint`, `seed`, `decoding` and every evaluation set. A base model has a second row, at
            the decoding that suits it best on each set.
    """
    rows = []
    for cell, run in runs:
        table = read_evaluation(run.path("evaluation.csv"), decoding=None)
        if "decoding" not in table:
            table["decoding"] = MAIN
        at = {
            decoding: summarise(part).set_index("set")["avg"]
            for decoding, part in table.groupby("decoding", sort=False)
        }
        place = {"cell": cell, "checkpoint": run.name, "seed": run.record["resolved"]["seed"]}
        rows.append(place | {"decoding": MAIN} | at[MAIN].to_dict())
        if run.record["resolved"]["stage"] == "base" and len(at) > 1:
            rows.append(place | {"decoding": BEST} | pd.DataFrame(at).max(axis=1).to_dict())
    path.parent.mkdir(parents=True, exist_ok=True)
    pd.DataFrame(rows).to_csv(path, index=False, float_format="%.4f")


def read_regime(path: Path) -> pd.DataFrame:
    """The committed regime check, as `write_regime` has it.

    Raises:
        StudyError: When the check has not been made.
    """
    if not path.is_file():
        raise StudyError(f"{path} does not exist: make it with `make regime`.")
    rows = pd.read_csv(path, keep_default_na=False)
    return rows if "decoding" in rows else rows.assign(cell="", decoding=MAIN)  # of a profile with one decoding


def regime_table(path: Path) -> pd.DataFrame:
    """The committed regime check, for reading: accuracies by checkpoint (mean; of several seeds the lowest and highest).

    Raises:
        StudyError: When the check has not been made.
    """
    rows = read_regime(path)
    own = rows.groupby(PLACE, sort=False)

    def text(values: pd.Series) -> str:
        return f"{values.mean():.3f}" + (f" ({values.min():.3f} to {values.max():.3f})" if len(values) > 1 else "")

    table = pd.DataFrame({name: own[name].agg(text) for name in rows if name not in (*PLACE, "seed")})
    table.insert(0, "seeds", own.size())
    return table


CLEARLY = 0.1  # of accuracy
FAR = 0.2
TRAINED = (BRIDGE, OPD, "student.teacher_sample_sft.rl_teacher")


def criteria(path: Path, main_sets: list[str]) -> pd.DataFrame:
    """What a regime must be like for the question to be open in it, cell by cell: points, the lower of the main sets', means over
    seeds. Untrained models count at the decoding that suits them best.

    Args:
        path: Of the committed check, of a part with the usual routes.
        main_sets: Evaluation sets like the pool; the others ask what has been forgotten.

    Returns:
        A row a cell and criterion: `cell`, `criterion`, `points`, `met`.

    Raises:
        StudyError: When the check has not been made.
    """
    mean = read_regime(path).groupby(PLACE, sort=False).mean(numeric_only=True).drop(columns="seed")
    rows = []
    for cell in mean.index.unique("cell"):
        at = mean.loc[cell]
        student, teacher = (at.loc[(role, BEST)] for role in ("student", "teacher"))
        rl, grpo = (at.loc[(route, MAIN)] for route in ("teacher.rl", "student.grpo"))
        trained = at.loc[[(route, MAIN) for route in TRAINED]]
        kept = {
            f"the bridge keeps what was known outside the pool, {name}": (
                (trained.loc[(BRIDGE, MAIN)] - student)[name],
                -CLEARLY,
            )
            for name in at
            if name not in main_sets
        }
        asked = {
            "the RL teacher is far ahead of the untrained student": ((rl - student)[main_sets].min(), FAR),
            "a trained student reaches far more than an untrained one": (
                (trained.max() - student)[main_sets].min(),
                FAR,
            ),
            "the untrained teacher is clearly ahead of the untrained student": (
                (teacher - student)[main_sets].min(),
                CLEARLY,
            ),
            "RL takes the teacher clearly further": ((rl - teacher)[main_sets].min(), CLEARLY),
            "direct GRPO moves the student": ((grpo - student)[main_sets].min(), CLEARLY),
        }
        rows += [
            {"cell": cell, "criterion": words, "points": round(100 * float(points), 1), "met": bool(points >= bound)}
            for words, (points, bound) in (asked | kept).items()
        ]
    return pd.DataFrame(rows)
