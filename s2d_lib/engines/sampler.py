"""Who samples a run's evaluation or its rollouts: transformers, or vLLM over the same weights, checked."""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from functools import partial

from s2d_lib.engines.answers import Engine, Request, room_for
from s2d_lib.engines.colocated import Colocated
from s2d_lib.engines.greedy import PROBLEMS, TOLERANCE, TOP, Comparison, compare, refuse_desync
from s2d_lib.engines.refusals import names
from s2d_lib.engines.server import Server
from s2d_lib.errors import StudyError
from s2d_lib.policies.policy import Policy
from s2d_lib.problems.base import Problem
from s2d_lib.rollouts import Rollout, sample
from s2d_lib.runs import Run
from s2d_lib.study import derive_seed
from s2d_lib.study.settings import Decoding, Sampling
from s2d_lib.study.vllm import CHECK_TOKENS, Use

Sample = Callable[..., list[Rollout]]  # as s2d_lib.rollouts.sample, its policy given


@contextlib.contextmanager
def sampler(run: Run, policy: Policy, use: Use, problems: Sequence[Problem]) -> Iterator[Sample]:
    """Something that samples the policy, as `s2d_lib.rollouts.sample` does.

    With vLLM an engine is started and checked on the first of the problems; a server, whose weights others may change, is
    checked once more in the end. The record keeps version and check.

    Args:
        run: Whose sampling says which engine.
        policy: Who answers.
        use: What for.
        problems: All that is going to be asked, which says how long a sequence an engine needs room for; it is checked on the
            first of them.

    Raises:
        StudyError: The engine can't be started or reached, or does not hold the policy's weights.
    """
    resolved = run.resolved
    options = resolved.sampling.by_vllm(use)
    if options is None:
        yield partial(sample, policy)
        return
    if options.mode == "server":
        engine = Server(options, policy.tokenizer.eos_token_id)
        engine.refuse_another_model(names(resolved, policy.model.name_or_path, run.path("model"), run.final / "model"))
    else:
        sampling, prompts = resolved.sampling, policy.prompt_ids(problems)
        context = room_for(options, policy, prompts, sampling.max_new_tokens)
        room = {"batch": sampling.batch, "context": context}
        engine = Colocated(policy, options, resolved.hardware, **room, place=run.path(".engine"))
    try:
        found = checked(engine, policy, problems, about=repr(resolved.checkpoint), tolerance=options.tolerance)
        yield partial(sample_by, engine, policy)
        if options.mode == "server":
            checked(engine, policy, problems, about=repr(resolved.checkpoint), tolerance=options.tolerance)
    finally:
        engine.close()
    said = {"version": engine.version, "check": {"tokens": found.tokens, "ties": found.ties, "drift": found.drift}}
    if not run.finished:
        run.remember(vllm=run.facts.get("vllm", {}) | {use: said})


def checked(
    engine: Engine, policy: Policy, problems: Sequence[Problem], *, about: str, tolerance: float | None = None
) -> Comparison:
    """The greedy-token check of an engine against the policy in memory (s2d_lib.engines.greedy).

    Args:
        engine: What is checked.
        policy: What it should hold.
        problems: Of which the first few are asked.
        about: Whose weights, for the sentence.
        tolerance: Nats; by the engine's precision if None.

    Raises:
        StudyError: The engine holds other weights.
    """
    found, tolerance = compared(engine, policy, problems, tolerance=tolerance)
    refuse_found(found, tolerance, policy, problems, about=about)
    return found


def compared(
    engine: Engine, policy: Policy, problems: Sequence[Problem], *, tolerance: float | None = None
) -> tuple[Comparison, float]:
    """What the check sees, as `checked`, and the tolerance (nats) with which it looks; nothing is refused."""
    prompts = policy.prompt_ids(problems[:PROBLEMS])
    tolerance = tolerance_of(engine.dtype, str(policy.model.dtype).removeprefix("torch."), given=tolerance)
    answers = [one[0] for one in engine.answer(prompts, Request(samples=1, max_new_tokens=CHECK_TOKENS, top=TOP))]
    eos = policy.tokenizer.eos_token_id
    return compare(policy.model, prompts, answers, eos=eos, tokens=CHECK_TOKENS, tolerance=tolerance), tolerance


def refuse_found(
    found: Comparison, tolerance: float, policy: Policy, problems: Sequence[Problem], *, about: str
) -> None:
    """Refuse an engine by what `compared` saw.

    Raises:
        StudyError: It holds other weights than the policy.
    """
    refuse_desync(found, tolerance, about=about, problems=[p.id for p in problems], decode=policy.tokenizer.decode)


def tolerance_of(*dtypes: str, given: float | None = None) -> float:
    """The tolerance of the check, by the coarsest precision that takes part, if none is given."""
    return max(TOLERANCE.get(dtype, max(TOLERANCE.values())) for dtype in dtypes) if given is None else given


def sample_by(
    engine: Engine,
    policy: Policy,
    problems: Sequence[Problem],
    *,
    samples: int,
    sampling: Sampling,
    seed: int,
    decoding: Decoding | None = None,
    about: str = "sampling",
    show: bool = True,
) -> list[Rollout]:
    """`samples` independent completions of every problem by an engine, as `s2d_lib.rollouts.sample` returns them.

    A problem's completions have a seed of their own, from `seed` and the problem's id: they do not depend on what else is
    asked. The arguments are those of `sample`; the bytes are others than transformers would sample from the same seed.
    """
    prompts, how = policy.prompt_ids(problems), decoding or sampling
    request = Request(
        samples=samples,
        max_new_tokens=sampling.max_new_tokens,
        temperature=how.temperature,
        top_p=how.top_p,
        top_k=how.top_k or 0,
        seeds=[derive_seed(seed, p.id) for p in problems],
    )
    answers = engine.answer(prompts, request, show=show, about=about)
    rollouts, eos = [], policy.tokenizer.eos_token_id
    for problem, own in zip(problems, answers, strict=True):
        ids = [answer.ids for answer in own]
        if not all(ids):
            raise StudyError(f"vLLM answered problem {problem.id!r} with no token at all: it can't be sampled with it.")
        for i, (one, text) in enumerate(zip(ids, policy.decode(ids), strict=True)):
            rollouts.append(Rollout(problem.id, i, tuple(one), text, one[-1] == eos))
    return rollouts
