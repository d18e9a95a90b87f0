"""On-policy distillation of any two models of one tokenizer, on any prompts, without a profile.

    python examples/opd.py STUDENT TEACHER PROMPTS FOLDER [STEPS]

STUDENT and TEACHER are folders or Hub ids, PROMPTS a file with one prompt a line; the trained student lands in FOLDER.
"""

import sys
from pathlib import Path

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoTokenizer
from trl import DistillationConfig

from s2d_lib.losses import estimator
from s2d_lib.stages.dense import DenseTrainer

student, teacher, prompts, folder, *steps = sys.argv[1:]
trainer = DenseTrainer(
    model=AutoModelForCausalLM.from_pretrained(student),
    teacher_model=AutoModelForCausalLM.from_pretrained(teacher),
    processing_class=AutoTokenizer.from_pretrained(student, padding_side="left"),
    train_dataset=Dataset.from_list([{"prompt": line} for line in Path(prompts).read_text().splitlines()]),
    divergence=estimator("full", beta=1.0),  # reverse KL over the whole vocabulary
    args=DistillationConfig(
        folder, max_steps=int(*steps or [100]), learning_rate=1e-3, per_device_train_batch_size=16, logging_steps=1,
        max_completion_length=20, report_to="none", bf16=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available(),
    ),
)  # fmt: skip
trainer.train()
trainer.save_model(folder)
