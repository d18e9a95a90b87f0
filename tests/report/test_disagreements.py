"""Disagreements are told by their sign, on the other side of the margin, and nothing else is one."""

import pandas as pd

from s2d_lib.report.disagreements import disagreements

NAN = float("nan")
COMPARISONS = pd.DataFrame(
    [
        {"claim": "holds", "verdict": "holds", "difference": 3.0, "margin": 0.0, "published": 2.0},
        {"claim": "small", "verdict": "undecided", "difference": 0.2, "margin": 0.0, "published": NAN},
        {"claim": "other", "verdict": "undecided", "difference": -0.2, "margin": 0.0, "published": 1.0},
        {"claim": "within", "verdict": "undecided", "difference": -0.2, "margin": 1.5, "published": NAN},
        {"claim": "against", "verdict": "contradicted", "difference": -4.0, "margin": 0.0, "published": NAN},
        {"claim": "none", "verdict": "not run", "difference": None, "margin": 0.0, "published": 1.0},
        {"claim": "unset", "verdict": "no set", "difference": None, "margin": 0.0, "published": 1.0},
    ]
)


def test_what_points_the_other_way_is_a_disagreement():
    found = disagreements(COMPARISONS)
    assert dict(zip(found["claim"], found["how"], strict=True)) == {
        "other": "other sign, undecided", "against": "contradicted",
    }  # fmt: skip
