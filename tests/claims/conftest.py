"""Made-up results with known truth: a bridge that is far better than direct GRPO, and a raw-teacher bridge below it."""

import numpy as np
import pandas as pd
import pytest

from s2d_lib.claims import Claims, Results
from s2d_lib.results.bundle import Bundle
from s2d_lib.study.load import load_profile
from s2d_lib.study.page import Study

SAMPLES = 16
PROBLEMS = {"micro-math": 80, "micro-aime": 40}
FIRST, SECOND = [f"p{n}" for n in range(8)], [f"p{n}" for n in range(8, 16)]
RUNS = {
    "student": {"stage": "base"},
    "teacher": {"stage": "base", "role": "teacher"},
    "teacher.rl": {"parents": {"from": "teacher"}, "labels": FIRST + SECOND, "gradings": 160, "role": "teacher", "pool": "full"},
    "student.grpo": {"parents": {"from": "student"}, "labels": FIRST + SECOND, "gradings": 160, "pool": "full"},
    "student.grpo_2H": {"parents": {"from": "student"}, "labels": SECOND, "gradings": 160, "pool": "2H"},
    "bridge": {"parents": {"from": "student", "teacher": "teacher.rl"}, "stage": "opd", "pool": "full"},
    "bridge.raw": {"parents": {"from": "student", "teacher": "teacher"}, "stage": "opd", "pool": "full"},
}  # fmt: skip
ACCURACIES = {  # on an average problem of each set
    "student.grpo": (0.5, 0.2),
    "student.grpo_2H": (0.5, 0.2),
    "bridge": (0.8, 0.5),
    "bridge.raw": (0.3, 0.1),
    "student": (0.2, 0.1),
    "teacher": (0.2, 0.1),
    "teacher.rl": (0.95, 0.7),
}


def graded(rng, accuracy: float, seeds: int, problems: np.ndarray, seed_sd=0.15, rest_sd=0.8) -> np.ndarray:
    """Correct samples of 16, shape (seeds, problems): a logit of ability, problem, seed and interaction.

    The variance components are those of the committed micro results: differences of two checkpoints then have a standard
    deviation of about 0.03 over seeds, 0.15 over problems and 0.2 in the rest.
    """
    logit = np.log(accuracy / (1 - accuracy)) * 1.35 + problems  # 1.35 undoes the shrinkage by the spread of logits
    own = rng.normal(0, 0.6, len(problems))
    noise = rng.normal(0, seed_sd, (seeds, 1)) + rng.normal(0, rest_sd, (seeds, len(problems)))
    return rng.binomial(SAMPLES, 1 / (1 + np.exp(-(logit + own + noise))))


def evaluation(grades: dict[tuple[int, str, str], dict[str, str]]) -> pd.DataFrame:
    """A row a problem, as results have them, from (seed, checkpoint, set) -> problem -> a 0 or 1 each sample."""
    rows = [(*of, problem, "", bits, 9.0, 0.0) for of, own in grades.items() for problem, bits in own.items()]
    names = ["seed", "checkpoint", "set", "problem", "level", "correct", "tokens", "cut_off"]
    return pd.DataFrame(rows, columns=names)


def record(seed: int, parents: dict[str, str] | None = None, labels=(), gradings: int = 0, **facts) -> dict:
    """A record of one run that graded `labels` (problem ids) `gradings` times, as far as claims read it."""
    resolved = {
        "seed": seed,
        "stage": facts.get("stage", "sparse_rl"),
        "role": facts.get("role", "student"),
        "model": {"model": facts.get("role", "student")},
        "labels": facts.get("pool"),
        "params": {"learning_rate": 1e-3},
        "evaluation": {"samples": SAMPLES},
        "sampling": {"temperature": 1.0},
        "parents": parents or {},
        "parent_hashes": {parent: f"{parent}-{seed}" for parent in (parents or {}).values()},
    }
    use = {"label_use": {"problems": dict.fromkeys(labels, 1), "gradings": gradings}} if gradings else {}
    return {"resolved": resolved, "optimizer_steps": 10, **use}


@pytest.fixture
def bundle() -> Bundle:
    rng, grades = np.random.default_rng(0), {}
    difficulty = {name: rng.normal(0, 1.2, count) for name, count in PROBLEMS.items()}
    for checkpoint, accuracies in ACCURACIES.items():
        for (name, problems), accuracy in zip(difficulty.items(), accuracies, strict=True):
            for seed, line in enumerate(graded(rng, accuracy, 3, problems)):
                bits = ["1" * right + "0" * (SAMPLES - right) for right in line]
                grades[seed, checkpoint, name] = {f"{name}/{p}": own for p, own in enumerate(bits)}
    records = {(name, seed): record(seed, **facts) for name, facts in RUNS.items() for seed in range(3)}
    return Bundle(evaluation(grades), pd.DataFrame(), records)


@pytest.fixture
def study() -> Study:
    checkpoints = {name: {"stage": "base", "role": "student"} for name in (*RUNS, "bridge.large")}
    return Study.model_validate({"checkpoints": checkpoints, "tables": {}})


@pytest.fixture
def claims() -> Claims:
    both = ["MATH", "AIME 2024"]
    raw = {"unequal_labels": "raw uses none", "unequal_gradings": "raw uses none"}

    def claim(family, *better_first, sets=("MATH",), **more):
        comparison = {"better_first": better_first, "sets": sets, **more}
        return {"sentence": "A sentence.", "source": "table 1", "family": family, "comparisons": [comparison]}

    return Claims.model_validate(
        {
            "sets": both,
            "gradings_tolerance": 0.05,
            "families": {"micro": {"Qwen3": "micro", "Llama": "micro-llama"}},
            "claims": {
                "C1": claim("Qwen3", "bridge", "student.grpo", sets=both),
                "C2": claim("Qwen3", "bridge.raw", "student.grpo", **raw),
                "C3": claim("Qwen3", "bridge", "student.grpo", "bridge.raw", **raw),
                "C4": claim("Llama", "bridge", "student.grpo"),
                "C5": claim("Qwen3", "bridge.large", "student.grpo"),
            },
        }
    )


@pytest.fixture
def results(bundle) -> dict[str, Results]:
    stands_for = {"stands_for": {"MATH": "micro-math", "AIME 2024": "micro-aime"}}
    return {"Qwen3": Results("micro", load_profile("micro", stands_for), bundle)}
