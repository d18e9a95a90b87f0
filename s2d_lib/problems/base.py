"""A problem: a prompt with a checkable answer and a stable id; and the problems of a run."""

import hashlib
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class Problem:
    """One labeled problem."""

    id: str  # stable over versions of the file it came from; results are keyed by it
    prompt: str  # what the policy is asked, before any chat template
    answer: str  # gold, as text
    level: str = ""  # difficulty or length class, for results by level; empty where the source has none
    feedback: str = ""  # what the environment says of a failed attempt, for self-distillation; empty likewise
    system: str = ""  # what a chat's system message says, of models that chat; before the prompt, of others


@dataclass(frozen=True)
class Problems:
    """The problems of a run."""

    pool: list[Problem]  # the label pool; empty for a base checkpoint
    evaluations: dict[str, list[Problem]]
    grading: str  # how answers are compared: a mode of s2d_lib.grading
    validation: list[Problem] = field(default_factory=list)  # what accuracy is measured on while a stage trains, if any
    report: dict = field(default_factory=dict)  # what loading found, and the `label_pool`: name, size, ids


def content_id(source: str, prompt: str) -> str:
    """Stable id of a problem whose source gives none: the source's name and a hash of the prompt's words."""
    digest = hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest()
    return f"{source}/{digest[:12]}"
