"""Made-up results with known truth: graded samples on crossed seeds and problems, and records as far as claims read them."""

import numpy as np
import pandas as pd

from s2d_lib.results.bundle import Bundle

SAMPLES = 16
COLUMNS = ["seed", "checkpoint", "set", "problem", "level", "correct", "tokens", "cut_off"]

Grades = dict[tuple[int, str, str], dict[str, str]]  # (seed, checkpoint, set) -> problem -> a 0 or 1 each sample


def graded(rng, accuracy: float, seeds: int, problems: np.ndarray, seed_sd=0.15, rest_sd=0.8) -> np.ndarray:
    """Correct samples of 16, shape (seeds, problems): a logit of ability, problem, seed and interaction.

    The variance components are those of the committed micro results: differences of two checkpoints then have a standard
    deviation of about 0.03 over seeds, 0.15 over problems and 0.2 in the rest.
    """
    logit = np.log(accuracy / (1 - accuracy)) * 1.35 + problems  # 1.35 undoes the shrinkage by the spread of logits
    own = rng.normal(0, 0.6, len(problems))
    noise = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, rest_sd, (seeds, len(problems)))
    return rng.binomial(SAMPLES, 1 / (1 + np.exp(-(logit + own + noise))))


def sampled(rng, checkpoint: str, name: str, accuracy: float, seeds: int, problems: np.ndarray) -> Grades:
    """What `graded` draws for a checkpoint on a set."""
    drawn = enumerate(graded(rng, accuracy, seeds, problems))
    bits = {seed: ["1" * right + "0" * (SAMPLES - right) for right in line] for seed, line in drawn}
    return {(seed, checkpoint, name): {f"{name}/{p}": b for p, b in enumerate(of)} for seed, of in bits.items()}


def evaluation(grades: Grades) -> pd.DataFrame:
    """A row a problem, as results have them."""
    rows = [(*of, problem, "", bits, 9.0, 0.0) for of, own in grades.items() for problem, bits in own.items()]
    return pd.DataFrame(rows, columns=COLUMNS)


def record(seed: int, parents: dict[str, str] | None = None, labels=(), gradings: int = 0, **facts) -> dict:
    """A record of one run that graded `labels` (problem ids) `gradings` times, as far as claims read it."""
    parents = parents or {}
    resolved = {
        "seed": seed,
        "stage": facts.get("stage", "sparse_rl"),
        "role": facts.get("role", "student"),
        "model": {"model": facts.get("role", "student")},
        "labels": facts.get("pool"),
        "params": {"learning_rate": facts.get("rate", 1e-3)},
        "evaluation": {"samples": SAMPLES},
        "sampling": {"temperature": facts.get("temperature", 1.0)},
        "parents": parents,
        "parent_hashes": {parent: f"{parent}-{seed}" for parent in parents.values()},
    }
    use = {"label_use": {"problems": dict.fromkeys(labels, 1), "gradings": gradings}} if gradings else {}
    return {"resolved": resolved, "optimizer_steps": 10, **use}


def bundle_of(accuracies: dict, records: dict, seeds: int, problems: dict[str, int], rng) -> Bundle:
    """Checkpoint -> set -> true accuracy of an average problem, and checkpoint -> arguments of `record`, as a bundle."""
    difficulty = {name: rng.normal(0, 1.2, count) for name, count in problems.items()}
    grades = {}
    for checkpoint, on in accuracies.items():
        for name, accuracy in on.items():
            grades |= sampled(rng, checkpoint, name, accuracy, seeds, difficulty[name])
    made = {(name, seed): record(seed, **facts) for name, facts in records.items() for seed in range(seeds)}
    return Bundle(evaluation(grades), pd.DataFrame(), made)
