"""Memory: bytes by hand, what autograd really keeps of transformers' layers, and what is refused for want of it."""

from dataclasses import replace

import psutil
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from s2d_lib import notebook
from s2d_lib.errors import StudyError
from s2d_lib.plan import memory as plan_memory
from s2d_lib.plan.cost import Shape, assumed_lengths, shape_of, trained_parameters
from s2d_lib.plan.memory import Held, held, refuse_what_does_not_fit, shortage
from s2d_lib.runs import open_run
from s2d_lib.stages import inputs
from s2d_lib.study import load_profile, resolve
from tests.plan.test_cost import built, small

GB = 10**9
QWEN, TEACHER, LARGE = (shape_of(f"Qwen/Qwen3-{size}") for size in ("1.7B", "8B", "14B"))
N, N_TEACHER, N_LARGE = 1_720_574_976, 8_190_735_360, 14_768_307_200
ROWS, LENGTH = 2, 64
BY_TRANSFORMERS = {"engine": "transformers", "vllm": None}


def of(profile: str, checkpoint: str, over: dict | None = None, teacher: Shape | None = None) -> list[Held]:
    run = resolve(profile, checkpoint, 0, over)
    return held(run, shape_of(run.model.model), teacher, assumed_lengths(load_profile(profile)))


def kept_by_autograd(config: dict, dtype: str, checkpointing: bool) -> int:
    """Bytes of all storages that autograd keeps of a padded batch, the parameters themselves excepted."""
    network = built(config).train()
    if checkpointing:
        network.gradient_checkpointing_enable({"use_reentrant": False})
    mine, kept = {p.untyped_storage().data_ptr() for p in network.parameters()}, {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in mine:
            kept[storage.data_ptr()] = storage  # held, so that no later one has its address
        return tensor

    ids = torch.zeros(ROWS, LENGTH, dtype=torch.long)
    mask = torch.ones_like(ids)
    mask[0, :3] = 0
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
        network.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
    return sum(storage.nbytes() for storage in kept.values())


@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("family", ["qwen3", "llama"])
def test_a_layer_keeps_what_the_formula_says_within_a_third(family, dtype, checkpointing):
    configs = [small(family, layers) for layers in (2, 3)]
    two, three = (kept_by_autograd(config, dtype, checkpointing) for config in configs)
    matrices = sum(inputs * outputs for inputs, outputs in Shape(configs[0]).linear.values())
    copies = 2 * matrices if dtype == "bfloat16" and not checkpointing else 0  # autocast's, counted with the weights
    hardware = {"dtype": dtype, "gradient_checkpointing": checkpointing}
    own = {"stages": {"sparse_rl": {"micro_batch": ROWS, "batch": 8}}, "hardware": hardware}
    run = resolve("micro", "student.grpo", 0, own)
    planned = [plan_memory.activations(run, Shape(config), LENGTH) for config in configs]
    assert planned[1] - planned[0] == pytest.approx(three - two - copies, rel=0.34)
    if checkpointing:  # its input, in float32
        assert planned[1] - planned[0] == ROWS * LENGTH * 4 * configs[0]["hidden_size"]


def test_opd_of_a_1_7b_student_by_an_8b_teacher_by_hand():
    over = {"stages": {"opd": {"batch": 16, "micro_batch": 2}}, "sampling": BY_TRANSFORMERS}
    found = of("qwen3", "student.bridge.raw_teacher", over, TEACHER)[0]
    head, layer = 151936 * 2048, (N - 151936 * 2048 - 2048) / 28
    of_teacher = (N_TEACHER - 2 * 151936 * 4096 - 4096) / 36
    # Whole for a moment: embeddings (and norms), two layers, the largest gradient in bfloat16 and float32
    whole = 2 * (head + 2048 + 2 * layer) + 2 * (2 * 151936 * 4096 + 4096 + 2 * of_teacher) + (2 + 4) * head
    assert (found.phase, found.on) == ("training", 8)
    assert found.state == pytest.approx((4 + 4 + 8) * N / 8 + 2 * N_TEACHER / 8 + whole)
    token = 28 * 2 * (8 * 128) * 4  # keys and values, float32
    assert found.kv_cache == 16 * (130 + 4096) * token  # of the validation: of rollouts each process has two
    logits = 4 * head + 2 * 4 * plan_memory.CHUNK["cuda"]  # the head's gradient, a chunk of each model's
    assert found.activations - logits > 2 * (130 + 16384) * 28 * 2048 * 4  # every layer's input in float32
    assert found.total == found.state + max(found.kv_cache, found.activations)


def test_what_several_have_trained_is_evaluated_by_one_process_in_float32_over_its_gpus():
    training, evaluation = of("qwen3", "large_teacher.rl", {"sampling": BY_TRANSFORMERS})
    cache = 64 * (130 + 16384) * 40 * 2 * (8 * 128) * 4
    # The state is in the machine's memory: weights, gradient, two moments, and the reference's weights
    assert (training.on, training.on_host) == (8, 20 * N_LARGE)
    assert training.state < 4 * N_LARGE / 8 + 2 * N_LARGE
    assert (evaluation.phase, evaluation.on) == ("evaluation", 4)
    assert evaluation.total == pytest.approx((1 / 4 + 1 / 40) * (4 * N_LARGE + cache))
    assert [one.phase for one in of("qwen3-single-gpu", "student.grpo")] == ["training"]
    (base,) = of("qwen3", "student", {"sampling": BY_TRANSFORMERS})
    assert (base.phase, base.state, base.activations) == ("sampling", 2 * N, 0)


def test_a_reference_and_a_self_teacher_are_second_models_but_for_adapters():
    """Weights, autocast's copy, gradients and two moments: 4 + 2 + 4 + 8 bytes."""
    plain, penalised = ({"stages": {"sparse_rl": {"kl_coefficient": k}}} for k in (0.0, 0.01))
    states = [of("qwen3-single-gpu", "student.grpo", over)[0].state for over in (plain, penalised)]
    assert states == [18 * N, 22 * N]
    over = {"hardware": {"accelerate": None}, "roles": {"student": {"model": "Qwen/Qwen3-1.7B"}}}
    srpo = of("qwen3-chemistry", "student.srpo", over)[0]
    assert srpo.state == 22 * N
    over |= {"stages": {"self_distillation": {"lora": {"rank": 32, "alpha": 64}}}}
    trained = trained_parameters(resolve("qwen3-chemistry", "student.srpo", 0, over), QWEN)
    found = of("qwen3-chemistry", "student.srpo", over)[0]
    assert found.state == 6 * N + 22 * trained
    assert srpo.activations - found.activations == 4 * 151936 * 2048  # adapters leave the head as it is


@pytest.mark.parametrize(
    ("uses", "rows", "share"),
    [  # A whole optimiser batch of rollouts side by side, or the validation, which stays with transformers
        (None, 64, 0),
        (["training", "evaluation"], 8, 0.3),
        (["evaluation"], 64, 0.3),
    ],
)
def test_where_vllm_samples_its_share_takes_the_place_of_the_cache(uses, rows, share):
    vllm = {"engine": "vllm", "vllm": {"uses": uses, "gpu_memory_utilization": 0.3, "tensor_parallel": 1}}
    sampling = {"batch": 8} | (vllm if uses else BY_TRANSFORMERS)
    found = of("qwen3-single-gpu", "student.grpo", {"sampling": sampling})[0]
    assert (found.kv_cache, found.engine) == (rows * (130 + 2048) * QWEN.cached("float32"), share)


parts = st.floats(0, 1e12)


@given(state=parts, moving=parts, cache=parts, room=st.floats(1e9, 1e12), engine=st.floats(0, 0.5))
def test_what_fits_is_not_refused_and_what_is_refused_names_its_largest_part(state, moving, cache, room, engine):
    one = Held("training", 1, state, activations=moving, kv_cache=cache, engine=engine)
    says = shortage(one, room, "a GPU", reserve=0.1)
    assert (says is None) == (one.total <= (0.9 - engine) * room)
    if says:
        part = "state" if state > (0.9 - engine) * room else "activations" if moving >= cache else "KV cache"
        assert f"of them for {part}: " in says


def test_what_does_not_fit_gets_its_remedy():
    one = Held("sampling", 2, 60.0 * GB, engine=0.3)
    says = shortage(one, 80 * GB, "it")
    assert "it's 80.0 on each of 2 beside vLLM's 30%, 9% in reserve, 60.0 of them for weights: " in says
    assert says.endswith("let more GPUs hold it together (hardware.sampling_gpus).")
    says = shortage(replace(one, phase="training"), 80 * GB, "it")
    assert says.endswith("let more processes share it (hardware.accelerate).")


@pytest.fixture
def room(monkeypatch):
    """Gives the machine so many GB of memory, and its one GPU, which is the smallest of two."""

    def of(machine: float | None = None, gpu: float | None = None):
        if machine:
            monkeypatch.setattr(plan_memory, "machine_memory", lambda: int(machine * GB))
        if gpu:
            monkeypatch.setattr(plan_memory, "visible_gpus", lambda: [("large", 10**13), ("one", int(gpu * GB))])

    return of


def test_what_the_smallest_gpu_does_not_hold_is_refused_before_anything_is_loaded(runs, room, monkeypatch):
    monkeypatch.setattr(inputs, "load_policy", lambda *a, **k: pytest.fail("a model is being loaded"))
    run = resolve("qwen3-single-gpu", "student.bridge.raw_teacher", 0)
    room(machine=2000, gpu=70)
    refuse_what_does_not_fit(run, certain=False)
    room(gpu=69)  # of which 9 % are kept in reserve
    refuse_what_does_not_fit(run)
    with pytest.raises(StudyError, match="9% in reserve"):
        refuse_what_does_not_fit(run, certain=False)
    room(gpu=40)
    with pytest.raises(StudyError, match=r"'student\.bridge\.raw_teacher' needs 63\.3 GB of a GPU's 40\.0.*adapters"):
        refuse_what_does_not_fit(run)
    room(gpu=1e-4)
    with pytest.raises(StudyError, match="'student' needs"):
        notebook.prepare(open_run("micro", "student", 0, {"hardware": {"device": "cuda"}}))


def test_what_comes_after_training_and_what_lies_in_the_machines_memory_must_fit_too(room):
    room(machine=1500, gpu=141)  # 20 bytes of each of 70.6e9 parameters; what only loading takes is not certain
    run = resolve("llama3", "teacher.rl", 0)
    refuse_what_does_not_fit(run)
    with pytest.raises(StudyError, match=r"needs 20\d\d\.\d GB of the machine's 1500\.0"):
        refuse_what_does_not_fit(run, certain=False)
    room(machine=1000)
    with pytest.raises(StudyError, match=r"needs 1411\.1 GB of the machine's 1000\.0.*a machine with more memory"):
        refuse_what_does_not_fit(run)
    alone = {"rules": [{"match": {"role": "teacher"}, "set": {"hardware": {"sampling_gpus": 1}}}]}
    with pytest.raises(StudyError, match=r"^'teacher\.rl' \(its evaluation, by one process\) needs 282\.2 GB of a"):
        refuse_what_does_not_fit(resolve("llama3", "teacher.rl", 0, alone))


def test_processes_on_a_cpu_divide_its_memory(room):
    alone, both = (resolve("micro", "student.grpo", 0, {"hardware": {"processes": count}}) for count in (1, 2))
    room(1.2 * of("micro", "student.grpo")[0].total / GB)  # of activations, the most of it, two thirds are sure
    refuse_what_does_not_fit(alone)
    with pytest.raises(
        StudyError, match=r"GB of the machine's \d\.\d on each of 2, .* take a machine with more memory\.$"
    ):
        refuse_what_does_not_fit(both)


def test_no_gpu_and_unknown_shapes_are_for_others_to_refuse(monkeypatch, room):
    run = resolve("qwen3-single-gpu", "student", 0)
    unknown = run.model_copy(update={"model": run.model.model_copy(update={"model": "some/other"})})
    room(gpu=1)
    refuse_what_does_not_fit(unknown)
    with pytest.raises(StudyError, match="does not know the shape of model 'some/other'"):
        refuse_what_does_not_fit(unknown, certain=False)
    monkeypatch.setattr(plan_memory, "visible_gpus", lambda: [])
    refuse_what_does_not_fit(run)
    refuse_what_does_not_fit(run, certain=False)  # on the GPU that the plan assumes


def test_the_smallest_of_machine_container_and_slurm_job_counts(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_memory, "CGROUPS", tmp_path)
    (tmp_path / "memory").mkdir()
    v1, v2 = tmp_path / "memory" / "memory.limit_in_bytes", tmp_path / "memory.max"
    whole = psutil.virtual_memory().total
    for slurm, of_v2, of_v1, least in (
        ("0", "max\n", str(2**63), whole),  # no limit, as each says it
        ("0", "max\n", "3000000\n", 3_000_000),
        ("2", "max\n", "3000000\n", 2 * 2**20),
        ("2", "9000\n", "3000000\n", 9000),
    ):
        monkeypatch.setenv("SLURM_MEM_PER_NODE", slurm)
        v1.write_text(of_v1)
        v2.write_text(of_v2)
        assert plan_memory.machine_memory() == least
