"""Disagreements are told by their sign, on the other side of the margin, and nothing else is one."""

import pandas as pd

from s2d_lib.report.disagreements import disagreements

NAN = float("nan")
COMPARISONS = pd.DataFrame(
    [
        {"claim": "holds", "by numbers": "holds", "difference": 3.0, "margin": 0.0, "published": 2.0},
        {"claim": "small", "by numbers": "undecided", "difference": 0.2, "margin": 0.0, "published": NAN},
        {"claim": "other", "by numbers": "undecided", "difference": -0.2, "margin": 0.0, "published": 1.0},
        {"claim": "within", "by numbers": "undecided", "difference": -0.2, "margin": 1.5, "published": NAN},
        {"claim": "against", "by numbers": "contradicted", "difference": -4.0, "margin": 0.0, "published": NAN},
        {"claim": "none", "by numbers": "not run", "difference": None, "margin": 0.0, "published": 1.0},
        {"claim": "unset", "by numbers": "no set", "difference": None, "margin": 0.0, "published": 1.0},
    ]
)


def test_what_points_the_other_way_is_a_disagreement():
    found = disagreements(COMPARISONS)
    assert dict(zip(found["claim"], found["how"], strict=True)) == {
        "other": "other sign, undecided", "against": "contradicted",
    }  # fmt: skip
