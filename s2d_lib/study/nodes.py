"""The nodes of the study's graph: declared checkpoints, rollouts that several share, and routes at a label budget."""

from collections.abc import Iterable, Mapping

from s2d_lib.errors import StudyError
from s2d_lib.study.page import Checkpoint, Study
from s2d_lib.study.problem_sets import AT, WHOLE
from s2d_lib.study.settings import RoleModel

USES_ROLLOUTS = ("forward_kl", "teacher_sample_sft")


def rollouts_name(teacher: str, labels: str) -> str:
    """Name of the run that holds a teacher's rollouts on a label pool, sampled once for all that train on them."""
    return f"{teacher}.rollouts.{labels}"


def all_nodes(study: Study, budgets: Iterable[int] = ()) -> dict[str, Checkpoint]:
    """Every node by its name.

    Args:
        study: The page.
        budgets: Label budgets at which the frontier's routes exist once more.

    Returns:
        The study's checkpoints; for each budget the frontier's routes and what they are made from; and, for every teacher
        and pool that some stage needs rollouts of, their run.

    Raises:
        StudyError: When a frontier route uses another pool than `full`.
    """
    nodes = dict(study.checkpoints)
    for budget in budgets:
        for name in _trained_for(study, study.frontier.routes if study.frontier else ()):
            nodes[f"{name}{AT}{budget}"] = at_budget(name, budget, study)
    for node in list(nodes.values()):
        if teacher := rollouts_of(node):
            nodes[rollouts_name(teacher, node.labels)] = Checkpoint(
                stage="teacher_rollouts",
                teacher=teacher,
                labels=node.labels,
                about=f"rollouts of {teacher} on the label pool {node.labels}, sampled once",
            )
    return nodes


def at_budget(name: str, budget: int, study: Study) -> Checkpoint:
    """A checkpoint made with `budget` labeled problems: its pool and those of all it is made from are cut to them.

    Raises:
        StudyError: When it uses another pool than `full`.
    """
    node = study.checkpoints[name]
    if node.labels != WHOLE:
        raise StudyError(
            f"study.yaml: the frontier's routes are cut to a label budget, so they use the pool {WHOLE!r} only; {name!r} "
            f"uses {node.labels!r}."
        )
    cut = lambda parent: parent and parent + ("" if study.checkpoints[parent].stage == "base" else f"{AT}{budget}")  # noqa: E731
    about = f"{name} with {budget} labeled problems"
    changes = {"labels": f"{node.labels}{AT}{budget}", "from_": cut(node.from_), "teacher": cut(node.teacher)}
    return node.model_copy(update=changes | {"about": about})


def _trained_for(study: Study, routes: Iterable[str]) -> list[str]:
    """The routes and all that they are made from, base models excepted."""
    found: dict[str, None] = {}
    waiting = list(routes)
    while waiting:
        name = waiting.pop()
        node = study.checkpoints[name]
        if node.stage != "base" and name not in found:
            found[name] = None
            waiting += filter(None, (node.from_, node.teacher))
    return list(found)


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
