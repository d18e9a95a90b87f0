"""Where the study does not say what the paper says."""

import pandas as pd


def disagreements(comparisons: pd.DataFrame) -> pd.DataFrame:
    """The comparisons, from `comparisons_table`, whose measured difference points the other way than the paper's.

    Scales differ between the paper's models and these, so only the sign counts: a comparison is here when the interval
    lies on the other side (`contradicted`), or when its mean does and the interval decides nothing (`other sign, undecided`).
    With a margin, the other side begins where the margin ends. What a comparison presupposes has no say in it.

    Returns:
        The rows, with `how`.
    """
    made = comparisons[comparisons["difference"].notna()]
    contradicted = made["by numbers"] == "contradicted"
    other_sign = ~contradicted & (made["difference"].astype(float) < -made["margin"])
    how = pd.Series("other sign, undecided", index=made.index).mask(contradicted, "contradicted")
    return made.assign(how=how)[contradicted | other_sign]
