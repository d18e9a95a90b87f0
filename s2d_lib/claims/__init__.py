"""Claims: intervals, verdicts, and a file of claims against results. Knows no torch."""

from s2d_lib.claims.bootstrap import Estimate, bootstrap
from s2d_lib.claims.claims import Outcome, Results, evaluate
from s2d_lib.claims.load import load_claims, load_published
from s2d_lib.claims.printed import printed_difference, printed_verdict, settle
from s2d_lib.claims.published import Published
from s2d_lib.claims.schema import Claims
from s2d_lib.claims.verdict import claim_verdict, compare

__all__ = [
    "Claims",
    "Estimate",
    "Outcome",
    "Published",
    "Results",
    "bootstrap",
    "claim_verdict",
    "compare",
    "evaluate",
    "load_claims",
    "load_published",
    "printed_difference",
    "printed_verdict",
    "settle",
]
