"""A problem: a prompt with a checkable answer and a stable id."""

import hashlib
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """One labeled problem."""

    id: str  # stable over versions of the file it came from; results are keyed by it
    prompt: str  # what the policy is asked, before any chat template
    answer: str  # gold, as text
    level: str = ""  # difficulty or length class, for results by level; empty where the source has none
    feedback: str = ""  # what the environment says of a failed attempt, for self-distillation; empty likewise
    system: str = ""  # what a chat's system message says, of models that chat; before the prompt, of others


def content_id(source: str, prompt: str) -> str:
    """Stable id of a problem whose source gives none: the source's name and a hash of the prompt's words."""
    digest = hashlib.sha256(" ".join(prompt.split()).encode()).hexdigest()
    return f"{source}/{digest[:12]}"
