"""A file of claims against the results of the profiles that play the paper's model families."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from s2d_lib.claims.fair import (
    Budget,
    budget,
    check_together,
    paired_accuracies,
    seeds_of,
    unequal_budgets,
)
from s2d_lib.claims.premises import Measured, Premises
from s2d_lib.claims.schema import Claim, Claims, Comparison
from s2d_lib.claims.verdict import Compared, Verdict, compare
from s2d_lib.errors import StudyError
from s2d_lib.results.bundle import Bundle
from s2d_lib.study.load import did_you_mean
from s2d_lib.study.page import Study
from s2d_lib.study.profile import Profile


@dataclass(frozen=True)
class Results:
    """What one profile has measured."""

    name: str
    profile: Profile
    bundle: Bundle


@dataclass(frozen=True)
class Outcome:
    """One comparison of two checkpoints on one set, for one claim.

    Attributes:
        claim: Id of the claim.
        family: The paper's model family that it is about.
        better: The checkpoint that should be better.
        than: The one that it is compared with.
        meant: What the paper evaluates on.
        margin: Points by which `better` may be worse.
        profile: The profile that plays the family; empty when none does.
        evaluation: The evaluation set that stands for `meant` there; empty when none does.
        result: None when it can't be made yet.
        missing: Why not.
        budgets: Label budgets of both sides, when there is a result.
        reason: Why they may differ; empty when they do not.
        premises: What it presupposes, measured, when there is a result.
    """

    claim: str
    family: str
    better: str
    than: str
    meant: str
    margin: float
    profile: str = ""
    evaluation: str = ""
    result: Compared | None = None
    missing: str = ""
    budgets: tuple[Budget, Budget] | None = None
    reason: str = ""
    premises: tuple[Measured, ...] = ()

    @property
    def by_numbers(self) -> Verdict:
        """The verdict on this comparison, whatever it presupposes; without a result whether a set or a run is missing."""
        if self.result:
            return self.result.verdict
        return "no set" if self.profile and not self.evaluation else "not run"

    @property
    def verdict(self) -> Verdict:
        """Of this comparison: nothing is tested where a premise is missing."""
        absent = any(premise.state == "absent" for premise in self.premises)
        return "premise absent" if absent else self.by_numbers


def evaluate(claims: Claims, study: Study, results: Mapping[str, Results]) -> list[Outcome]:
    """Every comparison of every claim, in the file's order; what can't be compared yet is there with the reason.

    Args:
        claims: The claims.
        study: Where their checkpoints are declared.
        results: The paper's family -> results of the profile that plays it.

    Raises:
        StudyError: When a claim names a checkpoint that the study lacks, a profile gives a set a meaning that no claim
            knows, or a comparison would be unfair (s2d_lib.claims.fair).
    """
    named = {
        f"claim {name!r}": [c for comparison in claim.comparisons for c in comparison.better_first]
        for name, claim in claims.claims.items()
    }
    for name, premise in claims.premises.items():
        minus = [c.minus for c in premise.conditions if c.minus not in (None, "base")]
        named[f"premise {name!r}"] = [*premise.of, *minus]
    for what, checkpoints in named.items():
        for checkpoint in checkpoints:
            if checkpoint not in study.checkpoints:
                hint = did_you_mean(checkpoint, study.checkpoints)
                raise StudyError(f"{what} is about {checkpoint!r}, which study.yaml does not declare; {hint}")
    for found in results.values():
        for meant in found.profile.stands_for:
            if meant not in claims.sets:
                hint = did_you_mean(meant, claims.sets)
                raise StudyError(f"profile {found.name!r}: stands_for.{meant} is unknown in claims.yaml; {hint}")
    asked = {f: Premises(claims.premises, r.bundle, r.profile.stands_for) for f, r in results.items()}
    return [
        _made(plan, comparison, claim, claims, results.get(claim.family), asked.get(claim.family))
        for name, claim in claims.claims.items()
        for comparison, plan in _planned(name, claim)
    ]


def _planned(name: str, claim: Claim) -> Iterator[tuple[Comparison, Outcome]]:
    for comparison in claim.comparisons:
        for better, than in comparison.pairs():
            for meant in comparison.sets:
                yield comparison, Outcome(name, claim.family, better, than, meant, comparison.margin)


def _made(
    plan: Outcome,
    comparison: Comparison,
    claim: Claim,
    claims: Claims,
    found: Results | None,
    premises: Premises | None,
) -> Outcome:
    """The planned comparison with its result, or with what it lacks."""
    if found is None:
        return replace(plan, missing=f"no results of a profile that plays the {plan.family} family")
    plan = replace(plan, profile=found.name)
    if plan.meant not in found.profile.stands_for:
        return replace(plan, missing=f"no set stands for {plan.meant} in profile {found.name}")
    plan = replace(plan, evaluation=found.profile.stands_for[plan.meant])
    absent = [side for side in (plan.better, plan.than) if not seeds_of(found.bundle, side)]
    if absent:
        return replace(plan, missing=f"no run of {' and '.join(absent)} in the results of profile {found.name}")
    try:
        values = paired_accuracies(found.bundle, plan.better, plan.than, plan.evaluation)
        check_together(found.bundle, (plan.better, plan.than))
        budgets = budget(found.bundle, plan.better), budget(found.bundle, plan.than)
        reasons = {"labels": comparison.unequal_labels, "gradings": comparison.unequal_gradings}
        reason = unequal_budgets(*budgets, claims.gradings_tolerance, reasons)
        names = claim.premises if comparison.premises is None else comparison.premises
        asked = premises.of(names, (plan.better, plan.than), plan.evaluation)
    except StudyError as error:
        where = f"claim {plan.claim!r}, {plan.better} against {plan.than} on {plan.evaluation}"
        raise StudyError(f"{where}: {error}") from None
    result = compare(*values, plan.margin / 100)
    return replace(plan, result=result, budgets=budgets, reason=reason, premises=asked)
