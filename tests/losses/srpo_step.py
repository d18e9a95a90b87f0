"""One optimiser step's losses as a trainer would ask for them, over any micro-batches; and the same in floats."""

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

from s2d_lib.losses import Head, Pair, token_log_probs
from s2d_lib.losses.srpo import (
    clamped_ratio,
    clipped_policy_loss,
    entropy_weights,
    merge_weight_sums,
    mixed_advantages,
    route,
    self_distillation,
    srpo_objective,
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
        "advantages": torch.tensor(plain_advantages(rewards, SIZE), dtype=dtype),
        "hidden": normal(n, longest, width),
        "teacher_hidden": normal(n, longest, width),
        "tokens": torch.randint(vocab, (n, longest), generator=generator),
        "mask": torch.arange(longest) < lengths[:, None],
    }
    weight, teacher_weight, drift = normal(vocab, width), normal(vocab, width), 0.5 * normal(n, longest)
    sampled = token_log_probs(batch["hidden"], Head(weight), batch["tokens"]).log_probs + drift
    return {**batch, "sampled": sampled, "weight": weight, "teacher_weight": teacher_weight}


def step(batch, method="srpo", beta=1.0, top_k=3):
    """The sum of the losses of two micro-batches of unequal size, and its gradients by hidden states and head."""
    hidden, weight = batch["hidden"].clone().requires_grad_(), batch["weight"].clone().requires_grad_()
    head, teacher_head = Head(weight), Head(batch["teacher_weight"])
    routes = route(batch["rewards"], SIZE, threshold=1, method=method)
    grpo, sdpo, scored = (z[:, None] & batch["mask"] for z in (routes.grpo, routes.sdpo, routes.scored))
    parts = slice(0, 3), slice(3, len(hidden))  # a group is cut, too: routing came before
    teacher = token_log_probs(batch["teacher_hidden"], teacher_head, batch["tokens"], mask=scored)
    sums = merge_weight_sums([weight_sums(teacher.entropy[part][sdpo[part]], beta) for part in parts])
    denominator, total = int((grpo | sdpo).sum()), 0.0
    for part in parts:
        mask, distilled = batch["mask"][part], sdpo[part]
        student = token_log_probs(hidden[part], head, batch["tokens"][part], mask=mask)
        sampled, advantages = torch.where(mask, batch["sampled"][part], 0.0), batch["advantages"][part]
        if method == "advantage_mix":
            advantages = mixed_advantages(advantages, teacher.log_probs[part], sampled, scored[part])
        policy = clipped_policy_loss(student.log_probs, advantages, sampled)
        weights = entropy_weights(teacher.entropy[part][distilled], sums, beta)
        weights = weights * clamped_ratio(student.log_probs[distilled], sampled[distilled])
        states = hidden[part][distilled], head, batch["teacher_hidden"][part][distilled], teacher_head
        of_sdpo = self_distillation(Pair(*states, weights=weights, normalizer=1), top_k=top_k).loss
        loss = srpo_objective(policy, grpo[part], of_sdpo if distilled.any() else 0.0, denominator)
        loss.backward()  # a micro-batch's graph ends here, as in a trainer
        total += loss.item()
    return total, [hidden.grad, weight.grad]


def plain_step(batch, method="srpo", beta=1.0, top_k=3, hidden=None, weight=None):
    """The objective in floats; the student may be moved by `hidden` and `weight`, its constants stay where they are."""
    rewards = batch["rewards"].tolist()
    correct = [r >= 1 for r in rewards]
    available = [j >= 0 for j in plain_siblings(correct, SIZE)]
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
            advantage = frozen["advantages"][i]
            if method == "advantage_mix":
                opinion = log_q[token] - sampled if available[i] else 0.0
                advantage = 0.9 * advantage + 0.1 * opinion
            policy_sum += plain_clipped(log_p[token], sampled, advantage)
    weights = plain_weights([h for h, _ in sdpo], beta) if sdpo else []
    sdpo_sum = sum(w * value for w, (_, value) in zip(weights, sdpo, strict=True))
    return (policy_sum + sdpo_sum) / max(count, 1)
