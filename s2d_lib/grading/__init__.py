r"""Grading: is a completion's final answer right?

``grade`` judges one completion, ``grade_many`` a batch, ``make_reward`` makes the TRL reward function of it.
Rooms inside: ``extract`` (which part counts), ``normal`` (the rules: spelling, numbers, words, lists), ``units`` (their
table), ``compare`` (exact rules, then math-verify), ``client`` and ``worker`` (math-verify in a process that can be
killed), ``verdict``, ``reward``.
"""

from s2d_lib.grading.reward import CorrectnessReward, make_reward
from s2d_lib.grading.verdict import Grade, grade, grade_many

__all__ = ["CorrectnessReward", "Grade", "grade", "grade_many", "make_reward"]
