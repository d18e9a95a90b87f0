"""The plan of a profile: every run of its graph, its arguments, and numbers that follow from each other."""

import pytest

from s2d_lib.check import hardware as hardware_check
from s2d_lib.check.params import check_params, resolved_runs
from s2d_lib.errors import StudyError
from s2d_lib.pipeline import jobs
from s2d_lib.plan import plan
from s2d_lib.plan.architecture import architecture_of, named
from s2d_lib.plan.flops import sampling_flops
from s2d_lib.plan.gpus import gpu_named, gpus
from s2d_lib.plan.hours import Work, work_of
from s2d_lib.plan.memory import kv_bytes
from s2d_lib.plan.phases import gpus_of, phases_of, reserved_hours
from s2d_lib.plan.tokens import assumed_lengths
from s2d_lib.study import load_profile, needed, profile_names, resolve


def test_the_plan_has_every_job_of_the_study(runs):
    assert plan("micro").runs["seeds"].sum() == len(jobs("micro"))


@pytest.mark.parametrize("name", profile_names())
def test_every_committed_profile_can_be_planned(name):
    found = plan(name)
    plain = list(needed(name))
    assert list(found.runs["checkpoint"])[: len(plain)] == plain
    assert (len(found.runs) > len(plain)) == (load_profile(name).map is not None)
    assert (found.runs[["flops", "hours", "weights", "peak"]] > 0).all(axis=None)
    assert not found.runs[["gpus"]].isna().any(axis=None)


def test_hours_are_in_inverse_proportion_to_the_utilisation_and_lie_in_their_range():
    whole, half = plan("qwen3", utilisation=0.8), plan("qwen3", utilisation=0.4)
    assert half.total("hours") == pytest.approx(2 * whole.total("hours"))
    rows = half.runs
    assert (rows["hours low"] <= rows["hours"]).all()
    assert (rows["hours"] <= rows["hours high"] * (1 + 1e-9)).all()
    assert (rows["hours sampling"] <= rows["hours"]).all()
    assert half.disk > half.published > 0


def test_a_rate_bound_by_arithmetic_and_one_bound_by_memory_by_hand():
    gpu = gpu_named("h100-80gb")
    assert Work(training=989.4e12 * 3600).hours(gpu, 0.5) == pytest.approx(2)
    assert Work(sampling=(989.4e12 * 3600, 1.0)).hours(gpu, 1) == pytest.approx(1)
    assert Work(sampling=(1.0, 3.35e12 * 3600), testing=(0.0, 3.35e12 * 3600)).hours(gpu, 1) == pytest.approx(2)


def test_vllm_samples_without_padding_and_from_weights_in_the_computations_precision():
    lengths = assumed_lengths(load_profile("qwen3"))
    model = named()["Qwen/Qwen3-1.7B"]
    own, engine = (
        work_of(resolve("qwen3", "student.grpo", 0, {"sampling": sampling}), model, None, lengths)
        for sampling in ({"engine": "transformers", "vllm": None}, {"engine": "vllm"})
    )
    sequences, length = 17400 * 64, lengths.prompt + lengths.completion
    assert engine.training == own.training
    assert engine.sampling[0] == sampling_flops(model, sequences, lengths.prompt, lengths.completion)
    assert own.sampling[0] == sampling_flops(model, sequences, lengths.prompt, 16384)
    cache = sequences * kv_bytes(model, "bfloat16") * (length + lengths.prompt) / 2
    assert engine.sampling[1] == lengths.completion * (4350 * 2 * model.parameters + cache)


def test_every_run_of_the_single_gpu_fits_it():
    assert (plan("qwen3-single-gpu").runs["gpus"] == 1).all()


@pytest.mark.parametrize("name", ["qwen3", "qwen3-single-gpu", "llama3", "qwen3-chemistry", "qwen3-4b-chemistry"])
def test_every_run_fits_the_gpus_that_its_profile_gives_it(name):
    runs = plan(name).runs
    assert runs["fits"].all(), runs[~runs["fits"]][["checkpoint", "given", "each"]]
    assert runs["given"].between(1, 8).all()
    assert (runs["hours reserved"] > runs["hours"]).all()  # loading, and GPUs that wait while one evaluates


def test_reserved_hours_by_hand():
    own = {"sampling": {"engine": "transformers", "vllm": None}}
    run, gpu = resolve("qwen3", "large_teacher.rl", 0, own), gpu_named("h100-80gb")
    hour = 3.35e12 * 3600  # bytes that a GPU reads in one
    work = Work(sampling=(0.0, 8 * hour), testing=(0.0, 3 * hour), validation=(0.0, hour))
    assert work.hours(gpu, 1) == pytest.approx(12)
    assert reserved_hours(run, work, gpu, 1) == pytest.approx(8 * (1 + 3 + 1 + 0.5))
    over = {"sampling": {"engine": "vllm", "vllm": {"tensor_parallel": 4}}}
    assert reserved_hours(resolve("qwen3", "student", 0, over), Work(testing=(0.0, 2 * hour)), gpu, 1) == pytest.approx(
        4 * (0.5 + 0.5)
    )


@pytest.mark.parametrize(("checkpoint", "gpus"), [("student", 4), ("teacher.rollouts.full", 4), ("student.grpo", 8)])
def test_a_job_asks_for_the_gpus_of_its_engine(checkpoint, gpus):
    engine = {"sampling": {"engine": "vllm", "vllm": {"tensor_parallel": 4}}}
    assert gpus_of(resolve("qwen3", checkpoint, 0, engine)) == gpus
    other = {"gpu_memory_utilization": None, "tensor_parallel": None}  # what only the profile's own mode reads
    server = {"sampling": {"vllm": {"mode": "server", "url": "http://localhost:8000"} | other}}
    assert gpus_of(resolve("qwen3", "student", 0, server)) == 1
    assert gpus_of(resolve("micro", "student.grpo", 0)) == 0


PAPER_B = [f"qwen3-{name}" for name in ("chemistry", "physics", "biology", "materials", "tool-use")]


@pytest.mark.parametrize("name", PAPER_B)
def test_paper_bs_own_setting_fits_its_gpus_and_none_of_its_runs_is_refused(name):
    assert check_params(name).ok
    for run in resolved_runs(name).values():
        model = architecture_of(run.model.model)
        for phase in phases_of(run, model, None, assumed_lengths(load_profile(name))):
            assert hardware_check.fit(run.checkpoint, phase, 80e9, "a GPU").ok


@pytest.mark.parametrize("name", profile_names())
def test_no_committed_profile_asks_processes_for_what_they_do_not_share(name):
    assert check_params(name).ok


@pytest.mark.parametrize("name", gpus())
def test_every_gpu_says_where_its_numbers_are_from(name):
    assert "NVIDIA" in gpu_named(name).source
    assert 1e9 < gpu_named(name).bandwidth < gpu_named(name).flops


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("qwen", "h100-80gb", 0.4), "unknown profile 'qwen'; did you mean 'qwen3'?"),
        (("qwen3", "h100", 0.4), "unknown GPU 'h100'; did you mean 'h100-80gb'?"),
        (("qwen3", "h100-80gb", 0.0), "over 0 and at most 1, given 0.0"),
        (("qwen3", "h100-80gb", 40), "over 0 and at most 1, given 40"),
        (("qwen3", "h100-80gb", "0.4"), "over 0 and at most 1, given '0.4'"),
    ],
)
def test_bad_arguments_get_one_sentence(arguments, sentence):
    with pytest.raises(StudyError) as error:
        plan(*arguments)
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
