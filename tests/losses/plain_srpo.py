"""SDPO and SRPO from their formulas, in loops over Python floats: nothing of s2d_lib and no tensors in here."""

import math

SIZE = 4  # rollouts of one group


def plain_siblings(correct, size):
    """Index of the next correct rollout of the same group, going round; -1 without one."""
    siblings = []
    for i in range(len(correct)):
        start, sibling = i - i % size, -1
        for step in range(1, size):
            j = start + (i - start + step) % size
            if correct[j]:
                sibling = j
                break
        siblings.append(sibling)
    return siblings


def plain_log_probs(hidden, weight, temperature=1.0):
    """Log-probabilities of the vocabulary from one token's hidden state (H) and a head (V, H)."""
    logits = [sum(h * w for h, w in zip(hidden, row, strict=True)) / temperature for row in weight]
    highest = max(logits)
    normaliser = highest + math.log(sum(math.exp(z - highest) for z in logits))
    return [z - normaliser for z in logits]


def plain_entropy(log_probs):
    return -sum(math.exp(x) * x for x in log_probs)


def plain_kl(log_a, log_b):
    return sum(math.exp(a) * (a - b) for a, b in zip(log_a, log_b, strict=True))


def plain_divergence(log_p, log_q, beta, top_k=None):
    """Divergence of student p and teacher q over p's k most likely tokens and a tail."""
    if top_k is not None and top_k < len(log_p):
        order = sorted(range(len(log_p)), key=lambda v: -log_p[v])
        log_p, log_q = (
            [x[v] for v in order[:top_k]] + [math.log(sum(math.exp(x[v]) for v in order[top_k:]))]
            for x in (log_p, log_q)
        )
    if beta == 0:
        return plain_kl(log_q, log_p)
    if beta == 1:
        return plain_kl(log_p, log_q)
    log_m = [math.log((1 - beta) * math.exp(p) + beta * math.exp(q)) for p, q in zip(log_p, log_q, strict=True)]
    return beta * plain_kl(log_q, log_m) + (1 - beta) * plain_kl(log_p, log_m)


def plain_advantages(rewards, size):
    """Rewards less their group's mean, over its standard deviation (n - 1) plus 1e-4, as TRL's."""
    advantages = []
    for start in range(0, len(rewards), size):
        group = rewards[start : start + size]
        mean = sum(group) / size
        spread = math.sqrt(sum((reward - mean) ** 2 for reward in group) / (size - 1))
        advantages += [(reward - mean) / (spread + 1e-4) for reward in group]
    return advantages


def plain_clipped(log_prob, sampled, advantage, low=0.2, high=0.28):
    ratio = math.exp(log_prob - sampled)
    clipped = min(max(ratio, 1 - low), 1 + high)
    return -min(ratio * advantage, clipped * advantage)


def plain_ratio(log_prob, sampled, clamp=2.0):
    return min(math.exp(min(max(log_prob - sampled, -20.0), 20.0)), clamp)


def plain_weights(entropies, beta):
    """Weights of all SDPO tokens of a batch, averaging 1."""
    raw = [math.exp(-beta * h) for h in entropies]
    mean = sum(raw) / len(raw)
    return [w / mean for w in raw]


def plain_step(batch, method="srpo", beta=1.0, top_k=3, hidden=None, weight=None):
    """The objective of `test_srpo.make_batch`; `hidden` and `weight` may move the student, whose constants stay."""
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
