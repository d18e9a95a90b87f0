"""What a check says."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Line:
    """The outcome of one check.

    Attributes:
        about: What was looked at.
        says: What was found; of a problem, with its remedy.
        ok: Whether it is as it should be.
    """

    about: str
    says: str
    ok: bool = True

    def __str__(self) -> str:
        return f"{'ok     ' if self.ok else 'problem'}  {self.about}: {self.says}"
