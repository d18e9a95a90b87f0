"""What a notebook makes of its workers: their progress as it grows, the error that came first, the line that starts them."""

import json
import subprocess
import sys
import threading
import time

import pytest

from s2d_lib.runs import PlacedRun
from s2d_lib.stages import processes
from s2d_lib.stages.common import PROGRESS
from s2d_lib.study import resolve
from s2d_lib.study.load import deep_merge

SHARED = {"hardware": {"device": "cuda", "processes": 2, "accelerate": "fsdp2.yaml"}}


def placed(tmp_path, tiny, over=None) -> PlacedRun:
    return PlacedRun(resolve("micro-full", "student.grpo", 0, deep_merge(tiny, over or {})), place=tmp_path)


def test_lines_come_whole_while_a_file_grows(tmp_path):
    path, over = tmp_path / PROGRESS, threading.Event()

    def write():
        for piece in ('{"step": 1}\n{"st', 'ep": 2}', '\n{"step": 3}\n{"step": '):
            with path.open("a") as stream:
                stream.write(piece)
            time.sleep(0.6)  # longer than who reads waits
        over.set()

    writer = threading.Thread(target=write)
    writer.start()
    lines = list(processes._lines(path, over.is_set))
    writer.join()
    assert [json.loads(line)["step"] for line in lines] == [1, 2, 3]  # and not the half that nobody ended


def test_progress_reaches_the_notebook_and_what_follows_the_last_look_too(tmp_path, tiny, monkeypatch):
    seen = []
    monkeypatch.setattr(processes.LiveCurve, "on_log", lambda self, a, state, c: seen.append(state.global_step))
    run = placed(tmp_path, tiny)
    program = (
        f"import json, time; out = open({str(run.path(PROGRESS))!r}, 'w', buffering=1)\n"
        "for step in (1, 2, 3): out.write(json.dumps({'step': step, 'loss': 0.5}) + '\\n'); time.sleep(0.2)"
    )
    with subprocess.Popen([sys.executable, "-c", program]) as workers:
        processes._watch(run, workers)
    assert seen == [1, 2, 3]


def test_the_first_error_is_said_since_the_others_wait_for_it(tmp_path, tiny):
    run, log = placed(tmp_path, tiny), tmp_path / ".workers.log"
    for rank, error in ((1, ValueError("no")), (0, RuntimeError("connection closed by peer"))):
        processes.say_error(tmp_path, rank, error)
        time.sleep(0.01)
    assert processes._what_failed(run, log) == (
        f"a worker of 'student.grpo' failed with ValueError: no (more in {log})"
    )


def test_workers_that_die_without_a_word_leave_the_end_of_their_log(tmp_path, tiny):
    log = tmp_path / ".workers.log"
    log.write_text("loading\nstep 1\nKilled\n")
    said = processes._what_failed(placed(tmp_path, tiny), log)
    assert said == (
        f"the workers of 'student.grpo' died without a word (out of memory?); {log} ends with: loading / step 1 / Killed"
    )


@pytest.mark.parametrize("shared", [True, False])
def test_on_gpus_accelerate_understands_the_line_that_starts_the_workers(tmp_path, tiny, shared):
    from accelerate.commands.launch import launch_command_parser

    over = SHARED if shared else deep_merge(SHARED, {"hardware": {"accelerate": None}})
    executable, dash, module, *arguments = processes._command(placed(tmp_path, tiny, over))
    assert (executable, dash, module) == (sys.executable, "-m", "accelerate.commands.launch")
    parsed = launch_command_parser().parse_args(arguments)
    assert parsed.num_processes == 2
    assert parsed.module
    assert (parsed.training_script, parsed.training_script_args) == (processes.MODULE, [str(tmp_path)])
    if shared:
        assert parsed.config_file.endswith("params/accelerate/fsdp2.yaml")
    else:
        assert parsed.multi_gpu
        assert parsed.mixed_precision == "no"
