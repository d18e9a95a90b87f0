"""TRL's own GRPOTrainer with this project's grader as its reward function.

    python examples/grpo_with_our_grader.py MODEL PROBLEMS FOLDER [MODE [STEPS]]

PROBLEMS is a jsonl file with `prompt` and `answer` in every row; MODE says how answers are compared (`math`, `exact`, `choice`,
`tool_calls`, see `s2d_lib.grading.grade`).
"""

import json
import sys
from pathlib import Path

import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from s2d_lib.grading import CorrectnessReward

model, problems, folder, *more = sys.argv[1:]
mode, steps = (*more, *("math", "100")[len(more) :])
trainer = GRPOTrainer(
    model=model,
    reward_funcs=CorrectnessReward(mode),
    train_dataset=Dataset.from_list([json.loads(line) for line in Path(problems).read_text().splitlines()]),
    args=GRPOConfig(
        folder, max_steps=int(steps), learning_rate=1e-3, per_device_train_batch_size=32, num_generations=8, logging_steps=1,
        max_completion_length=20, report_to="none", bf16=torch.cuda.is_available(), use_cpu=not torch.cuda.is_available(),
    ),
)  # fmt: skip
trainer.train()
trainer.save_model(folder)
