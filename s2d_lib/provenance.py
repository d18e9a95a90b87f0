"""What a result was made with: package versions, git revision, machine, peak memory."""

import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = (
    "s2d",
    "torch",
    "transformers",
    "trl",
    "peft",
    "accelerate",
    "datasets",
    "tokenizers",
    "numpy",
    "math-verify",
)


def environment() -> dict:
    """Versions, git revision and machine, as JSON-ready values."""
    return {
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in PACKAGES},
        "git": git_revision(),
        "machine": f"{platform.system()} {platform.machine()}",
    }


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def git_revision() -> str | None:
    """Commit of the checkout, with `+` where tracked files differ from it; None outside a git checkout."""
    here = Path(__file__).parent

    def git(*words: str) -> str:
        found = subprocess.run(["git", *words], cwd=here, capture_output=True, check=True, encoding="utf-8")
        return found.stdout.strip()

    try:
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return None


def peak_memory_mb() -> dict[str, float]:
    """Highest resident memory of this process and, where a GPU is used, highest allocated GPU memory; MiB."""
    unit = 1024 if sys.platform != "darwin" else 1024**2
    peak = {"cpu": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 1024**2, 1)
    return peak
