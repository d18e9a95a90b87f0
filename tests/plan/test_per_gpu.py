"""What each GPU holds, by part: by hand, and in sum what the plan says of it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib.plan.architecture import named
from s2d_lib.plan.memory import Memory, memory_of
from s2d_lib.plan.per_gpu import HELD, fullest, held_by_each, moment_of
from s2d_lib.plan.phases import Phase, phases_of
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.study import load_profile, resolve

GB = 10**9
STATE = Memory(weights=32 * GB, copies=4 * GB, teacher=16 * GB, gradients=8 * GB, optimiser=24 * GB, gathered=3 * GB)


def with_state(**changes) -> Memory:
    return Memory(**(vars(STATE) | changes))


def parts(phase: Phase) -> dict[str, float]:
    """In GB, without what is 0."""
    return {part: size / GB for part, size in held_by_each(phase, 80 * GB).items() if size}


def test_shards_by_hand():
    memory = with_state(activations=5 * GB, kv_cache=48 * GB, validation=4 * GB, engine_share=0.25)
    shared = Phase("training", memory, 8, shared=True)
    state = {"weights": 4, "teacher": 2, "gradients": 1, "optimiser": 3}
    assert parts(shared) == state | {"gathered": 3, "moment": 6, "engine": 20, "reserve": 8}
    assert moment_of(shared) == "KV cache"  # an eighth of the 48 GB, for 5 of activations
    on_host = Phase("training", with_state(on_host=True, activations=7 * GB), 8, shared=True)
    assert parts(on_host) == {"gathered": 3, "moment": 7, "reserve": 8}
    assert moment_of(on_host) == "activations"


@pytest.mark.parametrize(("gpus", "shared"), [(1, True), (1, False), (4, False)])
def test_what_is_not_shared_lies_whole_on_each_with_autocasts_copy(gpus, shared):
    found = parts(Phase("training", with_state(validation=2 * GB), gpus, shared))
    whole = {"weights": 32, "copies": 4, "teacher": 16, "gradients": 8, "optimiser": 24}
    assert found == whole | {"moment": 2, "reserve": 8}


def test_nothing_comes_and_goes_where_vllm_samples_a_base_model():
    assert moment_of(Phase("sampling", Memory(weights=GB, engine_share=0.3), 2, shared=True)) == ""


def test_the_fullest_phase_counts_vllms_share():
    training = Phase("training", Memory(activations=30 * GB), 1, shared=False)
    evaluation = Phase("evaluation", Memory(weights=20 * GB, engine_share=0.25), 1, shared=True)
    assert fullest([training, evaluation], 80 * GB) is evaluation  # 20 and 20, for 30
    assert fullest([training, evaluation], 20 * GB) is training  # 20 and 5


sizes = st.floats(0, 1e12)
memories = st.builds(
    Memory, **dict.fromkeys(("weights", "copies", "teacher", "gradients", "optimiser", "activations", "kv_cache"), sizes),
    validation=sizes, gathered=sizes, on_host=st.booleans(),
)  # fmt: skip


@given(memory=memories, gpus=st.integers(1, 64), shared=st.booleans())
def test_the_parts_add_up_to_what_the_plan_says_of_each(memory, gpus, shared):
    phase = Phase("training", memory, gpus, shared)
    found = held_by_each(phase, 80e9)
    assert set(found) == set(HELD)
    assert sum(found.values()) == pytest.approx(phase.each + 8e9, rel=1e-9)


def test_opd_of_a_1_7b_student_by_an_8b_teacher_by_hand():
    """Weights, gradients and moments are float32, an eighth of each; the teacher's bfloat16; 4 rollouts at a time."""
    student, teacher = named()["Qwen/Qwen3-1.7B"], named()["Qwen/Qwen3-8B"]
    run, lengths = resolve("qwen3", "student.bridge.raw_teacher", 0), assumed_lengths(load_profile("qwen3"))
    phase = fullest(phases_of(run, student, teacher, lengths), 80e9)
    found, n = held_by_each(phase, 80e9), 1_720_574_976
    assert (phase.name, phase.gpus) == ("training", 8)
    assert [found[part] for part in ("weights", "gradients", "optimiser")] == [4 * n / 8, 4 * n / 8, 8 * n / 8]
    assert found["teacher"] == 2 * 8_190_735_360 / 8
    assert moment_of(phase) == "activations"
    assert found["moment"] > 4 * (130 + 16384) * 28 * 2048 * 4  # every layer's input in float32
    assert found["engine"] == pytest.approx(0.22 * 80e9)
    assert found["reserve"] == 8e9
    assert found["gathered"] == memory_of(run, student, teacher, lengths).gathered
