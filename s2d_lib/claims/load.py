"""Reading params/claims.yaml and params/published.yaml."""

from pathlib import Path

from s2d_lib.claims.published import Published
from s2d_lib.claims.schema import Claims
from s2d_lib.errors import StudyError
from s2d_lib.study.load import did_you_mean, load_study, project_root, read_yaml, validated


def load_claims(root: Path | None = None) -> Claims:
    """The validated params/claims.yaml. Its checkpoints are checked against the study when it is evaluated.

    Raises:
        StudyError: When it is broken, or a claim is about a set, a model family or a premise that the file does not declare.
    """
    path = (root or project_root()) / "params" / "claims.yaml"
    claims = validated(Claims, read_yaml(path), path.name)
    families = {family for played in claims.families.values() for family in played}
    named = [
        (f"premise {name!r}", "set", condition.set, claims.sets)
        for name, premise in claims.premises.items()
        for condition in premise.conditions
        if condition.set
    ]
    for name, claim in claims.claims.items():
        who = f"claim {name!r}"
        named.append((who, "family", claim.family, families))
        for premises in (claim.premises, *(comparison.premises or () for comparison in claim.comparisons)):
            named += [(who, "premise", premise, claims.premises) for premise in premises]
        named += [(who, "set", meant, claims.sets) for comparison in claim.comparisons for meant in comparison.sets]
    place = {"set": "sets", "family": "families", "premise": "premises"}
    for who, kind, word, declared in named:
        if word not in declared:
            hint = did_you_mean(word, declared)
            raise StudyError(f"{path.name}: {who} is about {kind} {word!r}, not in `{place[kind]}`; {hint}")
    return claims


def load_published(root: Path | None = None) -> Published:
    """The validated params/published.yaml.

    Raises:
        StudyError: When it is broken: a missing cell, a set that its paper does not have, a row twice, or a row of paper A
            that is no checkpoint of the study.
    """
    path = (root or project_root()) / "params" / "published.yaml"
    published = validated(Published, read_yaml(path), path.name)
    declared = load_study(root).checkpoints
    for route in (route for block in published.paper_a for route in block.rows):
        if route not in declared:
            raise StudyError(f"{path.name}: {route!r} is no checkpoint of study.yaml; {did_you_mean(route, declared)}")
    return published
