"""The nodes of the study's graph: declared checkpoints, and rollouts that several share."""

from collections.abc import Mapping

from s2d_lib.study.page import Checkpoint, Study
from s2d_lib.study.settings import RoleModel

USES_ROLLOUTS = ("forward_kl", "teacher_sample_sft")


def rollouts_name(teacher: str, labels: str) -> str:
    """Name of the run that holds a teacher's rollouts on a label pool, sampled once for all that train on them."""
    return f"{teacher}.rollouts.{labels}"


def all_nodes(study: Study) -> dict[str, Checkpoint]:
    """Every node by its name: the study's checkpoints and, for every teacher and pool that some stage needs rollouts of,
    their run."""
    nodes = dict(study.checkpoints)
    for node in study.checkpoints.values():
        if teacher := rollouts_of(node):
            nodes[rollouts_name(teacher, node.labels)] = Checkpoint(
                stage="teacher_rollouts",
                teacher=teacher,
                labels=node.labels,
                about=f"rollouts of {teacher} on the label pool {node.labels}, sampled once",
            )
    return nodes


def rollouts_of(node: Checkpoint) -> str | None:
    """Whose stored rollouts a checkpoint trains on: its teacher's, in teacher SFT without one its own; None if it uses none."""
    if node.stage == "teacher_sft":
        return node.teacher or node.from_
    return node.teacher if node.stage in USES_ROLLOUTS or node.overrides.get("states") == "teacher" else None


def parents_of(node: Checkpoint) -> dict[str, str]:
    """The runs a checkpoint reads, by what it reads them for."""
    parents = {"from": node.from_, "teacher": node.teacher}
    if teacher := rollouts_of(node):
        parents["rollouts"] = rollouts_name(teacher, node.labels)
    return {kind: name for kind, name in parents.items() if name}


def traces_of(name: str, nodes: Mapping[str, Checkpoint], roles: Mapping[str, RoleModel]) -> str | None:
    """The file that holds the answers of a checkpoint's teacher, where that role is a file in this profile."""
    teacher = nodes.get(nodes[name].teacher)
    spec = roles.get(teacher.role) if teacher else None
    return spec.traces if spec else None


def parents_in(name: str, nodes: Mapping[str, Checkpoint], roles: Mapping[str, RoleModel]) -> dict[str, str]:
    """`parents_of` in a profile: a teacher that is a file of traces is read by the stage itself and has no runs."""
    parents = parents_of(nodes[name])
    return {"from": parents["from"]} if "from" in parents and traces_of(name, nodes, roles) else parents
