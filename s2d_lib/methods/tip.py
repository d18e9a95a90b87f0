"""TIP (arXiv 2604.14084): OPD on the tokens that tell most, where the student is unsure or, sure of itself, far from the teacher.

Of every micro-batch a share of the tokens is learned, those with the highest 1 - (1 - h)(1 - d): h is the student's entropy and d
the divergence, both as parts of their largest value there. That is our reading of the paper's "or"; it saves no memory here.
"""

from pydantic import Field

from s2d_lib.study.stage_params import Distillation, like


class Tip(Distillation):
    """OPD on a share of the tokens."""

    share: float = Field(0.5, gt=0, le=1)  # of a micro-batch's tokens

    def _refusals(self):
        yield from super()._refusals()
        yield self.estimator != "full", "tip chooses tokens by the divergence over the whole vocabulary: estimator full"


STAGE = like("opd", Tip)
CHECKPOINTS = {
    "student.tip.rl_teacher": {
        "stage": "tip",
        "from": "student",
        "teacher": "teacher.rl",
        "labels": "full",
        "steps_of": ["forward_kl", "opd"],  # as many as OPD only and the bridge
        "about": "OPD on half of the tokens, as many steps as OPD only",
    }
}


def train(run, inputs):
    """Train `inputs.policy` towards `inputs.teacher` on the share of the tokens that tells most."""
    import torch

    from s2d_lib.losses import linear_divergence
    from s2d_lib.stages.dense import distill

    params = run.resolved.stage_params

    def divergence(pair, tokens):
        with torch.no_grad():
            found = linear_divergence(pair, params.beta)
        chosen = telling(found.entropy, found.per_token, round(params.share * pair.kept.n))
        return linear_divergence(pair.weighted(chosen / params.share), params.beta)

    return distill(run, inputs, divergence=divergence)


def telling(entropy, divergence, number):
    """1 for the `number` of tokens (...) that tell most, at least one, else 0, by entropy and divergence in nats, both 0 where
    masked."""
    unsure, apart = (values / values.max().clamp(min=1e-9) for values in (entropy, divergence))
    score = 1 - (1 - unsure) * (1 - apart)
    highest = score.flatten().topk(max(1, number)).indices
    return score.new_zeros(score.numel()).index_fill(0, highest, 1.0).view_as(score)
