"""Two processes and one folder: the first looks after its files, whatever the others do at the same time."""

import json
import multiprocessing
import os
import shutil
import socket
from pathlib import Path
from types import SimpleNamespace

import pytest
from accelerate import PartialState
from accelerate.state import AcceleratorState

from s2d_lib.stages.common import last_whole_checkpoint
from s2d_lib.stages.rl import RecordedReward, read_account


def in_two(work, folder: Path) -> None:
    """`work(rank, folder)` in two processes of one group."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])

    def main(rank: int) -> None:
        world = {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
        os.environ.update(world | {"MASTER_PORT": port})
        AcceleratorState._reset_state(reset_partial_state=True)
        PartialState(cpu=True)
        work(rank, folder)

    ranks = [multiprocessing.get_context("fork").Process(target=main, args=(rank,)) for rank in range(2)]
    for process in ranks:
        process.start()
    for process in ranks:
        process.join(60)
    assert [process.exitcode for process in ranks] == [0, 0]


def grade(rank: int, folder: Path) -> None:
    """A step's gradings, each process's own."""

    def correct(prompts, **_):
        return [float(rank)] * len(prompts)

    reward = RecordedReward(correct, folder / "gradings.jsonl", first_step=1)
    state = SimpleNamespace(global_step=1, is_world_process_zero=rank == 0)
    ids = [f"p{rank}", f"q{rank}"]
    assert reward(ids, ids, [[1], [1, 2]], state, id=ids) == [rank, rank]


def test_the_account_holds_what_both_have_graded_as_soon_as_a_step_is_graded(tmp_path):
    """However the run ends: nothing has to be joined later."""
    rows = [{"step": step, "problem": "old", "tokens": 9, "correct": 0} for step in (0, 1)]
    (tmp_path / "gradings.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    in_two(grade, tmp_path)
    account = read_account(tmp_path / "gradings.jsonl")
    assert account["problem"].tolist() == ["old", "p0", "q0", "p1", "q1"]
    assert account["correct"].tolist() == [0, 0, 0, 1, 1]
    assert [path.name for path in tmp_path.iterdir()] == ["gradings.jsonl"]


def look(rank: int, folder: Path) -> None:
    """Resume; who is not the first must not touch anything."""
    if rank == 1:
        shutil.rmtree = pytest.fail
    assert last_whole_checkpoint(folder).endswith("checkpoint-2")


def test_one_process_removes_half_written_checkpoints_and_both_resume_from_the_same(tmp_path):
    (tmp_path / "checkpoint-2").mkdir()
    (tmp_path / "checkpoint-2" / "trainer_state.json").write_text("{}")
    for step in range(10, 30):
        (tmp_path / f"checkpoint-{step}").mkdir()
    in_two(look, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["checkpoint-2"]
