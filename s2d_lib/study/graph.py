"""The graph of runs: what a profile's tables need, and in which order it can be made."""

from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.load import did_you_mean, load_profile, load_study, project_root
from s2d_lib.study.nodes import all_nodes, parents_of
from s2d_lib.study.page import Checkpoint
from s2d_lib.study.problem_sets import AT
from s2d_lib.study.profile import Profile

NOTEBOOKS = {
    "base": "50_evaluate.ipynb",
    "teacher_rollouts": "30_forward_kl_warmup.ipynb",
    "sparse_rl": "20_sparse_rl.ipynb",
    "teacher_sft": "21_teacher_sft.ipynb",
    "forward_kl": "30_forward_kl_warmup.ipynb",
    "opd": "31_opd.ipynb",
    "teacher_sample_sft": "32_teacher_sample_sft.ipynb",
    "self_distillation": "40_self_distillation.ipynb",
}


def needed(profile: str, root: Path | None = None) -> dict[str, list[str]]:
    """Checkpoints that the profile's tables need, ancestors included, parents before children.

    Returns:
        Checkpoint name -> names of the runs it reads.

    Raises:
        StudyError: When the profile lists a table that the study does not have, or one that needs a role for which the
            profile has no model, or checkpoints are made of each other.
    """
    root = root or project_root()
    study, settings = load_study(root), load_profile(profile, root=root)
    wanted: dict[str, str] = {}
    for table in settings.tables:
        if table not in study.tables:
            raise StudyError(
                f"profile {profile!r} lists table {table!r}, which study.yaml lacks; {did_you_mean(table, study.tables)}"
            )
        wanted |= {row: f"table {table!r}" for row in study.tables[table].rows if row not in wanted}
    return _with_ancestors(wanted, profile, all_nodes(study), settings)


def frontier(profile: str, root: Path | None = None) -> dict[str, list[str]]:
    """Likewise, what the profile's label frontier needs: its routes at every budget, and without one (all labels).

    Empty for a profile without a frontier.

    Raises:
        StudyError: Likewise.
    """
    root = root or project_root()
    study, settings = load_study(root), load_profile(profile, root=root)
    if settings.frontier is None:
        return {}
    if study.frontier is None:
        raise StudyError(f"profile {profile!r} has a `frontier`, but study.yaml declares no routes for one.")
    routes, budgets = study.frontier.routes, settings.frontier.budgets
    wanted = [*routes, *(f"{route}{AT}{budget}" for budget in budgets for route in routes)]
    return _with_ancestors(dict.fromkeys(wanted, "the frontier"), profile, all_nodes(study, budgets), settings)


def _with_ancestors(
    wanted: dict[str, str], profile: str, nodes: dict[str, Checkpoint], settings: Profile
) -> dict[str, list[str]]:
    """`wanted`: checkpoint -> what needs it, for the error."""
    order: dict[str, list[str]] = {}

    def visit(name: str, what: str, path: tuple[str, ...]) -> None:
        if name in path:
            raise StudyError(f"study.yaml: {' needs '.join([*path[path.index(name) :], name])}, which is a cycle.")
        if name in order:
            return
        if (role := nodes[name].role) not in {None, *settings.roles}:
            raise StudyError(
                f"profile {profile!r} can't make {what}, which needs {name!r}: add a model for role {role!r} under "
                "`roles`, or drop it."
            )
        parents = list(parents_of(nodes[name]).values())
        for parent in parents:
            visit(parent, what, (*path, name))
        order[name] = parents

    for name, what in wanted.items():
        visit(name, what, ())
    return order
