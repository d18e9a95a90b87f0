"""One optimiser step's losses as a trainer would ask for them, over any micro-batches; and the same in floats."""

import itertools

import torch
from plain_srpo import (
    plain_advantages,
    plain_clipped,
    plain_divergence,
    plain_entropy,
    plain_log_probs,
    plain_ratio,
    plain_siblings,
    plain_weights,
)

from s2d_lib.losses import (
    clamped_ratio,
    clipped_policy_loss,
    entropy_weights,
    group_advantages,
    merge_weight_sums,
    mixed_advantages,
    route,
    routed_masks,
    self_distillation,
    srpo_objective,
    token_log_probs,
    weight_sums,
)

SIZE = 4  # rollouts of one group


def make_batch(rewards, longest=5, width=3, vocab=6, *, dtype=torch.float64, seed=0):
    """Rollouts of different lengths with both models' hidden states, as a dict of tensors."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*size):
        return torch.randn(*size, generator=generator, dtype=torch.float64).to(dtype)

    n = len(rewards)
    lengths = torch.randint(1, longest + 1, (n,), generator=generator)
    batch = {
        "rewards": torch.tensor(rewards, dtype=dtype),
        "hidden": normal(n, longest, width),
        "teacher_hidden": normal(n, longest, width),
        "tokens": torch.randint(vocab, (n, longest), generator=generator),
        "mask": torch.arange(longest) < lengths[:, None],
    }
    weight, teacher_weight, drift = normal(vocab, width), normal(vocab, width), 0.5 * normal(n, longest)
    with torch.no_grad():
        sampled = token_log_probs(batch["hidden"], weight, batch["tokens"]).log_probs + drift
    return {**batch, "sampled": sampled, "weight": weight, "teacher_weight": teacher_weight}


def step(batch, method="srpo", cuts=None, beta=1.0, scale="group", top_k=3, own_denominator=False):
    """Losses of the micro-batches between `cuts`, and the gradients of their sum by hidden states and head.

    `own_denominator`: what is wrong: each micro-batch by its own tokens, and then the mean over micro-batches.
    """
    hidden, weight = batch["hidden"].clone().requires_grad_(), batch["weight"].clone().requires_grad_()
    routes = route(batch["rewards"], SIZE, threshold=1, method=method)
    advantages = group_advantages(batch["rewards"], SIZE, scale)
    grpo_mask, sdpo_mask = routed_masks(routes.grpo, routes.sdpo, batch["mask"])
    cuts = cuts or [0, len(routes.sdpo)]
    parts = [slice(a, b) for a, b in itertools.pairwise(cuts)]
    with torch.no_grad():
        scored = routes.scored[:, None] & batch["mask"]
        teacher = token_log_probs(batch["teacher_hidden"], batch["teacher_weight"], batch["tokens"], mask=scored)
    sums = merge_weight_sums([weight_sums(teacher.entropy[part], sdpo_mask[part], beta) for part in parts])
    denominator = (grpo_mask | sdpo_mask).sum()
    losses = []
    for part in parts:
        sampled = batch["sampled"][part]
        student = token_log_probs(hidden[part], weight, batch["tokens"][part], mask=batch["mask"][part])
        mine = advantages[part]
        if method == "advantage_mix":
            mine = mixed_advantages(mine, teacher.log_probs[part], sampled, scored[part])
        policy = clipped_policy_loss(student.log_probs, mine, torch.where(batch["mask"][part], sampled, 0.0))
        weights = entropy_weights(teacher.entropy[part], sdpo_mask[part], sums, beta)
        weights = weights * clamped_ratio(student.log_probs, sampled)
        models = hidden[part], weight, batch["teacher_hidden"][part], batch["teacher_weight"]
        sdpo = 0.0
        if method != "grpo":
            sdpo = self_distillation(*models, weights=weights, top_k=top_k, mask=sdpo_mask[part], normalizer=1).loss
        if own_denominator:
            denominator = (grpo_mask | sdpo_mask)[part].sum() * len(parts)
        loss = srpo_objective(policy, grpo_mask[part], sdpo, denominator)
        loss.backward()  # a micro-batch's graph ends here, as in a trainer
        losses.append(loss.detach())
    return torch.stack(losses), [hidden.grad, weight.grad]


def plain_step(batch, method="srpo", beta=1.0, scale="group", top_k=3, hidden=None, weight=None):
    """The objective in floats; the student may be moved by `hidden` and `weight`, its constants stay where they are."""
    rewards = batch["rewards"].tolist()
    correct = [r >= 1 for r in rewards]
    available = [j >= 0 for j in plain_siblings(correct, SIZE)]
    advantages = plain_advantages(rewards, SIZE, scale)
    frozen = {k: v.tolist() for k, v in batch.items()}
    hidden, weight = hidden or frozen["hidden"], weight or frozen["weight"]
    policy_sum, sdpo, count = 0.0, [], 0
    for i in range(len(rewards)):
        distilled = available[i] and (method == "sdpo" or (method == "srpo" and not correct[i]))
        for t, token in enumerate(frozen["tokens"][i]):
            if not frozen["mask"][i][t] or (method == "sdpo" and not distilled):
                continue
            count += 1
            log_p = plain_log_probs(hidden[i][t], weight)
            log_q = plain_log_probs(frozen["teacher_hidden"][i][t], frozen["teacher_weight"])
            sampled = frozen["sampled"][i][t]
            if distilled:
                now = plain_log_probs(frozen["hidden"][i][t], frozen["weight"])[token]
                value = plain_ratio(now, sampled) * plain_divergence(log_p, log_q, 0.5, top_k)
                sdpo.append((plain_entropy(log_q), value))
                continue
            advantage = advantages[i]
            if method == "advantage_mix":
                opinion = log_q[token] - sampled if available[i] else 0.0
                advantage = 0.9 * advantage + 0.1 * opinion
            policy_sum += plain_clipped(log_p[token], sampled, advantage)
    weights = plain_weights([h for h, _ in sdpo], beta) if sdpo else []
    sdpo_sum = sum(w * value for w, (_, value) in zip(weights, sdpo, strict=True))
    return (policy_sum + sdpo_sum) / max(count, 1)
