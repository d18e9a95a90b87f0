"""A small study with made-up results: a bridge that is far better than direct GRPO, and a raw-teacher bridge below it."""

import numpy as np
import pytest

from s2d_lib.claims import Claims, Results
from s2d_lib.study.load import load_profile
from s2d_lib.study.page import Study
from tests.claims.synthetic import bundle_of

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
ACCURACIES = {
    "student.grpo": {"micro-math": 0.5, "micro-aime": 0.2},
    "student.grpo_2H": {"micro-math": 0.5, "micro-aime": 0.2},
    "bridge": {"micro-math": 0.8, "micro-aime": 0.5},
    "bridge.raw": {"micro-math": 0.3, "micro-aime": 0.1},
    "student": {"micro-math": 0.2, "micro-aime": 0.1},
    "teacher": {"micro-math": 0.2, "micro-aime": 0.1},
    "teacher.rl": {"micro-math": 0.95, "micro-aime": 0.7},
}


@pytest.fixture
def bundle():
    return bundle_of(ACCURACIES, RUNS, 3, {"micro-math": 80, "micro-aime": 40}, np.random.default_rng(0))


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
