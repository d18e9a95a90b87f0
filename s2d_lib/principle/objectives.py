"""The two ends of Paper A's objective, computed exactly on a tree, and their gradients.

Sparse end: E_y[r(y)] - tau * KL(p || p_ref), one number per sequence. Dense end: maximum-entropy RL with the token
reward log p_T(y_t | s_t), a number at every token. Paper A ("One objective, two ends", Eq. 2) says that the second is
minus the reverse KL to the teacher; with the tilted policy p* as the teacher both have the same optimum.
Shapes as in `tree`; rewards r are [..., N] (one per sequence), temperatures tau in units of reward per nat.
"""

import numpy as np

from .tree import Array, Tree, expected_return, log_sum_exp, sequence_log_probs, visitation


def soft_values(tree: Tree, log_ref: Array, reward: Array, temperature: float) -> list[Array]:
    """Soft values, level by level: entry t is [..., V^t], entry T is the reward itself.

    V(s) = tau * log sum_a p_ref(a|s) exp(V(s a) / tau) with V(y) = r(y): the best reachable E[r] - tau*KL from s on.
    The value of the root is tau * log Z.
    """
    values = [reward]
    for t in reversed(range(tree.depth)):
        below = values[0].reshape(*values[0].shape[:-1], -1, tree.vocabulary_size)
        values.insert(0, temperature * log_sum_exp(log_ref[..., tree.level(t), :] + below / temperature))
    return values


def tilted_policy(tree: Tree, log_ref: Array, reward: Array, temperature: float) -> Array:
    """[..., S, V] the sparse end's optimum p*(y) ~ p_ref(y) exp(r(y) / tau), as per-state conditionals.

    log p*(a|s) = log p_ref(a|s) + (V(s a) - V(s)) / tau: the tilt by a whole-sequence reward, paid out token by token.
    """
    values = soft_values(tree, log_ref, reward, temperature)
    rows = [
        log_ref[..., tree.level(t), :]
        + (values[t + 1].reshape(*values[t].shape, tree.vocabulary_size) - values[t][..., None]) / temperature
        for t in range(tree.depth)
    ]
    return np.concatenate(rows, -2)


def sequence_kl(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[...] KL(p || q) in nats, summed over all N sequences."""
    log_py = sequence_log_probs(tree, log_p)
    return (np.exp(log_py) * (log_py - sequence_log_probs(tree, log_q))).sum(-1)


def token_kl(log_p: Array, log_q: Array) -> Array:
    """[..., S] KL(p(.|s) || q(.|s)) in nats over the full vocabulary, at every state."""
    return np.einsum("...v,...v->...", np.exp(log_p), log_p - log_q)


def visited_kl(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[...] E_{s~p}[sum_t KL(p(.|s_t) || q(.|s_t))] in nats: OPD's loss, the negative right side of Paper A's Eq. 2."""
    return (visitation(tree, log_p) * token_kl(log_p, log_q)).sum(-1)


def sparse_objective(tree: Tree, log_p: Array, log_ref: Array, reward: Array, temperature: float) -> Array:
    """[...] E_y[r(y)] - tau * KL(p || p_ref), in units of reward."""
    log_py = sequence_log_probs(tree, log_p)
    return (np.exp(log_py) * reward).sum(-1) - temperature * sequence_kl(tree, log_p, log_ref)


def dense_objective(tree: Tree, log_p: Array, log_teacher: Array) -> Array:
    """[...] J(p) = E_y[sum_t log p_T(y_t|s_t) + H(p(.|s_t))] in nats, the left side of Paper A's Eq. 2.

    Written as it reads: walk along every sequence and add up token rewards and entropies.
    """
    entropy = -(np.exp(log_p) * log_p).sum(-1)
    rewards = sequence_log_probs(tree, log_teacher) + entropy[..., tree.paths].sum(-1)
    return (np.exp(sequence_log_probs(tree, log_p)) * rewards).sum(-1)


def success(tree: Tree, log_p: Array, reward: Array) -> Array:
    """[...] E_y[r(y)]; for a 0/1 reward the probability of success."""
    return (np.exp(sequence_log_probs(tree, log_p)) * reward).sum(-1)


def kl_gradient(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[..., S, V] the exact gradient of KL(p || q) over sequences with respect to the logits of p.

    d(s) p(a|s) (log p/q(a|s) + W(s a) - W(s)), with d the visitation and W the KL that is still to come: a token is
    also answerable for the states it leads to.
    """
    ratio, p = log_p - log_q, np.exp(log_p)
    still_to_come = expected_return(tree, log_p, ratio)
    below = np.concatenate(
        [
            still_to_come[..., 1:].reshape(*ratio.shape[:-2], -1, tree.vocabulary_size),
            np.zeros((*ratio.shape[:-2], tree.n_states - tree.start(tree.depth - 1), tree.vocabulary_size)),
        ],
        -2,
    )
    return visitation(tree, log_p)[..., None] * p * (ratio + below - still_to_come[..., None])


def opd_gradient(tree: Tree, log_p: Array, log_q: Array) -> Array:
    """[..., S, V] what OPD follows: `visited_kl` differentiated with the visited states held fixed.

    d(s) p(a|s) (log p/q(a|s) - KL(s)). The full gradient without the term for the states still to come; trainers do
    not differentiate through sampling. Both vanish at p = q.
    """
    ratio = log_p - log_q
    return visitation(tree, log_p)[..., None] * np.exp(log_p) * (ratio - token_kl(log_p, log_q)[..., None])
