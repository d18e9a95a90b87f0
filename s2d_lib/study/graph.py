"""The graph of runs: what a profile's tables need, and in which order it can be made."""

from pathlib import Path

from s2d_lib.errors import StudyError
from s2d_lib.study.load import did_you_mean, load_profile, load_study, project_root
from s2d_lib.study.resolve import parents_of, with_rollouts

NOTEBOOKS = {
    "base": "50_evaluate.ipynb",
    "teacher_rollouts": "30_forward_kl_warmup.ipynb",
    "sparse_rl": "20_sparse_rl.ipynb",
    "teacher_sft": "21_teacher_sft.ipynb",
    "forward_kl": "30_forward_kl_warmup.ipynb",
    "opd": "31_opd.ipynb",
    "teacher_sample_sft": "32_teacher_sample_sft.ipynb",
}


def needed(profile: str, root: Path | None = None) -> dict[str, list[str]]:
    """Checkpoints that the profile's tables need, ancestors included, parents before children.

    Returns:
        Checkpoint name -> names of the runs it reads.

    Raises:
        StudyError: When the profile lists a table that the study does not have, or one that needs a role for which the
            profile has no model.
    """
    root = root or project_root()
    study, settings = load_study(root), load_profile(profile, root=root)
    nodes = with_rollouts(study)
    order: dict[str, list[str]] = {}

    def visit(name: str, table: str) -> None:
        if name not in order:
            if (role := nodes[name].role) not in {None, *settings.roles}:
                raise StudyError(
                    f"profile {profile!r} can't make table {table!r}, which needs {name!r}: add a model for role {role!r} "
                    "under `roles`, or drop the table."
                )
            parents = list(parents_of(nodes[name]).values())
            for parent in parents:
                visit(parent, table)
            order[name] = parents

    for table in settings.tables:
        if table not in study.tables:
            raise StudyError(
                f"profile {profile!r} lists table {table!r}, which study.yaml lacks; {did_you_mean(table, study.tables)}"
            )
        for row in study.tables[table].rows:
            visit(row, table)
    return order
