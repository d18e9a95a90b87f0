"""What a run reads, loaded and checked before anything is trained."""

import gc
import os
from dataclasses import dataclass, replace

import torch

from s2d_lib.errors import StudyError
from s2d_lib.models.pair import check_pair, check_words, share_vocabulary
from s2d_lib.models.policy import Policy, configure_torch, load_policy
from s2d_lib.models.sharing import check_sharing
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import Problems, load_problems
from s2d_lib.runs import FinishedRun, Run
from s2d_lib.sampling import Rollout, by_text, read_rollouts, read_traces
from s2d_lib.stages.content import keep_content
from s2d_lib.stages.live import WORKER
from s2d_lib.stages.trackers import check_tracker
from s2d_lib.stages.weights import parent_weights, starting_weights, weights_of
from s2d_lib.study import Resolved
from s2d_lib.study.resolve import refuse_too_few_problems
from s2d_lib.study.settings import Hardware, RoleModel
from s2d_lib.study.several_processes import refuse_what_is_not_shared, trains_in_several
from s2d_lib.vllm import refuse_long_prompts, refuse_what_cannot_be


@dataclass
class Inputs:
    """Everything a stage works with.

    Attributes:
        policy: The model that is trained or evaluated; of a finished run, the result.
        problems: Label pool and evaluation sets.
        teacher: The model that supplies dense targets or rollouts, where the stage has one.
        rollouts: Stored teacher rollouts, or an outside model's traces, where the stage trains on them.
        half_trained: Whether a training of the policy was interrupted: what it has become is nobody's start.
    """

    policy: Policy
    problems: Problems
    teacher: Policy | None = None
    rollouts: list[Rollout] | None = None
    half_trained: bool = False

    def drop_training(self) -> None:
        """Free what only training needed, before an evaluation whose engine may want the memory: the teacher, the gradients,
        and a trainer that has ended, whose optimiser lives in cycles of references until they are collected."""
        self.teacher = None
        self.policy.model.zero_grad(set_to_none=True)
        _hand_back()

    def leave_gpus(self) -> None:
        """Put the models into the machine's memory, while other processes want the GPUs'."""
        for policy in filter(None, (self.policy, self.teacher)):
            policy.model.to("cpu")
        _hand_back()


def _hand_back() -> None:
    """To the GPUs, what nothing refers to any more: torch would keep it for this process."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def prepare(run: Run) -> Inputs:
    """Load parents and problems and check all that can be wrong before training.

    Raises:
        StudyError: Missing, stale or broken parent run; student and teacher that do not fit; a label pool that overlaps an
            evaluation set, is smaller than one batch or can't be halved; no GPU where one is asked for; no
            package for the logging that is asked for; a stage or a batch that several processes can't share;
            sampling by vLLM that can't be; traces that are not there, or not of this pool or tokenizer; a model or problems
            that are not what they were for a run before.
    """
    with run.phase("loading"):
        return _load(run)


def _load(run: Run) -> Inputs:
    resolved = run.resolved
    refuse_what_is_not_shared(resolved)
    if trains_in_several(resolved):
        check_sharing(resolved.hardware)
    if not run.finished:
        check_tracker(resolved.logging)
        refuse_what_cannot_be(resolved)
    problems = load_problems(resolved.problems, resolved.labels)
    if WORKER not in os.environ:  # else the process that has started it knows
        keep_content(run, problems)
    if run.finished and run.path("model").is_dir():
        policy = load_policy(resolved.model, resolved.hardware, *weights_of(run))
        return Inputs(policy, problems, rollouts=_rollouts(run, policy, problems.pool))
    started = run.path("model").is_dir()  # an unfinished run goes on with its own model
    start = weights_of(run) if started else starting_weights(run)
    trains = hasattr(resolved.stage_params, "micro_batch")
    hardware = _until_trained(resolved.hardware) if trains and not started else resolved.hardware
    policy = load_policy(resolved.model, in_full(hardware) if trains else hardware, *start)
    problems = _short_prompts(resolved, policy, problems)
    if "rollouts" not in resolved.parents:  # else their number, of those that are kept, is the stage's to check
        refuse_too_few_problems(resolved, len(problems.pool))
    refuse_long_prompts(resolved, policy, problems)
    rollouts, teacher = _rollouts(run, policy, problems.pool), None
    if "teacher" in resolved.parents and resolved.stage != "teacher_rollouts":
        teacher = _teacher(run, hardware)
        rollouts = _aligned(run, policy, teacher, problems.pool, rollouts)
    return Inputs(policy, problems, teacher, rollouts)


def _rollouts(run: Run, policy: Policy, pool: list[Problem]) -> list[Rollout] | None:
    resolved = run.resolved
    if resolved.traces:
        longest = resolved.sampling.max_new_tokens
        return read_traces(resolved.traces, pool, policy, resolved.problems.instruction, longest)
    if "rollouts" not in resolved.parents:
        return None
    asked = {problem.id for problem in pool}
    return [r for r in read_rollouts(run.parent("rollouts").path("rollouts.parquet"))[0] if r.problem in asked]


def _aligned(
    run: Run, policy: Policy, teacher: Policy, pool: list[Problem], rollouts: list[Rollout] | None
) -> list[Rollout] | None:
    """The rollouts in the policy's tokens, once it and its teacher are found to fit each other as the stage needs it."""
    if share_vocabulary(policy, teacher) or not run.resolved.by_text:
        check_pair(policy, teacher)
        return rollouts
    check_words(policy, teacher, pool, stored=rollouts is not None)
    if rollouts is not None:
        given, rollouts = len(rollouts), by_text(rollouts, policy)
        run.facts["by_text"] = {"rollouts": given, "left_out": given - len(rollouts)}
    return rollouts


def _until_trained(hardware: Hardware) -> Hardware:
    """Where models lie that are going to be trained: whole, and where processes will share them not on a GPU, which may be too
    small for that."""
    if not hardware.accelerate:
        return hardware.model_copy(update={"sampling_gpus": 1})
    configure_torch(hardware)
    return hardware.model_copy(update={"device": "cpu", "sampling_gpus": 1})


def _teacher(run: Run, hardware: Hardware) -> Policy:
    # Stages of next-token loss never run the teacher, but train on its token ids or its text, which the tokenizers decide.
    needed = not run.resolved.next_token
    return load_policy(_model_of(run.parent("teacher")), hardware, *parent_weights(run, "teacher"), weights=needed)


def _model_of(parent: FinishedRun) -> RoleModel:
    return RoleModel.model_validate(parent.record["resolved"]["model"])


def in_full(hardware: Hardware) -> Hardware:
    """Weights that an optimiser updates are float32; lower precision rounds small updates away."""
    return hardware.model_copy(update={"dtype": "float32"})


def _short_prompts(resolved: Resolved, policy: Policy, problems: Problems) -> Problems:
    """The problems without those of the pool whose prompt is longer than the stage takes: counted in the report, and said."""
    limit = getattr(resolved.stage_params, "max_prompt_tokens", None)
    if limit is None:
        return problems
    prompts = policy.prompt_ids(problems.pool)
    kept = [problem for problem, ids in zip(problems.pool, prompts, strict=True) if len(ids) <= limit]
    dropped = len(prompts) - len(kept)
    if dropped and not kept:
        raise StudyError(
            f"the prompts of all {dropped} problems of the label pool are longer than the {limit} tokens that "
            f"{resolved.stage} takes: raise max_prompt_tokens."
        )
    if dropped:
        print(f"{dropped} of {len(prompts)} problems are left out: their prompts are longer than {limit} tokens.")
    return replace(problems, pool=kept, report=problems.report | {"longer_prompts": dropped})
