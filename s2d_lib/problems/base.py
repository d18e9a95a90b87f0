"""A problem: a prompt with a checkable answer and a stable id."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One labeled problem.

    Attributes:
        id: Stable over versions of the file it came from; results are keyed by it.
        prompt: What the policy is asked, before any chat template.
        answer: The gold answer, as text.
        level: Difficulty or length class, for results by level; empty where the source has none.
        feedback: What the environment says of a failed attempt, for self-distillation; empty where the source has none.
        system: What a chat's system message says, of models that chat; before the prompt, of others. Empty for none.
    """

    id: str
    prompt: str
    answer: str
    level: str = ""
    feedback: str = ""
    system: str = ""


def content_id(source: str, prompt: str) -> str:
    """Stable id of a problem whose source gives none: the source's name and a hash of the prompt's words."""
    digest = hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest()
    return f"{source}/{digest[:12]}"
