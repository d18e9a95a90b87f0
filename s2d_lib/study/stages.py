"""The `stages` block of a profile: which hyperparameters each stage has."""

from s2d_lib.study.self_distillation_params import SelfDistillation
from s2d_lib.study.stage_params import Distillation, SparseRL, TeacherRollouts, TeacherSampleSFT, TeacherSFT
from s2d_lib.study.strict import Strict

STAGE_PARAMS = {
    "sparse_rl": SparseRL,
    "teacher_sft": TeacherSFT,
    "forward_kl": Distillation,
    "opd": Distillation,
    "teacher_sample_sft": TeacherSampleSFT,
    "teacher_rollouts": TeacherRollouts,
    "self_distillation": SelfDistillation,
}
"""Stage -> the type of its hyperparameters; a base model has none."""


class Stages(Strict):
    """Hyperparameters of every stage."""

    sparse_rl: SparseRL
    teacher_sft: TeacherSFT
    forward_kl: Distillation
    opd: Distillation
    teacher_sample_sft: TeacherSampleSFT
    teacher_rollouts: TeacherRollouts
    self_distillation: SelfDistillation | None = None  # a profile without it makes no checkpoints of that stage
