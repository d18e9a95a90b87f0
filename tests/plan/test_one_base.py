"""Whether a dense stage holds its teacher beside its own model: adapters over one base, merged adapters, a bare base."""

import shutil

import pytest

from s2d_lib.errors import StudyError
from s2d_lib.plan import fit, plan
from s2d_lib.plan.architecture import named
from s2d_lib.plan.hours import work_of
from s2d_lib.plan.memory import memory_of
from s2d_lib.plan.one_base import on_one_base, taught_by, teacher_of
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.runs import open_run
from s2d_lib.stages import inputs
from s2d_lib.study import lineage, load_profile, project_root
from s2d_lib.study.load import deep_merge

SMALL, QWEN = "Qwen/Qwen3-1.7B", named()["Qwen/Qwen3-1.7B"]
LENGTHS = assumed_lengths(load_profile("qwen3-single-gpu"))
STAGES = ("sparse_rl", "forward_kl", "opd")
ADAPTERS = {"rank": 16, "alpha": 32, "save": "adapter"}
MERGED = ADAPTERS | {"save": "merged"}


def over(lora: dict | None = None, **stages) -> dict:
    """Overrides: every stage with this LoRA, and changes of single ones."""
    return {"stages": {stage: {"lora": stages.get(stage, lora)} for stage in STAGES}}


ALL_ADAPTERS = over(ADAPTERS)


@pytest.mark.parametrize(
    ("checkpoint", "overrides", "one_base"),
    [
        # Student and teacher keep adapters over the untrained model, at the bridge the student on top of its warm-up's
        ("student.warm.rl_same_size", ALL_ADAPTERS, True),
        ("student.bridge.rl_same_size", ALL_ADAPTERS, True),
        # What the dense stage itself keeps in the end has no say in what it holds
        ("student.bridge.rl_same_size", over(ADAPTERS, opd=MERGED), True),
        # The teacher's adapters are merged into a checkpoint of its own, which is loaded whole
        ("student.warm.rl_same_size", over(ADAPTERS, sparse_rl=MERGED), False),
        ("student.warm.rl_same_size", over(MERGED), False),
        # So are the student's, from its warm-up
        ("student.bridge.rl_same_size", over(ADAPTERS, forward_kl=MERGED), False),
        # All weights are trained: the student's, the teacher's
        ("student.warm.rl_same_size", over(ADAPTERS, forward_kl=None), False),
        ("student.warm.rl_same_size", over(ADAPTERS, sparse_rl=None), False),
        # An untrained teacher is the base itself, where it is of the student's model
        ("student.warm.raw_teacher", deep_merge(over(ADAPTERS), {"roles": {"teacher": {"model": SMALL}}}), True),
        ("student.warm.raw_teacher", ALL_ADAPTERS, False),
        # Stages that match no distributions hold no teacher at all
        ("student.teacher_sample_sft.rl_same_size", ALL_ADAPTERS, False),
    ],
)
def test_who_shares_a_base(checkpoint, overrides, one_base):
    of = lineage("qwen3-single-gpu", checkpoint, 0, overrides)
    run = of[checkpoint]
    dense = run.stage in ("forward_kl", "opd")
    assert on_one_base(run, of) == one_base
    assert teacher_of(run, of) == (taught_by(run, of) if dense and not one_base else None)
    assert (taught_by(run, of) is not None) == dense
    assert inputs._beside(run) == teacher_of(run, of)  # what is held against the GPU before a run is what is planned


def test_a_shared_base_is_counted_once_and_the_teachers_passes_are_not_forgotten():
    found = {}
    for name, overrides in (("shared", ALL_ADAPTERS), ("apart", over(ADAPTERS, sparse_rl=MERGED))):
        of = lineage("qwen3-single-gpu", "student.warm.rl_same_size", 0, overrides)
        run = of["student.warm.rl_same_size"]
        teacher = named()[SMALL] if teacher_of(run, of) else None
        found[name] = memory_of(run, QWEN, teacher, LENGTHS), work_of(run, QWEN, teacher, LENGTHS)
    assert found["apart"][0].teacher == 2 * 1_720_574_976  # in bfloat16
    assert found["shared"][0].teacher == 0
    assert found["apart"][0].on(1) - found["shared"][0].on(1) == 2 * 1_720_574_976
    assert found["shared"][1] == found["apart"][1]


def test_the_plan_counts_a_shared_base_once(tmp_path):
    """Of a whole profile, whose runs are each other's ancestors."""
    shutil.copytree(project_root() / "params", tmp_path / "params")
    stages = ", ".join(f"{stage}: {{lora: {{rank: 16, alpha: 32, save: adapter}}}}" for stage in STAGES)
    page = f"extends: qwen3\ntables: [table3]\nstages: {{{stages}}}\n"
    (tmp_path / "params" / "mine.yaml").write_text(page)
    runs = plan("mine", root=tmp_path).runs.set_index("checkpoint")
    row = runs.loc["student.bridge.rl_same_size"]
    assert (row["taught by"], row["teacher"]) == (SMALL, 0)


def test_merged_adapters_that_do_not_fit_beside_each_other_are_refused(runs, monkeypatch):
    """A GPU with room for the base once: enough for adapters over it, not for a teacher that is loaded whole."""
    monkeypatch.setattr(inputs, "load_problems", lambda *a: pytest.fail("past the check"))
    monkeypatch.setattr(inputs, "refuse_what_cannot_be", lambda *a: None)
    name, sizes = "student.warm.rl_same_size", {}
    for kind, overrides in (("shared", ALL_ADAPTERS), ("apart", over(ADAPTERS, sparse_rl=MERGED))):
        of = lineage("qwen3-single-gpu", name, 0, overrides)
        sizes[kind] = memory_of(of[name], QWEN, named()[SMALL] if teacher_of(of[name], of) else None, LENGTHS).on(1)
    room = (sizes["shared"] + sizes["apart"]) / 2
    monkeypatch.setattr(fit, "visible_gpus", lambda: [("one", int(room))])
    with pytest.raises(StudyError, match=r"'student\.warm\.rl_same_size' needs"):
        inputs.prepare(open_run("qwen3-single-gpu", name, 0, over(ADAPTERS, sparse_rl=MERGED)))
    with pytest.raises(pytest.fail.Exception, match="past the check"):
        inputs.prepare(open_run("qwen3-single-gpu", name, 0, ALL_ADAPTERS))
