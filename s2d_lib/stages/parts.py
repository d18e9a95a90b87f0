"""A batch in parts of like length, so that little of what is computed is padding."""

from torch import Tensor, is_tensor

ROWS = 64  # of a part: with fewer, a part's fixed cost outweighs the padding that it saves


def by_length(inputs: dict[str, Tensor]) -> list[dict[str, Tensor]]:
    """The rows of a TRL batch in parts of about ROWS, completions of like length together, each part cut to its longest.

    TRL (read from release 1.16) pads every micro-batch to the longest prompt and completion of the whole step. Where
    ranks have equally many rows they have equally many parts, as sharded models need.
    """
    lengths = inputs["completion_mask"].sum(1)
    parts = []
    for rows in lengths.argsort(stable=True).chunk(-(-len(lengths) // ROWS)):
        part = {k: v[rows] for k, v in inputs.items() if is_tensor(v) and v.dim()}
        longest, prompt = max(1, int(lengths[rows].max())), int(part["prompt_mask"].sum(1).max())
        for name in ("completion_ids", "completion_mask"):
            part[name] = part[name][:, :longest]
        for name in ("prompt_ids", "prompt_mask"):
            part[name] = part[name][:, -prompt:]
        parts.append(part)
    return parts
