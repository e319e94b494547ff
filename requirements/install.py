"""Set up ``.venv`` from the full lock: vLLM's CUDA build where an NVIDIA GPU is present, its CPU build otherwise.

Run by ``make setup`` with the system's Python 3.11; needs nothing but pip. Done once: a stamp holds the build and the
digest of what was installed, so a second call returns at once and a changed lock installs again. The build of an
environment never changes: machines with and without a GPU (a cluster's login node) may share one. ``ADG_BUILD=cuda``
or ``cpu`` chooses it for a new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.txt"


def run(*command: str | Path) -> None:
    subprocess.run([str(part) for part in command], check=True)


def gpu_present() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True)
    return done.returncode == 0 and "GPU" in done.stdout


def torch_is_cuda_build(python: Path) -> bool:
    """Whether the installed torch wheel asks for CUDA runtime packages (it then needs them even to be imported)."""
    code = "from importlib.metadata import requires; print('nvidia' in ' '.join(requires('torch') or []))"
    return subprocess.run([python, "-c", code], capture_output=True, text=True, check=True).stdout.strip() == "True"


def choose() -> str:
    """The build of the environment that is there, else the one asked for, else the one for this machine."""
    asked = os.environ.get("ADG_BUILD", "")
    if asked not in ("", "cuda", "cpu"):
        sys.exit(f"ADG_BUILD is {asked!r}; expected cuda or cpu")
    stamped = STAMP.read_text().split() if STAMP.is_file() else []
    if not stamped:
        return asked or ("cuda" if gpu_present() else "cpu")
    installed = stamped[0]
    if asked and asked != installed:
        sys.exit(f"{VENV} holds the {installed} build and ADG_BUILD is {asked}; run: make clean-env")
    if installed == "cpu" and gpu_present():
        print(f"note: {VENV} holds the CPU build and here is a GPU; for the CUDA build: make clean-env setup")
    return installed


def main() -> None:
    if sys.version_info[:2] != (3, 11):
        sys.exit(f"Python 3.11 is needed and this is {sys.version.split()[0]}; run: make setup PYTHON=python3.11")
    build = choose()
    lock = HERE / f"{build}.lock"
    runtime = HERE / "torch-cuda.lock"
    digest = hashlib.sha256(
        lock.read_bytes() + runtime.read_bytes() + (ROOT / "pyproject.toml").read_bytes()
    ).hexdigest()
    if STAMP.is_file() and STAMP.read_text().split() == [build, digest]:
        return
    python = VENV / "bin" / "python"
    if not python.exists():
        print(f"creating {VENV}", flush=True)
        run(sys.executable, "-m", "venv", VENV)
    print(f"installing {sum(1 for _ in open(lock)) - 1} packages from {lock.name} (a few minutes)", flush=True)
    pip: list[str | Path] = [python, "-m", "pip", "-qq", "--disable-pip-version-check"]
    # No dependency is resolved here: the lock is complete, and three packages that vLLM names but text models do not
    # need (torchvision, torchaudio, torchcodec) must stay out, as their default wheels break a CPU build of torch.
    run(*pip, "install", "--no-deps", "--prefer-binary", "-r", lock)
    if build == "cpu" and torch_is_cuda_build(python):
        print("the package index serves torch as its CUDA build: adding the CUDA runtime it needs", flush=True)
        run(*pip, "install", "--no-deps", "--prefer-binary", "-r", runtime)
    run(*pip, "install", "--no-deps", "--no-build-isolation", "--editable", ROOT)
    STAMP.write_text(f"{build} {digest}\n")


if __name__ == "__main__":
    main()
