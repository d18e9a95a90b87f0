"""The planner: what a profile's study will sample, compute, hold in memory and leave on the disk. Knows no torch."""

from s2d_lib.plan.plan import GPU, UTILISATION, Plan, plan

__all__ = ["GPU", "UTILISATION", "Plan", "plan"]
