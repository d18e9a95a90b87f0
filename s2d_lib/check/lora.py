"""Do the adapters that a profile asks for have layers to go on?"""

from collections.abc import Iterator

from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.plan.architecture import architecture_of
from s2d_lib.plan.trained import linear_layers, lora_of
from s2d_lib.study.load import did_you_mean


def check_lora(profile: str) -> Iterator[Line]:
    """Every name in `lora.target_modules` against the linear layers of the model that is trained; one line a model.

    Raises:
        StudyError: A model of unknown shape.
    """
    asked: dict[str, set[str]] = {}
    for run in resolved_runs(profile).values():
        if lora := lora_of(run):
            named = lora.target_modules if isinstance(lora.target_modules, list) else []
            asked.setdefault(run.model.model, set()).update(named)
    for model, names in asked.items():
        known = linear_layers(architecture_of(model))
        unknown = sorted(name for name in names if name.rsplit(".", 1)[-1] not in known)
        if unknown:
            hint = did_you_mean(unknown[0], known)
            says = f"lora.target_modules names {unknown[0]!r}, which is no linear layer of this architecture; {hint}"
            yield Line(f"lora on {model}", says, ok=False)
        else:
            yield Line(f"lora on {model}", f"adapters on {', '.join(sorted(names)) or 'all linear layers'}")
