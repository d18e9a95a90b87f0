"""Which function trains which stage."""

from s2d_lib.stages.distillation import distill
from s2d_lib.stages.processes import TrainStage
from s2d_lib.stages.self_distillation import self_distill
from s2d_lib.stages.sparse_rl import sparse_rl
from s2d_lib.stages.teacher_sample_sft import teacher_sample_sft
from s2d_lib.stages.teacher_sft import teacher_sft

TRAINING: dict[str, TrainStage] = {
    "sparse_rl": sparse_rl,
    "teacher_sft": teacher_sft,
    "forward_kl": distill,
    "opd": distill,
    "teacher_sample_sft": teacher_sample_sft,
    "self_distillation": self_distill,
}
