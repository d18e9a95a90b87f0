"""avg@k with its standard error and pass@k of per-problem results. Knows no torch."""

import math

import numpy as np
import pandas as pd


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Unbiased estimate of the chance that at least one of k samples is correct (Chen et al. 2021, Eq. 1).

    Raises:
        ValueError: When k is larger than the number of samples.
    """
    if not 1 <= k <= samples:
        raise ValueError(f"pass@{k} needs between 1 and {samples} samples")
    return 1.0 - math.comb(samples - correct, k) / math.comb(samples, k)


def summarise(results: pd.DataFrame) -> pd.DataFrame:
    """Accuracy of every evaluation set.

    Args:
        results: Rows as `evaluate` writes them: one a problem, `correct` a string of 0 and 1, one a sample.

    Returns:
        One row a set: `problems`, `samples`, `avg` (avg@k, mean over problems of the mean correctness), `se` (standard
        error of that mean over problems), `pass` (pass@k), `tokens` (mean length), `cut_off` (share without EOS) and,
        where it was measured, `formed` (share of samples with a well-formed answer, see s2d_lib.grading.Grade).
    """
    rows = []
    for name, part in results.groupby("set", sort=False):
        mean = part["correct"].map(lambda bits: bits.count("1") / len(bits)).to_numpy(float)
        k = len(part["correct"].iloc[0])
        rows.append(
            {
                "set": name,
                "problems": len(part),
                "samples": k,
                "avg": mean.mean(),
                "se": mean.std(ddof=1) / math.sqrt(len(mean)) if len(mean) > 1 else float("nan"),
                "pass": np.mean([pass_at_k(k, bits.count("1"), k) for bits in part["correct"]]),
                "tokens": part["tokens"].mean(),
                "cut_off": part["cut_off"].mean(),
                **({"formed": part["formed"].mean()} if "formed" in part else {}),
            }
        )
    return pd.DataFrame(rows)
