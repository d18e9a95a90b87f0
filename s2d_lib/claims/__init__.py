"""Claims: intervals, verdicts, and a file of claims against results. Knows no torch."""

from s2d_lib.claims.bootstrap import Estimate, bootstrap, claim_verdict, compare
from s2d_lib.claims.claims import Outcome, Results, evaluate
from s2d_lib.claims.printed import Published, load_published
from s2d_lib.claims.schema import Claims, load_claims

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
]
