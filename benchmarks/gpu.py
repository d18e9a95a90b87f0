"""`make gpu`, or `python -m benchmarks.gpu [part ...]`: what the first GPU shows, in minutes and without a network.

Models have the published shapes, random weights and a tokenizer that is the micro family's with words to spare, so nothing is
downloaded. Every row is written as soon as it is measured, and a part that takes too long or does not fit says so.
"""

import argparse
import gc
import importlib.util
import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerFast, PrinterCallback, Qwen3Config, Qwen3ForCausalLM, Trainer

from benchmarks.loss import loss_cost
from benchmarks.stages import STAGES, released
from benchmarks.timing import machine, seconds_of
from s2d_lib.models.policy import Policy
from s2d_lib.plan import plan
from s2d_lib.plan.cost import HERE
from s2d_lib.problems.base import Problem
from s2d_lib.problems.sources import Problems, load_problems
from s2d_lib.report.style import save_figure, use_style
from s2d_lib.runs import Run
from s2d_lib.sampling import Rollout, sample
from s2d_lib.stages.dense import dense_trainer
from s2d_lib.stages.inputs import Inputs
from s2d_lib.study import STAGES as REGISTRY
from s2d_lib.study import Resolved, project_root, resolve
from s2d_lib.study.load import read_yaml

SHARES = {
    "loss": 0.5,
    "stages": 0.5,
    "full": 0.7,
    "vllm": 0.5,
    "study": 1.0,
}  # of the minutes that are left when a part begins
STUDENT, TEACHER = "Qwen/Qwen3-1.7B", "Qwen/Qwen3-8B"
FULL = "qwen3-single-gpu", "student.bridge.rl_teacher"
STUDY = "smollm2-gpu"
TWO_STEPS = {
    "steps": 2, "learning_rate": 1e-4, "schedule": "constant", "warmup_steps": 0, "batch": 16, "micro_batch": 8,
    "save_steps": 10**6,
}  # fmt: skip
GROUPS = TWO_STEPS | {"group_size": 8}
SELF = GROUPS | {"reprompt": "{solution} {question}"}
STAGE_PARAMS = {
    "GRPO": {"sparse_rl": GROUPS},
    "forward KL": {"forward_kl": TWO_STEPS | {"teacher_targets": "recompute"}},
    "OPD": {"opd": TWO_STEPS},
    "teacher-sample SFT": {"teacher_sample_sft": TWO_STEPS},
    "SDPO": {"self_distillation": SELF | {"method": "sdpo"}},
    "SRPO, beside GRPO": {"self_distillation": SELF | {"method": "srpo"}},
}
NOTES = {
    "loss": "A forward and backward pass of the loss over the whole vocabulary, as in `make bench`. share of peak: the products "
    "that an exact loss can't avoid, 2 N V (Ht + 3 Hs) FLOP, a second, over what one large product reaches here; rounding: the "
    "gradient error that exact gradients have once they are rounded to the dtype.",
    "stages": "Two optimiser steps of every stage on true layer shapes, few layers, the same answers (the micro teacher's) for "
    "both precisions, of which the second step is shown; apart: the larger relative difference of a step's loss, and of its "
    "gradient's norm.",
    "full": "Two steps of OPD with the settings of profile qwen3-single-gpu, every answer at the limit; the second counts. "
    "planned: what `s2d plan` says of the same run.",
    "vllm": "tests/gpu/test_vllm_on_a_gpu.py: weights updated in place, a fresh engine, greedy tokens.",
    "study": f"`s2d study --profile {STUDY}` for the time that was left; run the part again and it goes on.",
}


@dataclass(frozen=True)
class Scale:
    """How large everything is: as published on a GPU, or tiny, to try all of it on a CPU."""

    device: str
    loss: dict[str, dict]  # by case, the arguments of `loss_cost`
    square: int  # side of the product that shows the peak
    layers: tuple[int, int]  # of the stages' models, and at most of those of full length
    width: int | None  # of hidden states, in place of the published one
    words: int | None  # in the vocabulary, likewise
    full: tuple[dict, ...]  # for OPD at full length, what to lay over its settings: the first that fits counts


def _losses(shapes: dict[str, dict], tokens: tuple[int, ...], **options) -> dict[str, dict]:
    betas = {"reverse KL": 1.0, "forward KL": 0.0}
    return {
        f"{name}, {divergence}, N={n}": shape | options | {"tokens": n, "beta": beta}
        for n in tokens
        for divergence, beta in betas.items()
        for name, shape in shapes.items()
    }


PAIRS = {
    "Qwen3 1.7B/8B": {"hidden": (2048, 4096), "vocabulary": 151936},
    "Llama 8B/8B": {"hidden": (4096, 4096), "vocabulary": 128256},
}
PUBLISHED = Scale(
    device="cuda",
    loss=_losses(PAIRS, (8192, 256, 2048), dtype=torch.bfloat16, device="cuda"),
    square=8192,
    layers=(2, 10**6),
    width=None,
    words=None,
    full=({"micro_batch": 2}, {"micro_batch": 1}, {"micro_batch": 1, "max_new_tokens": 512}),
)
TINY = Scale(
    device="cpu",
    loss=_losses({"tiny": {"hidden": (8, 16), "vocabulary": 96}}, (64,), dtype=torch.bfloat16),
    square=64,
    layers=(2, 2),
    width=64,
    words=96,
    full=({"micro_batch": 4, "batch": 8, "max_new_tokens": 12},),
)


def policy_of(published: str, scale: Scale, layers: int, dtype: str) -> Policy:
    """A model of a published shape with at most so many layers, random weights, and words that no problem has."""
    config = dict(read_yaml(HERE / "models.yaml")[published])
    config["num_hidden_layers"] = min(layers, config["num_hidden_layers"])
    config["vocab_size"] = scale.words or config["vocab_size"]
    if scale.width:
        config |= {"hidden_size": scale.width, "intermediate_size": 2 * scale.width, "head_dim": 16}
        config |= {"num_attention_heads": 4, "num_key_value_heads": 2}
    micro = released("micro", "student").tokenizer
    content = json.loads(micro.backend_tokenizer.to_str())
    words = content["model"]["vocab"]
    words |= {f"word{number}": number for number in range(len(words), config["vocab_size"])}
    special = {name: getattr(micro, name) for name in ("eos_token", "pad_token", "unk_token")}
    made = Tokenizer.from_str(json.dumps(content))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, padding_side="left", **special)
    del config["model_type"]
    ends = {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    torch.manual_seed(0)
    with torch.device(scale.device):
        model = Qwen3ForCausalLM(Qwen3Config(**config, **ends, dtype=getattr(torch, dtype)))
    return Policy(model.to(getattr(torch, dtype)), tokenizer, chat=False)


def steps_of(run: Run, inputs: Inputs, make: Callable[[Run, Inputs], Trainer], given=None) -> pd.DataFrame:
    """Metrics of a training's steps, and `GB`, the most that tensors held on a GPU; `given` are answers in place of sampling."""
    trainer = make(run, inputs)
    trainer.remove_callback(PrinterCallback)
    if given:
        trainer._generate_single_turn = given
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    trainer.train()
    metrics = pd.DataFrame([row for row in trainer.state.log_history if "loss" in row])
    held = torch.cuda.max_memory_allocated() / 1e9 if torch.cuda.is_available() else float("nan")
    return metrics.assign(GB=held)


def free() -> None:
    """Give back what the last measurement held; its trainer lives in cycles of references."""
    gc.collect()
    torch.cuda.empty_cache()


def peak(scale: Scale) -> float:
    """FLOP a second of one large product in bfloat16: what this card can do."""
    one, other = (torch.randn(scale.square, scale.square, device=scale.device, dtype=torch.bfloat16) for _ in range(2))
    return 2 * scale.square**3 / seconds_of(lambda: one @ other)


def loss(scale: Scale) -> Iterator[pd.DataFrame]:
    """The loss beside plain, compiled and tiled ones, a table a case."""
    best = peak(scale)
    for name, case in scale.loss.items():
        table = loss_cost(**case, rounds=2)
        flop = 2 * case["tokens"] * case["vocabulary"] * (case["hidden"][1] + 3 * case["hidden"][0])
        table["share of peak"] = flop / table["seconds"] / best
        yield table.assign(case=name, **{"peak TFLOP/s": best / 1e12})
        free()


def stages(scale: Scale) -> Iterator[pd.DataFrame]:
    """Two steps of every stage in float32 and in bfloat16, a row a stage."""
    grpo = resolve("micro", "student.grpo", 0)
    problems = load_problems(grpo.problems)
    problems = replace(problems, pool=problems.pool[:8])
    asked = {"samples": 8, "sampling": grpo.sampling, "seed": 0, "show": False}
    answers = sample(released("micro", "teacher"), problems.pool, **asked)
    for name, (_, checkpoint, make, _) in STAGES.items():
        found = {}
        for dtype in ("float32", "bfloat16"):
            over = {"stages": STAGE_PARAMS[name], "validation": None, "problems": {"validation": None}}
            resolved = resolve("micro", checkpoint, 0, over | {"hardware": {"device": scale.device, "dtype": dtype}})
            policy = policy_of(STUDENT, scale, scale.layers[0], "float32")  # weights that are trained stay float32
            teacher = policy_of(TEACHER, scale, scale.layers[0], dtype) if "teacher" in resolved.parents else None
            with tempfile.TemporaryDirectory() as folder:
                run = Run(resolved, place=Path(folder))
                inputs = Inputs(policy, problems, teacher, answers)
                given = replay(policy, problems, answers, resolved) if resolved.samples_itself else None
                found[dtype] = steps_of(run, inputs, make, given)
            del policy, teacher, inputs
            free()
        row = {"stage": name}
        for what in ("loss", "grad_norm"):
            exact, rounded = (found[dtype][what] for dtype in ("float32", "bfloat16"))
            row[f"{what} apart"] = ((rounded - exact).abs() / exact.abs().clip(lower=1e-3)).max()
        for dtype, metrics in found.items():
            names = {"loss": "loss", "seconds/step": "seconds", "GB": "GB"}
            row |= {f"{shown} {dtype}": metrics[own].iloc[-1] for own, shown in names.items()}
        yield pd.DataFrame([row])


def replay(policy: Policy, problems: Problems, answers: list[Rollout], run: Resolved) -> Callable:
    """In place of a trainer's sampling: a problem's answers, one after the other."""
    prompts = {tuple(ids): p.id for p, ids in zip(problems.pool, policy.prompt_ids(problems.pool), strict=True)}
    stored = {p.id: [list(r.ids) for r in answers if r.problem == p.id] for p in problems.pool}

    def given(prompt_ids: list[list[int]], *_, **__):
        taken = dict.fromkeys(stored, 0)
        ids = []
        for prompt in prompt_ids:
            name = prompts[tuple(prompt)]
            ids.append(stored[name][taken[name] % len(stored[name])])
            taken[name] += 1
        return (
            (ids, None) if REGISTRY[run.stage].graded else ids
        )  # TRL's GRPOTrainer wants log-probabilities beside them

    return given


def full(scale: Scale) -> Iterator[pd.DataFrame]:
    """Two steps of OPD at full length beside the plan; a row a setting, until one fits."""
    planned = plan(FULL[0]).runs.set_index("checkpoint").loc[FULL[1]]
    for over in scale.full:
        resolved = resolve(*FULL, 0)
        limit = over.get("max_new_tokens", resolved.sampling.max_new_tokens)
        params = (
            resolved.params
            | {"steps": 2, "save_steps": 10**6}
            | {k: v for k, v in over.items() if k != "max_new_tokens"}
        )
        hardware = resolved.hardware.model_copy(update={"device": scale.device})
        sampling = resolved.sampling.model_copy(
            update={"max_new_tokens": limit, "engine": "transformers", "vllm": None}
        )
        changed = {"params": params, "sampling": sampling, "hardware": hardware, "validation": None}
        row = {"limit": limit, "micro-batch": params["micro_batch"], "batch": params["batch"]}
        try:
            policy = policy_of(STUDENT, scale, scale.layers[1], "float32")
            teacher = policy_of(TEACHER, scale, scale.layers[1], "bfloat16")
            policy.model.generation_config.min_new_tokens = limit
            words = policy.tokenizer.convert_ids_to_tokens(list(range(3, 40)))
            asked = [" ".join([*words, words[i % 37], words[i // 37]] * 3) for i in range(2 * params["batch"])]
            pool = [Problem(str(i), prompt, "1") for i, prompt in enumerate(asked)]
            with tempfile.TemporaryDirectory() as folder:
                run = Run(resolved.model_copy(update=changed), place=Path(folder))
                metrics = steps_of(run, Inputs(policy, Problems(pool, {}, "exact"), teacher), dense_trainer)
        except torch.OutOfMemoryError:
            policy = teacher = None
            free()
            yield pd.DataFrame([row | {"seconds": "out of memory"}])
            continue
        last = metrics.iloc[-1]
        seconds, sampled = last["seconds/step"], last["seconds/sampling"]
        row |= {"seconds": seconds, "sampling": sampled, "update": seconds - sampled, "GB": last["GB"]}
        row |= {"planned GB": planned["total"] / 1e9}
        row |= {"planned seconds, at most": 3600 * planned["hours at most"] / resolved.params["steps"]}
        yield pd.DataFrame([row])
        return


def command(words: list[str], seconds: float) -> pd.DataFrame:
    """A row of a command's last line and seconds; it is ended when its time is over."""
    began = time.monotonic()
    try:
        done = subprocess.run(
            [sys.executable, *words], cwd=project_root(), capture_output=True, text=True, timeout=seconds
        )
        said = (done.stdout.strip() or done.stderr.strip()).splitlines()
        end = said[-1] if said else f"exit status {done.returncode}"
    except subprocess.TimeoutExpired:
        end = f"{seconds:.0f} seconds were over; what is finished stays"
    return pd.DataFrame([{"command": " ".join(words[1:]), "ends with": end, "seconds": time.monotonic() - began}])


def vllm(scale: Scale, seconds: float) -> Iterator[pd.DataFrame]:
    """The tests of vLLM on a GPU, where it is installed."""
    if importlib.util.find_spec("vllm") is None:
        print("vllm: not installed (pip install 's2d[vllm]'), so its part is left out", flush=True)
        return
    yield command(["-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/gpu/test_vllm_on_a_gpu.py"], seconds)


def study(scale: Scale, seconds: float) -> Iterator[pd.DataFrame]:
    """The study of a real language model, for the time that is left (tiny: only what it would make)."""
    tried = ["--dry-run"] if scale is TINY else []
    yield command(["-m", "s2d_lib.cli", "study", "--profile", STUDY, "--cores", "1", *tried], seconds)


PARTS = {"loss": loss, "stages": stages, "full": full, "vllm": vllm, "study": study}


def write(folder: Path, card: str) -> None:
    """The page of all parts that have been measured on a card."""
    page = [f"# {card}", ", ".join(f"{key} {value}" for key, value in machine().items()) + ". Made by `make gpu`."]
    for part in PARTS:
        if (path := folder / f"gpu-{card}-{part}.csv").is_file():
            table = pd.read_csv(path)
            text = table.map(lambda v: "" if pd.isna(v) else f"{v:.3g}" if isinstance(v, float) else str(v))
            page += [f"## {part}", NOTES[part], text.to_markdown(index=False, disable_numparse=True)]
            if part == "loss":
                page.append(f"![Share of the peak and memory, by case and contender](gpu-{card}-loss.png)")
    (folder / f"gpu-{card}.md").write_text("\n\n".join(page) + "\n", encoding="utf-8")


def loss_plot(table: pd.DataFrame) -> plt.Figure:
    """Share of the card's peak and memory of every contender, by case."""
    use_style()
    table = table.assign(**{"peak memory, GiB": table["peak_mib"] / 1024})
    long = table.melt(["case", "contender"], ["share of peak", "peak memory, GiB"], "what", "value")
    with plt.rc_context({"figure.constrained_layout.use": False}):  # seaborn lays its grids out itself
        grid = sns.catplot(long, kind="bar", y="case", x="value", hue="contender", col="what", sharex=False, height=6)
    grid.set_titles("{col_name}").set_axis_labels("", "")
    plt.close(grid.figure)
    return grid.figure


def no_gpu() -> str:
    """Why torch sees no GPU, and what to do."""
    built = torch.version.cuda
    why = (
        f"is built for CUDA {built} and finds no card, or a driver too old for it"
        if built
        else "is built for CPUs only"
    )
    remedy = "install a driver or a torch that fit each other" if built else "install one that is built for your driver"
    return f"no GPU: torch {torch.__version__} {why}: {remedy}, or try all parts at tiny sizes on this CPU with --tiny."


def main(arguments: list[str] | None = None) -> None:
    """Measure the parts that are named, else all of them."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; default: all")
    parser.add_argument("--minutes", type=float, default=8.0, help="after which no further measurement begins")
    parser.add_argument("--out", type=Path, help="folder of the tables and the page (default: figures/bench)")
    parser.add_argument("--tiny", action="store_true", help="everything at tiny sizes on a CPU, to try it")
    chosen = parser.parse_args(arguments)
    if unknown := set(chosen.parts) - PARTS.keys():
        parser.error(f"there is no part {min(unknown)!r}: choose among {', '.join(PARTS)}")
    if not chosen.tiny and not torch.cuda.is_available():
        sys.exit(no_gpu())
    scale, end = TINY if chosen.tiny else PUBLISHED, time.monotonic() + 60 * chosen.minutes
    card = "tiny" if chosen.tiny else re.sub(r"\W+", "-", torch.cuda.get_device_name().lower()).strip("-")
    folder = chosen.out or project_root() / "figures" / "bench"
    folder.mkdir(parents=True, exist_ok=True)
    for part in chosen.parts or PARTS:
        began, left, tables = time.monotonic(), end - time.monotonic(), []
        budget = SHARES[part] * max(left, 0) if len(chosen.parts) != 1 else left
        rows = PARTS[part](scale, budget) if part in ("vllm", "study") else PARTS[part](scale)
        while time.monotonic() - began < budget:
            try:
                tables.append(next(rows))
            except StopIteration:
                break
            except torch.OutOfMemoryError as error:
                print(f"{part}: this GPU is too small for it ({str(error).splitlines()[0]})", flush=True)
                break
            pd.concat(tables).to_csv(folder / f"gpu-{card}-{part}.csv", index=False, float_format="%.4g")
            write(folder, card)
        if part == "loss" and tables:
            save_figure(loss_plot(pd.concat(tables)), folder, f"gpu-{card}-loss")
        print(f"{part}: {sum(map(len, tables))} rows in {time.monotonic() - began:.0f} s", flush=True)
    print(folder / f"gpu-{card}.md")


if __name__ == "__main__":
    main()
