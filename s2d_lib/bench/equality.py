"""Is paper B's trainer what it says to be? Beside TRL's trainers, and in two processes beside one, on the same rollouts.

GRPO must be TRL's GRPO. SDPO must be TRL's experimental SDPO but for the denominator: TRL takes the mean over all rollouts of
their tokens' means, so that rollouts without a self-teacher dilute it, and this one the mean over the routed tokens.
"""

import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import torch
from tqdm.auto import tqdm
from transformers import PrinterCallback, Trainer

from s2d_lib.bench.accumulation import KeepGradient
from s2d_lib.bench.self_distillation import CONTENDERS, prepared
from s2d_lib.errors import StudyError
from s2d_lib.stages.self_distillation import self_distillation_trainer
from s2d_lib.stages.self_distillation_trainer import SelfDistillationTrainer
from s2d_lib.study.load import deep_merge
from s2d_lib.study.stage_params import METHODS


def equality_errors(overrides: dict | None = None, methods: Sequence[str] = METHODS) -> pd.DataFrame:
    """Relative differences of the first optimiser step's losses and gradients.

    Args:
        overrides: Of the profile.
        methods: Which take their step in two processes.

    Returns:
        One row a comparison: `method`, `compared`, `loss`, `other_loss`, `loss_error`, `gradient_error`.
    """
    given = overrides or {}
    rows = [_grpo_beside_trl(given), *_sdpo_beside_trl(given)]
    rows += [
        _two_processes(method, given) for method in tqdm(methods, desc="two processes", unit="method", leave=False)
    ]
    return pd.DataFrame(rows)


def _row(method: str, compared: str, losses: tuple[float, float], vectors: tuple[torch.Tensor, torch.Tensor]) -> dict:
    (mine, other), (own, theirs) = losses, vectors
    errors = {
        "loss_error": abs(mine - other) / abs(other),
        "gradient_error": ((own - theirs).norm() / theirs.norm()).item(),
    }
    return {"method": method, "compared": compared, "loss": mine, "other_loss": other, **errors}


def _one_step(overrides: dict, **changes) -> dict:
    own = {"steps": 1, "warmup_steps": 0, "max_grad_norm": 1e9} | changes
    return deep_merge(overrides, {"stages": {"self_distillation": own}})


def _loss(trainer: Trainer) -> float:
    return next(row["loss"] for row in trainer.state.log_history if "loss" in row)


def _grpo_beside_trl(overrides: dict) -> dict:
    losses, gradients = [], []
    for name in ("grpo, s2d", "GRPO, TRL"):
        kept = KeepGradient()
        with tempfile.TemporaryDirectory() as folder:
            trainer = CONTENDERS[name](Path(folder), _one_step(overrides))
            trainer.add_callback(kept)
            _train(trainer)
        losses.append(_loss(trainer))
        gradients.append(kept.gradient)
    return _row("grpo", "TRL's GRPOTrainer", tuple(losses), tuple(gradients))


class _KeepsBatch(SelfDistillationTrainer):
    def _compute_loss(self, model, inputs):
        self.batch = dict(inputs)
        return super()._compute_loss(model, inputs)


def _sdpo_beside_trl(overrides: dict) -> list[dict]:
    given, kept = _one_step(overrides), KeepGradient()
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryDirectory() as other:
        ours = CONTENDERS["sdpo, s2d"](Path(folder), given)
        ours.__class__ = _KeepsBatch
        ours.add_callback(kept)
        _train(ours)
        theirs = CONTENDERS["SDPO, TRL"](Path(other), given)
    loss = _loss(ours)
    model, batch = theirs.model.train(), ours.batch
    shared = {name: batch[name] for name in ("prompt_ids", "prompt_mask", "completion_ids", "completion_mask")} | {
        # What is not routed has no reprompt here; it is masked on both sides
        "teacher_input_ids": torch.cat([batch["teacher_prompt_ids"], batch["completion_ids"]], 1),
        "teacher_attention_mask": torch.cat([batch["teacher_prompt_mask"], batch["completion_mask"]], 1),
    }

    def trls(mask: torch.Tensor) -> torch.Tensor:
        chosen = shared | {"self_distillation_mask": mask.float()}
        logits = theirs._compute_teacher_student_logits(model, model, chosen)
        return theirs._compute_self_distillation_loss(model, chosen, logits)

    found = []
    rollouts, lengths = len(batch["sdpo"]), batch["sdpo_mask"].sum(1)
    diluted = trls(batch["sdpo"])
    # At this denominator: each rollout by its share of the routed tokens
    rows = torch.eye(rollouts)[batch["sdpo"].cpu()]
    weighed = sum(trls(row) * rollouts * length for row, length in zip(rows, lengths[batch["sdpo"]], strict=True))
    for name, value in (("at this denominator", weighed / lengths.sum()), ("as it is", diluted)):
        model.zero_grad()
        value.backward(retain_graph=True)
        gradient = torch.cat([p.grad.flatten() for p in model.parameters()])
        found.append(_row("sdpo", f"TRL's SDPOTrainer, {name}", (loss, value.item()), (kept.gradient, gradient)))
    return found


def _two_processes(method: str, overrides: dict) -> dict:
    """One step on given rollouts in two processes (gloo), each with half of them, beside the step in one."""
    batch = prepared(Path(), overrides, method)[0].resolved.stage_params.batch
    given = _one_step(overrides, micro_batch=batch // 2)
    with tempfile.TemporaryDirectory() as folder:
        one = _step(method, given, Path(folder), None)
        shared = deep_merge(given, {"hardware": {"processes": 2}})
        torch.save({"overrides": shared, "completions": one["completions"]}, Path(folder) / "given.pt")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        world = os.environ | {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": "2"}
        command = [sys.executable, "-m", "s2d_lib.bench.equality", folder, method]
        ranks = [
            subprocess.Popen(
                command,
                env=world | {"RANK": str(r), "LOCAL_RANK": str(r)},
                stderr=subprocess.PIPE,
                encoding="utf-8",
            )
            for r in range(2)
        ]
        for process in ranks:
            _, errors = process.communicate(timeout=600)
            if process.returncode:
                raise StudyError(f"a process of {method} failed: {errors[-400:]}")
        two = torch.load(Path(folder) / "two.pt")
    return _row(method, "two processes", (two["loss"], one["loss"]), (two["gradient"], one["gradient"]))


def _step(method: str, overrides: dict, folder: Path, completions: list | None) -> dict:
    """The first step of a method, on given completions of the whole batch or on its own; with what it sampled."""
    kept, sampled = KeepGradient(), []
    place = folder / f"of process {os.environ.get('RANK', 'one')}"
    place.mkdir()
    trainer = self_distillation_trainer(*prepared(place, overrides, method))
    own = trainer._generate_single_turn

    def turn(prompt_ids, *arguments, **options):
        if completions is None:
            found = own(prompt_ids, *arguments, **options)
        else:
            first = trainer.accelerator.process_index * len(prompt_ids)
            found = completions[first : first + len(prompt_ids)], None
        sampled.extend(found[0])
        return found

    trainer._generate_single_turn = turn
    trainer.add_callback(kept)
    _train(trainer)
    first = trainer.accelerator.process_index == 0
    return {"loss": _loss(trainer), "gradient": kept.gradient, "completions": sampled, "first": first}


def _train(trainer: Trainer) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.train()


def _main(folder: Path, method: str) -> None:
    """One of two processes."""
    torch.set_num_threads(1)
    given = torch.load(folder / "given.pt")
    found = _step(method, given["overrides"], folder, given["completions"])
    if found.pop("first"):
        torch.save(found, folder / "two.pt")


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2])
