"""Can vLLM sample what the profile asks of it?"""

from collections.abc import Iterator

from s2d_lib.check.line import Line
from s2d_lib.check.params import resolved_runs
from s2d_lib.engines.refusals import names, refuse_training, uses
from s2d_lib.engines.server import Server
from s2d_lib.engines.version import checked_version
from s2d_lib.errors import StudyError
from s2d_lib.study import load_profile


def check_engine(profile: str) -> Iterator[Line]:
    """Version, training on this hardware and, in server mode, who serves; nothing where transformers samples."""
    settings, runs = load_profile(profile), resolved_runs(profile)
    options = settings.sampling.vllm
    if options is None:
        return
    wanted = {name: set(uses(run)) for name, run in runs.items()}
    training = [run for name, run in runs.items() if "training" in wanted[name]]
    if training:
        how = "a fresh engine before every sampling" if options.fresh_each_update else "can be updated in place"
        yield _line("vLLM in training", lambda: refuse_training(training[0]), how)
    if training or options.mode == "colocate":
        yield _line("vLLM", lambda: checked_version(settings.hardware.device), "{} is installed, and supported")
    if options.mode == "server":
        known = [name for run in runs.values() for name in names(run)]
        yield _line("vLLM's server", lambda: _serves(Server(options), known), "{}")


def _serves(server: Server, known: list[str]) -> str:
    server.refuse_another_model(known)
    return f"vLLM {server.version} serves {server.model} at {server.url}"


def _line(about: str, look, says: str) -> Line:
    try:
        return Line(about, says.format(look()))
    except StudyError as error:
        return Line(about, str(error), ok=False)
