"""The study: params/*.yaml as validated, resolved, hashed nodes of one graph. Knows no torch."""

from s2d_lib.study.graph import NOTEBOOKS, needed
from s2d_lib.study.load import load_profile, load_study, profile_names, project_root
from s2d_lib.study.resolve import Resolved, derive_seed, parents_of, resolve, rollouts_name, with_rollouts

__all__ = [
    "NOTEBOOKS",
    "Resolved",
    "derive_seed",
    "load_profile",
    "load_study",
    "needed",
    "parents_of",
    "profile_names",
    "project_root",
    "resolve",
    "rollouts_name",
    "with_rollouts",
]
