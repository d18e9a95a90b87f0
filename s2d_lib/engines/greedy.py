"""The greedy-token check: does an engine hold the weights that transformers holds?

vLLM answers a few prompts greedily; transformers reads each prompt and answer in one pass and says how much less likely
than its own first choice every token is. An engine with the same weights says transformers' tokens, ties aside, and has the
same log-probabilities of them and of the tokens behind them. An engine with other weights betrays itself by these even where
they have changed too little for another token to come first; the tokens behind tell most, since a sure model's first choice
has a log-probability of about 0 before and after an update.

In half precision an update may be smaller than the rounding in which both sides differ. From check to check there is a finer
sign (`Movement`): what transformers says of the same answers has moved, and what the engine says of them has not. Rounding
makes an engine's numbers move more, hardly ever less, so that one in sync does not look like one that has missed its update.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from s2d_lib.engines.answers import Answer
from s2d_lib.errors import StudyError

PROBLEMS = 4  # asked in a check
TOP = 5  # most likely tokens whose log-probabilities are compared at each of them
# Nats by which a token may be less likely than transformers' first choice, for it to be a tie that rounding has decided.
TOLERANCE = {"float32": 4e-4, "float16": 0.05, "bfloat16": 0.25}
MEAN = 0.25  # of the tolerance: how far the tokens' log-probabilities may lie apart on the mean
REMEDY = "nothing that it samples may be used; give it these weights (a fresh engine, a restarted server)"
MOVED = 0.04  # of the tolerance: how far transformers' must have moved on the mean for the engine's to be looked at
STILL = 0.25  # of how far transformers' have moved: an engine whose own have moved less has missed an update


@dataclass(frozen=True)
class Comparison:
    """An engine's greedy answers against transformers.

    Attributes:
        tokens: Compared.
        ties: Of them not transformers' first choice, but within the tolerance of it.
        drift: Mean absolute difference of the log-probabilities that the engine gave, nats.
        parted: The first token that is beyond the tolerance: answer, position, engine's token, transformers' token, nats
            between them; None where there is none.
        ids: The engine's answers.
        log_probs: The engine's log-probability and transformers', by answer, position and token.
    """

    tokens: int
    ties: int
    drift: float
    parted: tuple[int, int, int, int, float] | None = None
    ids: list[list[int]] = field(default_factory=list, repr=False)
    log_probs: dict[tuple[int, int, int], tuple[float, float]] = field(default_factory=dict, repr=False)


@torch.no_grad()
def compare(
    model: nn.Module,
    prompts: Sequence[list[int]],
    answers: Sequence[Answer],
    *,
    eos: int,
    tokens: int,
    tolerance: float,
) -> Comparison:
    """Compare greedy answers with what transformers would have said.

    Args:
        model: The weights that the engine should hold; a causal language model of transformers, maybe wrapped.
        prompts: Token ids.
        answers: The engine's, one for each prompt.
        eos: The token that ends an answer.
        tokens: Length limit of the answers.
        tolerance: Nats within which tokens are tied.

    Raises:
        StudyError: An answer is empty, goes on after its end, or ends before it.
    """
    device, was_training = next(model.parameters()).device, model.training
    model.eval()
    compared, ties, both, parted = 0, 0, {}, None
    try:
        for number, (prompt, answer) in enumerate(zip(prompts, answers, strict=True)):
            _refuse_shape(answer.ids, eos, tokens)
            ids, said = torch.tensor([[*prompt, *answer.ids]], device=device), torch.tensor(answer.ids, device=device)
            # One row at a time: no padding, so that nothing but the weights can make a difference.
            logits = model(input_ids=ids, use_cache=False, logits_to_keep=len(said) + 1).logits[0, :-1]
            log_probs = logits.float().log_softmax(-1)
            first, own = log_probs.max(-1)
            given = log_probs.gather(-1, said[:, None]).squeeze(-1)
            compared += len(said)
            for at, (here, theirs) in enumerate(zip(log_probs, answer.log_probs, strict=True)):
                pairs = zip(theirs.values(), here[list(theirs)].tolist(), strict=True)
                both |= {(number, at, token): pair for token, pair in zip(theirs, pairs, strict=True)}
            ties += int(((own != said) & (first - given <= tolerance)).sum())
            beyond = (first - given > tolerance).nonzero()
            if parted is None and len(beyond):
                at = int(beyond[0])
                parted = (number, at, int(said[at]), int(own[at]), float(first[at] - given[at]))
    finally:
        model.train(was_training)
    drift = sum(abs(theirs - here) for theirs, here in both.values()) / len(both)
    return Comparison(compared, ties, drift, parted, [answer.ids for answer in answers], both)


def _refuse_shape(ids: list[int], eos: int, tokens: int) -> None:
    ended = bool(ids) and ids[-1] == eos
    if not ids or eos in ids[:-1] or len(ids) > tokens or (len(ids) < tokens and not ended):
        raise StudyError(
            f"vLLM answered with {len(ids)} tokens of at most {tokens}, which do not end where the policy's EOS ({eos}) says: "
            "it serves another model, or stops at other tokens."
        )


def refuse_desync(found: Comparison, tolerance: float, *, about: str, problems: Sequence[str], decode) -> None:
    """Refuse an engine whose weights are not transformers'.

    Args:
        found: How they compare.
        tolerance: With which they were compared.
        about: Whose weights, for the sentence.
        problems: Ids of the problems that were asked.
        decode: From token ids to text.

    Raises:
        StudyError: It names the first problem and token at which they part.
    """
    if found.parted is not None:
        number, at, said, own, nats = found.parted
        raise StudyError(
            f"vLLM does not hold the weights of {about}: at problem {problems[number]!r}, token {at + 1} of its greedy answer, "
            f"it says {decode([said])!r} where transformers says {decode([own])!r}, {nats:.3g} nats more likely (tolerance "
            f"{tolerance:g}); {REMEDY}."
        )
    # Written so that NaN is refused too
    if not found.drift <= MEAN * tolerance:
        raise StudyError(
            f"vLLM does not hold the weights of {about}: its greedy tokens, from problem {problems[0]!r} on, are "
            f"transformers' but the log-probabilities lie {found.drift:.3g} nats apart on the mean (tolerance "
            f"{MEAN * tolerance:g}); {REMEDY}."
        )


class Movement:
    """Whether an engine's log-probabilities move as transformers' do, from check to check on the same prompts.

    Checks are held against the last one after which both had moved, so that updates too small to be seen add up.
    """

    def __init__(self):
        self.before: Comparison | None = None

    def refuse_standstill(self, found: Comparison, tolerance: float, *, about: str) -> None:
        """Take a check, and refuse an engine that still is where it was when transformers has moved.

        Args:
            found: How they compare after an update.
            tolerance: With which they were compared.
            about: Whose weights, for the sentence.

        Raises:
            StudyError: The engine has missed an update.
        """
        before, self.before = self.before, found
        if before is None or before.ids != found.ids:  # other answers: it has moved
            return
        same = before.log_probs.keys() & found.log_probs.keys()
        moves = [
            [abs(after - was) for was, after in zip(before.log_probs[k], found.log_probs[k], strict=True)] for k in same
        ]
        engines, own = (sum(side) / len(same) for side in zip(*moves, strict=True))
        if own < MOVED * tolerance:
            self.before = before
        elif engines < STILL * own:
            raise StudyError(
                f"vLLM does not hold the weights of {about}: since an earlier check transformers' log-probabilities of its "
                f"greedy answers have moved by {own:.3g} nats on the mean, its own by {engines:.3g}, so an update did not "
                f"arrive; {REMEDY}."
            )
