"""Draw a tree of tokens with a policy's probability on it."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection

from .routes import on_path
from .tree import Array, Tree, visitation


def edge_mass(tree: Tree, log_p: Array) -> Array:
    """[..., S, V] the probability that a rollout takes token `a` in state `s`."""
    return visitation(tree, log_p)[..., None] * np.exp(log_p)


def ring_positions(tree: Tree) -> Array:
    """[S + N, 2] positions of all nodes, states then sequences: the root in the middle, one ring per token."""
    rings = []
    for level in range(tree.depth + 1):
        nodes = tree.vocabulary_size**level
        angle = np.pi / 2 - 2 * np.pi * (np.arange(nodes) + 0.5) / nodes
        rings.append(level * np.stack([np.cos(angle), np.sin(angle)], -1))
    return np.concatenate(rings)


def draw_tree(ax: Axes, tree: Tree, log_p: Array, reward: Array, color: str, widest: float = 5.0) -> None:
    """Draw one policy ([S, V]); line width (points) is `widest` times the square root of the edge's probability.

    Edges that keep a success in reach have `color`, all others are grey; rings mark the successful sequences.
    """
    where = ring_positions(tree)
    state, token = np.divmod(np.arange(tree.n_states * tree.vocabulary_size), tree.vocabulary_size)
    lines = np.stack([where[state], where[state * tree.vocabulary_size + 1 + token]], 1)
    widths = widest * np.sqrt(edge_mass(tree, log_p).ravel())
    good = on_path(tree, reward[None])[0].ravel()
    ax.add_collection(LineCollection(lines, colors="#E5E5E5", linewidths=0.4, zorder=1))
    for mask, shade, order in ((~good, "#8C8C8C", 2), (good, color, 3)):
        ax.add_collection(LineCollection(lines[mask], colors=shade, linewidths=widths[mask], zorder=order))
    leaves = where[tree.n_states :][reward > 0]
    ax.scatter(*leaves.T, s=22, facecolors="white", edgecolors=color, linewidths=1.2, zorder=4)
    ax.set(xlim=(-1.06 * tree.depth, 1.06 * tree.depth), ylim=(-1.06 * tree.depth, 1.06 * tree.depth), aspect="equal")
    ax.set_axis_off()
