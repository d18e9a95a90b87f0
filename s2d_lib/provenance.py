"""What a result was made with: hashes of files, package versions, git revision, machine, peak memory."""

import functools
import hashlib
import platform
import resource
import subprocess
import sys
from importlib import metadata
from pathlib import Path

PACKAGES = ["s2d", "torch", "transformers", "trl", "peft", "accelerate", "datasets", "tokenizers", "numpy",
            "math-verify"]  # fmt: skip


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
    """Commit of the checkout that holds this file, with `+` where tracked files differ from it; elsewhere (an unpacked
    archive, an installed package, inside whatever other repository) the package's version."""
    here = Path(__file__)

    def git(*words: str) -> str:
        command = ["git", "-C", str(here.parent), *words]
        return subprocess.check_output(command, encoding="utf-8", stderr=subprocess.DEVNULL).strip()

    try:
        git("ls-files", "--error-unmatch", here.name)
        return git("rev-parse", "HEAD") + ("+" if git("status", "--porcelain", "--untracked-files=no") else "")
    except (OSError, subprocess.CalledProcessError):
        return _version("s2d")


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes; in one process a file is read again only when its size or time stamp has changed."""
    found = path.stat()
    return _hash(path, found.st_mtime_ns, found.st_size)


@functools.cache
def _hash(path: Path, *version: int) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def peak_memory_mb() -> dict[str, float]:
    """Highest resident memory of this process and, where a GPU is used, highest allocated GPU memory; MiB."""
    unit = 1024 if sys.platform != "darwin" else 1024**2
    peak = {"cpu": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit, 1)}
    torch = sys.modules.get("torch")
    if torch is not None and torch.cuda.is_available():
        peak["gpu"] = round(torch.cuda.max_memory_allocated() / 1024**2, 1)
    return peak
