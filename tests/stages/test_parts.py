"""Parts of like length: nothing is lost, nothing but padding is cut."""

import torch

from s2d_lib.stages import states as of_parts


def test_parts_hold_every_row_once_and_only_lose_padding(monkeypatch):
    monkeypatch.setattr(of_parts, "ROWS", 3)
    lengths, prompts = torch.tensor([5, 1, 4, 1, 2, 5, 3]), torch.tensor([2, 3, 1, 1, 2, 1, 2])
    place = torch.arange(6)
    batch = {
        "completion_mask": (place < lengths[:, None]).long(),
        "prompt_mask": (place >= 6 - prompts[:, None]).long(),
        "rollout": torch.arange(7),
        "num_items_in_batch": lengths.sum(),
    }
    batch["completion_ids"] = batch["completion_mask"] * (10 * batch["rollout"][:, None] + place)
    batch["prompt_ids"] = batch["prompt_mask"] * (100 * (1 + batch["rollout"][:, None]) + place)
    parts = of_parts.by_length(batch)
    assert [len(part["rollout"]) for part in parts] == [3, 3, 1]
    assert [part["completion_ids"].shape[1] for part in parts] == [2, 5, 5]
    assert torch.cat([part["rollout"] for part in parts]).sort()[0].tolist() == list(range(7))
    for part in parts:
        for name in ("prompt", "completion"):
            whole, mask = batch[f"{name}_ids"][part["rollout"]], batch[f"{name}_mask"][part["rollout"]]
            assert torch.equal(part[f"{name}_ids"][part[f"{name}_mask"] == 1], whole[mask == 1])
