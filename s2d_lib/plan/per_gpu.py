"""What each GPU of a run holds, by part, where it holds most."""

from collections.abc import Sequence

from s2d_lib.plan.memory import RESERVE
from s2d_lib.plan.phases import Phase

STATE = ("weights", "teacher", "gradients", "optimiser")
HELD = (*STATE, "copies", "gathered", "moment", "engine", "reserve")
"""The parts, in bytes; `moment` is the largest of what comes and goes: activations, KV cache, validation."""


def fullest(phases: Sequence[Phase], memory: float) -> Phase:
    """The phase that takes most of a GPU of `memory` bytes, vLLM's share included; the first of equals."""
    return max(phases, key=lambda phase: phase.each + phase.memory.engine_share * memory)


def held_by_each(phase: Phase, memory: float) -> dict[str, float]:
    """Bytes by HELD that a phase takes of each of its GPUs of `memory` bytes: vLLM's share and the reserve beside what adds up
    to `Phase.each`."""
    found, spread = phase.memory, phase.shared and phase.gpus > 1
    share = (0.0 if found.on_host else 1 / phase.gpus) if spread else 1.0
    return {
        **{part: share * getattr(found, part) for part in STATE},
        "copies": 0.0 if spread else found.copies,
        "gathered": found.gathered if spread else 0.0,
        "moment": max(_come_and_go(phase).values()),
        "engine": found.engine_share * memory,
        "reserve": RESERVE * memory,
    }


def moment_of(phase: Phase) -> str:
    """The name of what comes and goes and is largest; empty where nothing does."""
    parts = _come_and_go(phase)
    return max(parts, key=parts.get) if any(parts.values()) else ""


def _come_and_go(phase: Phase) -> dict[str, float]:
    """Updates, sampling and validation take turns, so a GPU needs room for the largest."""
    found = phase.memory
    return {"activations": found.activations, "KV cache": found.kv_cache / phase.gpus, "validation": found.validation}
