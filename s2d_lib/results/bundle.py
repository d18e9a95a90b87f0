"""The compact results of a study: what every table and figure is drawn from, small enough to be committed.

`figures/<profile>/results/` holds evaluation.csv.gz (every problem's samples, graded), curves.csv.gz (metrics of every
optimiser step), validation.csv.gz (accuracy and divergences while training), records.json (parameters, label use,
tokens, versions of every run), samples.csv (some completions as text) and constant.csv (what always the same answer scores).
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.results import constant
from s2d_lib.results.samples import COLUMNS, FILE, kept_samples, read_samples, write_samples
from s2d_lib.runs import FinishedRun, write_json
from s2d_lib.study.settings import MAIN, Evaluation

CURVES = [
    "loss",
    "reward",
    "accuracy",
    "formed",
    "entropy",
    "argmax_agreement",
    "completions/mean_length",
    "completions/clipped_ratio",
    "frac_reward_zero_std",
    "grad_norm",
    "num_tokens",
    "seconds/step",
    "seconds/sampling",
    "seconds/self_teacher",
    "routed/grpo",
    "routed/sdpo",
    "self_teacher/entropy",
    "self_teacher/student_entropy",
    "self_teacher/kl",
    "self_teacher/tokens",
    "self_teacher/prompt_tokens",
    "self_teacher/mean_weight",
]


# Without a time in its header the same results are the same bytes
GZIP = {"method": "gzip", "mtime": 0}


@dataclass(frozen=True)
class Bundle:
    """Results of one profile.

    Attributes:
        evaluation: One row a problem, at one decoding: seed, checkpoint, set, problem, level, correct (a 0 or 1 each
            sample), tokens, cut_off and formed (which results from before it was measured do not have).
        curves: One row an optimiser step: seed, checkpoint, step and the metrics in CURVES.
        records: Records by checkpoint and seed.
        validation: One row a measurement while training: seed, checkpoint, step, accuracy, length, formed, correct (the
            samples' grades) and in dense stages the divergences `<forward_kl|reverse_kl>/<teacher|student>_states` (see
            s2d_lib.stages.validation).
        samples: Some completions as text (see s2d_lib.results.samples).
        constant: The most frequent right answer by set and level (see s2d_lib.results.constant).
        decoded: `evaluation` at every decoding, told apart by the column `decoding` (in words, the main one first); empty
            where there is one only.
    """

    evaluation: pd.DataFrame
    curves: pd.DataFrame
    records: dict[tuple[str, int], dict]
    validation: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["seed", "checkpoint", "step"]))
    samples: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=COLUMNS))
    constant: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=constant.COLUMNS))
    decoded: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["checkpoint", "set", "decoding"]))

    def accuracy(self, checkpoint: str, name: str) -> pd.DataFrame:
        """Mean correctness of every problem of a set: a row a seed, a column a problem.

        Raises:
            StudyError: When the checkpoint was not evaluated on that set.
        """
        rows = self.evaluation[(self.evaluation["checkpoint"] == checkpoint) & (self.evaluation["set"] == name)]
        if rows.empty:
            raise StudyError(f"no results of {checkpoint!r} on {name!r}.")
        mean = rows["correct"].map(lambda bits: bits.count("1") / len(bits))
        return rows.assign(accuracy=mean).pivot(index="seed", columns="problem", values="accuracy")

    def at(self, decoding: str) -> "Bundle":
        """The same with the evaluation at another decoding (one of `decoded`)."""
        return replace(self, evaluation=self.decoded[self.decoded["decoding"] == decoding].drop(columns="decoding"))

    @property
    def sets(self) -> list[str]:
        """Names of the evaluation sets, in order."""
        return list(self.evaluation["set"].unique())


def read_evaluation(path: Path, decoding: str | None = MAIN) -> pd.DataFrame:
    """Per-problem results of a decoding, or of all (None), then with a column `decoding` where there are several. Names stay
    names, a set called NA too, and the samples' grades, such as `0110`, stay text.

    Raises:
        StudyError: There is nothing of that decoding.
    """
    texts = dict.fromkeys(("set", "problem", "level", "correct"), str)
    later = {column: [""] for column in ("formed", "decoding")}  # empty in results from before they were measured
    table = pd.read_csv(path, keep_default_na=False, na_values=later, dtype=texts)
    return table if decoding is None else _only(table, decoding, path)


def _only(table: pd.DataFrame, decoding: str, path: Path) -> pd.DataFrame:
    of = table["decoding"].fillna(MAIN) if "decoding" in table else pd.Series(MAIN, table.index)
    if not of.eq(decoding).any():
        raise StudyError(f"{path} has no results of decoding {decoding!r}; it has {', '.join(of.unique())}.")
    return table[of == decoding].drop(columns="decoding", errors="ignore").reset_index(drop=True)


def _in_words(table: pd.DataFrame, records: Iterable[dict]) -> pd.DataFrame:
    """The results of several decodings, each called what it is instead of by the name that the profile gives it."""
    evaluations = [Evaluation.model_validate(record["resolved"]["evaluation"]) for record in records]
    words = {name: one.words for evaluation in evaluations for name, one in evaluation.decodings.items()}
    return table.assign(decoding=table["decoding"].fillna(MAIN).map(words))


def read_validation(path: Path) -> pd.DataFrame:
    """Measurements while training; the samples' grades, such as `0110/1111`, stay text."""
    return pd.read_csv(path, dtype={"correct": str})


def write_csv(table: pd.DataFrame, path: Path) -> None:
    """Write a table so that the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}")
    table.to_csv(beside, index=False, float_format="%.6g")
    beside.replace(path)


def collect(runs: list[FinishedRun], folder: Path) -> None:
    """Write the bundle of finished runs.

    Args:
        runs: All runs of the profile.
        folder: figures/<profile>/results.
    """
    evaluations, curves, validations, records = [], [], [], {}
    for run in runs:
        checkpoint, seed = run.name, run.record["resolved"]["seed"]
        labels = {"seed": seed, "checkpoint": checkpoint}
        if run.path("evaluation.csv").is_file():
            table = read_evaluation(run.path("evaluation.csv"), decoding=None)
            evaluations.append(table.assign(**labels)[["seed", "checkpoint", *table.columns]])
        if run.path("metrics.csv").is_file():
            table = pd.read_csv(run.path("metrics.csv"))
            kept = ["step", *[c for c in CURVES if c in table]]
            curves.append(table[kept].assign(**labels)[["seed", "checkpoint", *kept]])
        if run.path("validation.csv").is_file():
            validations.append(read_validation(run.path("validation.csv")).assign(**labels))
        records[f"{checkpoint}@{seed}"] = {k: v for k, v in run.record.items() if k != "files"}
    folder.mkdir(parents=True, exist_ok=True)
    curves = curves or [pd.DataFrame(columns=["seed", "checkpoint", "step"])]  # base models alone
    pd.concat(curves).to_csv(folder / "curves.csv.gz", index=False, float_format="%.5g", compression=GZIP)
    if validations:
        rows = pd.concat(validations)
        rows = rows[["seed", "checkpoint", *(c for c in rows if c not in ("seed", "checkpoint"))]]
        rows.to_csv(folder / "validation.csv.gz", index=False, float_format="%.5g", compression=GZIP)
    write_json(folder / "records.json", records)
    write_samples(kept_samples(runs), folder / FILE)
    constant.collected_constant(runs).to_csv(folder / constant.FILE, index=False, float_format="%.6g")
    pd.concat(evaluations).to_csv(folder / "evaluation.csv.gz", index=False, float_format="%.6g", compression=GZIP)


def read_bundle(folder: Path, decoding: str = MAIN) -> Bundle:
    """Read the bundle of a profile, its evaluation at one of the profile's decodings.

    Raises:
        StudyError: When it is not there or broken, or was not evaluated so.
    """
    try:
        path = folder / "evaluation.csv.gz"
        table = read_evaluation(path, None)
        evaluation = _only(table, decoding, path)
        curves = pd.read_csv(folder / "curves.csv.gz")
        validation = folder / "validation.csv.gz"  # of a profile whose stages validate
        more = {"validation": read_validation(validation)} if validation.is_file() else {}
        samples = folder / FILE  # which results from before there were any do not have
        more |= {"samples": read_samples(samples)} if samples.is_file() else {}
        always = folder / constant.FILE
        more |= {"constant": constant.read_constant(always)} if always.is_file() else {}
        raw = json.loads((folder / "records.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StudyError(f"no readable results in {folder} ({error}): make them with `make study`.") from None
    records = {(name.rsplit("@", 1)[0], int(name.rsplit("@", 1)[1])): record for name, record in raw.items()}
    more |= {"decoded": _in_words(table, raw.values())} if "decoding" in table else {}
    return Bundle(evaluation, curves, records, **more)
