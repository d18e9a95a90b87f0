"""Made-up results of a whole profile: every checkpoint of its tables with real resolved parameters and invented numbers."""

import shutil
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
import yaml

from s2d_lib.results.bundle import Bundle, write_csv, write_evaluation, write_records, write_samples
from s2d_lib.study import all_nodes, load_profile, load_study, parents_of, resolve
from s2d_lib.study.graph import table_in
from tests.claims.synthetic import SAMPLES, evaluation, sampled
from tests.conftest import ROOT

TABLES = ("headline", "table2", "table3", "table4", "table5", "table6", "table7", "components", "estimators")
SEEDS = 2
SETS = ("micro-math", "micro-aime")
PROBLEMS = (24, 12)  # of the easier set and of the harder one
POOL = {"full": range(32), "1H": range(16), "2H": range(16, 32)}
# Of base models; a stage adds a little
LEVELS = {"outside": 0.8, "large_teacher": 0.65, "teacher": 0.5, "student": 0.25}


def bundle_of_profile(profile: str, sets: tuple[str, str] = SETS, tables=TABLES) -> Bundle:
    """A bundle that holds every run of some tables; the same call gives the same numbers."""
    rng = np.random.default_rng(7)
    nodes = all_nodes(load_study())
    difficulty = {name: rng.normal(0, 1, count) for name, count in zip(sets, PROBLEMS, strict=True)}
    records, grades, curves, validation = {}, {}, [], []
    for checkpoint in _needed(tables, profile):
        stage = nodes[checkpoint].stage
        skill = _skill(checkpoint)
        resolved = resolve(profile, checkpoint, 0).model_dump(mode="json")
        if stage != "teacher_rollouts":
            for name, problems in difficulty.items():
                grades |= sampled(rng, checkpoint, name, skill if name == sets[0] else skill / 2, SEEDS, problems)
        for seed in range(SEEDS):
            records[checkpoint, seed] = _record(resolved, checkpoint, seed, skill, sets)
            if stage not in ("base", "teacher_rollouts"):
                curves.append(_curve(rng, checkpoint, seed, stage, skill))
                validation.append(_validation(rng, checkpoint, seed, stage, skill))
    return Bundle(evaluation(grades), pd.concat(curves), records, pd.concat(validation))


def write_bundle(bundle: Bundle, folder: Path) -> None:
    """Write it as s2d_lib.results.bundle.collect does."""
    folder.mkdir(parents=True, exist_ok=True)
    write_evaluation(bundle.evaluation, folder)
    for name in ("curves.csv.xz", "validation.csv.xz", "constant.csv"):
        write_csv(getattr(bundle, name.split(".")[0]), folder / name)
    write_samples(bundle.samples, folder / "samples.csv")
    records = {f"{name}@{seed}": record for (name, seed), record in bundle.records.items()}
    write_records(records, folder / "records.json.xz")


def project_with_results(folder: Path, bundle: Bundle, profile: str, tables=TABLES) -> Path:
    """A project's folder with the real params and notebooks, and this bundle as the results of a profile that makes these
    tables."""
    for name in ("params", "notebooks"):
        shutil.copytree(ROOT / name, folder / name)
    path = folder / "params" / f"{profile}.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"tables": list(tables)}))
    write_bundle(bundle, folder / "figures" / profile / "results")
    return folder


def _needed(tables, profile: str) -> list[str]:
    """What the tables are made of, whatever the profile itself asks for now."""
    study = load_study()
    nodes, found = all_nodes(study), {}
    settings = load_profile(profile)
    waiting = [row for table in tables for row in table_in(study, table, settings, profile)[0].rows]
    while waiting:
        name = waiting.pop()
        found[name] = None
        waiting += (parent for parent in parents_of(nodes[name]).values() if parent not in found)
    return sorted(found)


def _skill(checkpoint: str) -> float:
    base = LEVELS[checkpoint.split(".")[0]]
    words = zlib.crc32(checkpoint.encode()) % 100 / 1000  # so that no two are equal
    return min(base + 0.12 * checkpoint.count(".") + words, 0.9)


def _record(resolved: dict, checkpoint: str, seed: int, skill: float, sets: tuple[str, str]) -> dict:
    own = resolved | {"seed": seed, "parent_hashes": {p: _hash(p, seed) for p in resolved["parent_hashes"]}}
    facts = {"hash": _hash(checkpoint, seed), "resolved": own, "seconds": 12.5}
    steps = resolved["params"].get("steps", 0)
    if resolved["stage"] == "sparse_rl" or resolved["params"].get("filter"):
        facts["label_use"] = {"problems": {f"full/{n}": 8 for n in POOL[resolved["labels"]]}, "gradings": steps * 256}
    if resolved["stage"] != "base":
        facts |= {"sampled": {"sequences": 100, "tokens": 1200}, "trained_tokens": 900, "optimizer_steps": steps}
    if resolved["stage"] != "teacher_rollouts":
        facts["evaluation"] = [
            {"set": name, "problems": count, "samples": SAMPLES, "avg": skill, "se": 0.02, "pass": 0.9, "tokens": 9.0}
            for name, count in zip(sets, PROBLEMS, strict=True)
        ]
    return facts


def _hash(checkpoint: str, seed: int) -> str:
    return f"{zlib.crc32(f'{checkpoint}@{seed}'.encode()):064x}"[::-1]


def _curve(rng, checkpoint: str, seed: int, stage: str, skill: float) -> pd.DataFrame:
    steps = np.arange(1, 51)
    rising = skill * (1 - np.exp(-steps / 20)) + rng.normal(0, 0.02, len(steps))
    values = {"reward": rising} if stage == "sparse_rl" else {"loss": np.exp(-steps / 25) + rng.random(len(steps)) / 20}
    return pd.DataFrame({"seed": seed, "checkpoint": checkpoint, "step": steps, **values})


def _validation(rng, checkpoint: str, seed: int, stage: str, skill: float) -> pd.DataFrame:
    steps = np.arange(0, 51, 10)
    table = pd.DataFrame({"seed": seed, "checkpoint": checkpoint, "step": steps, "length": 11.0})
    table["accuracy"] = (skill * (1 - 0.5 * np.exp(-steps / 20)) + rng.normal(0, 0.02, len(steps))).clip(0, 1)
    if stage in ("forward_kl", "opd"):
        for kind in ("forward_kl", "reverse_kl"):
            for states in ("teacher", "student"):
                table[f"{kind}/{states}_states"] = np.exp(-steps / 20) * rng.uniform(0.8, 1.2, len(steps)) + 0.05
    return table
