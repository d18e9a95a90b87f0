"""The study: `params/*.yaml` as validated, resolved, hashed nodes of one graph. Knows no torch."""

from s2d_lib.study.graph import Point, needed, points
from s2d_lib.study.load import load_profile, load_study, profile_names, project_root
from s2d_lib.study.page import all_nodes, parents_of, rollouts_name
from s2d_lib.study.resolve import Resolved, derive_seed, lineage, origins, resolve
from s2d_lib.study.stage_params import STAGES

__all__ = [
    "STAGES",
    "Point",
    "Resolved",
    "all_nodes",
    "derive_seed",
    "lineage",
    "load_profile",
    "load_study",
    "needed",
    "origins",
    "parents_of",
    "points",
    "profile_names",
    "project_root",
    "resolve",
    "rollouts_name",
]
