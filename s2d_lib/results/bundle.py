"""The compact results that a study commits, what every table and figure is drawn from; and what its routes cost.

`figures/<profile>/results/` of a study holds evaluation.parquet (every problem's samples, graded), curves.csv.xz (metrics of
every optimiser step), validation.csv.xz (accuracies and divergences while training), records.json.xz (parameters, label use,
tokens, versions of every run), samples.csv (some completions as text) and constant.csv (what always the same answer scores).
"""

import csv
import functools
import json
import lzma
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import pandas as pd

from s2d_lib.errors import StudyError
from s2d_lib.runs import FinishedRun
from s2d_lib.study.settings import MAIN, Evaluation

TEXTS = ["set", "problem", "level", "decoding", "correct", "prompt", "answer", "completion"]
TEXTS += ["part", "cell", "route", "trial", "run", "right"]  # of a map
CURVES = ["step", "loss", "reward", "accuracy", "formed", "entropy", "completions/mean_length"]
CURVES += ["completions/clipped_ratio", "frac_reward_zero_std", "num_tokens", "routed/sdpo"]
CURVES += [f"self_teacher/{name}" for name in ("entropy", "student_entropy", "tokens", "prompt_tokens")]
SAMPLES = ["seed", "checkpoint", "set", "problem", "prompt", "answer", "completion", "correct"]
CONSTANT = ["set", "level", "problems", "answer", "share"]
KEPT = 6  # problems of every evaluation set, whose samples are kept as text
TRAINING = 3  # forward passes that a forward and a backward pass cost
BEST = "@best"
"""Ends the name under which a base model stands once more, on each set at its best decoding (`with_best`)."""


@dataclass(frozen=True)
class Bundle:
    """Results of one profile, as tables."""

    # A row a problem, at one decoding: seed, checkpoint, set, problem, level, correct (a 0 or 1 each sample), tokens, cut_off
    # and, but in the oldest results, formed.
    evaluation: pd.DataFrame
    curves: pd.DataFrame  # a row an optimiser step: seed, checkpoint, step and the metrics in CURVES
    records: dict[tuple[str, int], dict]  # by checkpoint and seed
    # A row a measurement while training: seed, checkpoint, step, accuracy, length, formed, correct (the samples' grades) and
    # in dense stages the divergences `<forward_kl|reverse_kl>/<teacher|student>_states` (see s2d_lib.stages.validation).
    validation: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["seed", "checkpoint", "step"]))
    samples: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=SAMPLES))  # as text
    constant: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=CONSTANT))  # see `constant_answers`
    # `evaluation` at every decoding, told apart by the column `decoding` (in words, the main one first); empty with one only.
    decoded: pd.DataFrame = field(default_factory=lambda: pd.DataFrame(columns=["checkpoint", "set", "decoding"]))

    def accuracy(self, checkpoint: str, name: str) -> pd.DataFrame:
        """Mean correctness on a set, a row a seed and a column a problem; a StudyError where it was not evaluated on it."""
        if (checkpoint, name) not in self._places:
            raise StudyError(f"no results of {checkpoint!r} on {name!r}.")
        rows = self.evaluation.iloc[self._places[checkpoint, name]]
        return rows.assign(accuracy=_shares(rows)).pivot(index="seed", columns="problem", values="accuracy")

    def at(self, decoding: str) -> "Bundle":
        """The same with the evaluation at another decoding (one of `decoded`)."""
        return self._at[decoding]

    @functools.cached_property
    def _places(self) -> dict[tuple[str, str], np.ndarray]:
        return self.evaluation.groupby(["checkpoint", "set"], sort=False).indices

    @functools.cached_property
    def _at(self) -> dict[str, "Bundle"]:
        parts = self.decoded.groupby("decoding", sort=False)
        return {name: replace(self, evaluation=part.drop(columns="decoding")) for name, part in parts}

    @property
    def sets(self) -> list[str]:
        """Names of the evaluation sets, in order."""
        return list(self.evaluation["set"].unique())


def _shares(evaluation: pd.DataFrame) -> pd.Series:
    return evaluation["correct"].map(lambda bits: bits.count("1") / len(bits))


def summarise(evaluation: pd.DataFrame) -> pd.DataFrame:
    """A row an evaluation set: `problems`, `samples`, `avg` (avg@k, mean over problems of the mean correctness), `se` (its
    standard error over problems), `pass` (pass@k, share of problems with a right sample), `tokens` (mean length), `cut_off`
    (share without EOS) and, where it was measured, `formed` (share of samples with a well-formed answer)."""
    rows = []
    for name, part in evaluation.groupby("set", sort=False):
        mean = _shares(part).to_numpy(float)
        se = mean.std(ddof=1) / math.sqrt(len(mean)) if len(mean) > 1 else math.nan
        row = {"set": name, "problems": len(part), "samples": len(part["correct"].iloc[0])}
        row |= {"avg": mean.mean(), "se": se, "pass": (mean > 0).mean()}
        rows.append(row | {kind: part[kind].mean() for kind in ("tokens", "cut_off", "formed") if kind in part})
    return pd.DataFrame(rows)


def read_table(path: Path) -> pd.DataFrame:
    """A table of results or of a run. Names stay names, a set called NA too, and the samples' grades, such as `0110`, text."""
    blank = {column: [""] for column in pd.read_csv(path, nrows=0) if column not in TEXTS}
    table = pd.read_csv(path, keep_default_na=False, na_values=blank, dtype=dict.fromkeys(TEXTS, str))
    return table.assign(correct=table["correct"] == "True") if "completion" in table else table


def read_evaluation(path: Path, decoding: str | None = MAIN) -> pd.DataFrame:
    """Per-problem results of a decoding, or of all (None), then with a column `decoding` where there are several; a StudyError
    where there is nothing of that decoding."""
    table = read_table(path)
    if decoding is None:
        return table
    of = table["decoding"].replace("", MAIN) if "decoding" in table else pd.Series(MAIN, table.index)
    if not of.eq(decoding).any():
        raise StudyError(f"{path} has no results of decoding {decoding!r}; it has {', '.join(of.unique())}.")
    return table[of == decoding].drop(columns="decoding", errors="ignore").reset_index(drop=True)


def write_csv(table: pd.DataFrame, path: Path, digits: int = 6) -> None:
    """Write a table, packed as its name says, so that the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}")
    table.to_csv(beside, index=False, float_format=f"%.{digits}g")
    beside.replace(path)


def write_evaluation(table: pd.DataFrame, folder: Path) -> None:
    """Write the evaluations of many runs: a fifth of what they take as a packed CSV, and read in half the time."""
    beside = folder / ".evaluation.parquet"
    table.fillna({"decoding": ""}).to_parquet(beside, compression="zstd", compression_level=19, index=False)
    beside.replace(folder / "evaluation.parquet")


def write_samples(table: pd.DataFrame, path: Path) -> None:
    """Write samples with all text quoted: Python's csv before 3.13 leaves a carriage return bare, which ends a row."""
    table.to_csv(path, index=False, quoting=csv.QUOTE_NONNUMERIC)


def write_records(records: Mapping[str, dict], path: Path) -> None:
    """Write records by `<checkpoint>@<seed>`, so that the file is there whole or not at all."""
    beside = path.with_name(f".{path.name}")
    beside.write_bytes(lzma.compress(json.dumps(records, indent=1, sort_keys=True).encode()))
    beside.replace(path)


def collect(runs: Sequence[FinishedRun], folder: Path) -> None:
    """Write the bundle of all runs of a profile into figures/<profile>/results."""
    folder.mkdir(parents=True, exist_ok=True)
    write_evaluation(_stacked(runs, "evaluation.csv"), folder)
    write_csv(_stacked(runs, "metrics.csv", CURVES), folder / "curves.csv.xz", digits=5)
    write_csv(_stacked(runs, "validation.csv"), folder / "validation.csv.xz", digits=5)
    records = {f"{run.name}@{seed_of(run)}": {k: v for k, v in run.record.items() if k != "files"} for run in runs}
    write_records(records, folder / "records.json.xz")
    write_samples(kept_samples(runs), folder / "samples.csv")
    write_csv(constant_answers(runs), folder / "constant.csv")


def seed_of(run: FinishedRun) -> int:
    """The seed that a run was made with."""
    return run.record["resolved"]["seed"]


def _stacked(runs: Iterable[FinishedRun], name: str, columns: Sequence[str] = ()) -> pd.DataFrame:
    """A table of all runs that have it, or these of its columns, every row behind its seed and checkpoint."""
    tables = [pd.DataFrame(columns=["seed", "checkpoint", "step"])]
    for run in runs:
        if run.path(name).is_file():
            table = read_table(run.path(name))
            kept = [column for column in columns or table if column in table]
            tables.append(table[kept].assign(seed=seed_of(run), checkpoint=run.name)[["seed", "checkpoint", *kept]])
    return pd.concat(tables[1:] or tables)


def kept_samples(runs: Sequence[FinishedRun]) -> pd.DataFrame:
    """Some completions of every checkpoint, with SAMPLES: of its first seed, one each of a set's first problems."""
    table = _stacked(sorted(runs, key=seed_of), "samples.csv").reindex(columns=SAMPLES)
    table = table[table["seed"] == table.groupby("checkpoint")["seed"].transform("min")]
    table = table.groupby(["checkpoint", "set"], sort=False).head(KEPT)
    return table.assign(answer=table["answer"].map(shown_answer))


def constant_answers(runs: Iterable[FinishedRun]) -> pd.DataFrame:
    """What always the same answer would score, a floor for accuracies over few possible answers: a row a set and level with how
    many `problems`, their most frequent right `answer` (the first in order) and its `share`, by the first evaluated run."""
    rows = []
    for run in [run for run in runs if run.path("samples.csv").is_file()][:1]:
        levels, samples = (read_table(run.path(name)) for name in ("evaluation.csv", "samples.csv"))
        levels = levels[["set", "problem", "level"]].drop_duplicates()  # of several decodings
        table = levels.merge(samples[["set", "problem", "answer"]], on=["set", "problem"])
        for place, group in table.groupby(["set", "level"], sort=False):
            counts = group["answer"].map(shown_answer).value_counts().sort_index()
            rows.append((*place, len(group), counts.idxmax(), counts.max() / len(group)))
    return pd.DataFrame(rows, columns=CONSTANT)


def shown_answer(answer: str) -> str:
    """A gold answer for readers: of reasoning-gym's notes only the answer itself."""
    try:
        note = json.loads(answer)
    except ValueError:
        return answer
    return str(note["answer"]) if isinstance(note, dict) and "answer" in note else answer


def read_bundle(folder: Path) -> Bundle:
    """The bundle of a profile, its evaluation at the main decoding; a StudyError when it is not there or broken."""
    try:
        evaluation = pd.read_parquet(folder / "evaluation.parquet")
        names = ("curves.csv.xz", "validation.csv.xz", "samples.csv", "constant.csv")
        tables = {name.split(".")[0]: read_table(folder / name) for name in names}
        raw = json.loads(lzma.decompress((folder / "records.json.xz").read_bytes()))
    except (OSError, EOFError, ValueError, lzma.LZMAError) as error:
        raise StudyError(f"no readable results in {folder} ({error}): make them with `make study`.") from None
    records = {(name.rsplit("@", 1)[0], int(name.rsplit("@", 1)[1])): record for name, record in raw.items()}
    if "decoding" in evaluation:  # called what it is instead of by the name that the profile gives it
        made = [Evaluation.model_validate(record["resolved"]["evaluation"]) for record in raw.values()]
        words = {name: one.words for each in made for name, one in each.decodings.items()}
        of = evaluation["decoding"].replace("", MAIN)
        tables["decoded"] = evaluation.assign(decoding=of.map(words))
        evaluation = evaluation[of == MAIN].drop(columns="decoding").reset_index(drop=True)
    return Bundle(evaluation, records=records, **tables)


def seeds_of(bundle: Bundle, checkpoint: str) -> list[int]:
    """Seeds with which the checkpoint was run."""
    return sorted(seed for name, seed in bundle.records if name == checkpoint)


def best_decodings(bundle: Bundle, checkpoint: str) -> pd.Series:
    """The decoding of highest mean accuracy by evaluation set, the first of equal ones; empty where there is one only."""
    own = bundle.decoded[bundle.decoded["checkpoint"] == checkpoint]
    if own["decoding"].nunique() < 2:
        return pd.Series(dtype=object)
    means = _shares(own).groupby([own["set"], own["decoding"]], sort=False).mean()
    return means.groupby(level="set", sort=False).idxmax().str[1]


def with_best(bundle: Bundle) -> Bundle:
    """The results with one checkpoint more, `<name>@best`, for every base model that was evaluated at several decodings: on each
    set at that at which it is right most often there, which favours the untrained model."""
    rows, records = [bundle.evaluation], dict(bundle.records)
    for name in sorted({name for (name, _), record in bundle.records.items() if record["resolved"]["stage"] == "base"}):
        best = best_decodings(bundle, name)
        if not best.empty:
            own = bundle.decoded[bundle.decoded["checkpoint"] == name]
            chosen = own[own["decoding"] == own["set"].map(best)].drop(columns="decoding")
            rows.append(chosen.assign(checkpoint=f"{name}{BEST}"))
            records |= {(f"{name}{BEST}", seed): bundle.records[name, seed] for seed in seeds_of(bundle, name)}
    return replace(bundle, evaluation=pd.concat(rows), records=records)


def ancestry(bundle: Bundle, checkpoint: str, seed: int) -> list[str]:
    """The checkpoint and all runs it was made from, each once, parents before children; a StudyError where one is missing."""
    if (checkpoint, seed) not in bundle.records:
        raise StudyError(f"the results lack the run {checkpoint!r}, seed {seed}: collect them again with `make study`.")
    parents = bundle.records[checkpoint, seed]["resolved"]["parents"].values()
    return list(dict.fromkeys([*(name for parent in parents for name in ancestry(bundle, parent, seed)), checkpoint]))


def own_line(bundle: Bundle, checkpoint: str, seed: int) -> list[str]:
    """The checkpoint and the runs whose weights it continues, back to its base."""
    line = [checkpoint]
    while parent := bundle.records[line[-1], seed]["resolved"]["parents"].get("from"):
        line.append(parent)
    return line


def route_cost(bundle: Bundle, checkpoint: str, seed: int) -> dict[str, int]:
    """`own_steps`, the optimiser steps of the checkpoint's own weights, and `spent_by` its whole ancestry, teacher included."""
    own, whole = (names(bundle, checkpoint, seed) for names in (own_line, ancestry))
    steps = spent_by([bundle.records[name, seed] for name in own])["all_steps"]
    return {"own_steps": steps, **spent_by([bundle.records[name, seed] for name in whole])}


def spent_by(records: Sequence[dict]) -> dict[str, int]:
    """What some runs spent together: `labels` (distinct labeled problems that were graded against), `gradings`, `all_steps`,
    `sampled_sequences`, `sampled_tokens`, `trained_tokens`."""
    uses, sampled = ([record.get(key, {}) for record in records] for key in ("label_use", "sampled"))
    return {
        "labels": len(set().union(*(use.get("problems", {}) for use in uses))),
        "gradings": sum(use.get("gradings", 0) for use in uses),
        "all_steps": sum(record.get("optimizer_steps", 0) for record in records),
        "sampled_sequences": sum(one.get("sequences", 0) for one in sampled),
        "sampled_tokens": sum(one.get("tokens", 0) for one in sampled),
        "trained_tokens": sum(record.get("trained_tokens", 0) for record in records),
    }


def spent(bundle: Bundle, checkpoint: str, seed: int) -> pd.DataFrame:
    """What a run's own training had spent at every `step`, from 0 on: `compute` and, of it, the self-teacher's part, `scored`.
    Methods of unequal cost are compared on this axis.

    Compute is counted in forward passes of the trained model over one token: each token of a prompt or rollout once for
    sampling and three times for its update, each that a self-teacher reads or scores once more. So model size cancels.
    """
    rows = steps_of(bundle.curves, checkpoint, seed)
    scored = rows.reindex(columns=["self_teacher/tokens", "self_teacher/prompt_tokens"]).sum(axis=1)
    compute = (1 + TRAINING) * np.diff(rows["num_tokens"], prepend=0.0) + scored
    each = pd.DataFrame({"compute": compute, "scored": scored}, dtype=float)
    table = pd.concat([pd.DataFrame(0.0, [0], each.columns), each.cumsum()], ignore_index=True)
    return table.assign(step=[0, *rows["step"]])


def steps_of(table: pd.DataFrame, checkpoint: str, seed: int) -> pd.DataFrame:
    """The rows of a run in `curves` or `validation`, step by step."""
    return table[(table["checkpoint"] == checkpoint) & (table["seed"] == seed)].sort_values("step")
