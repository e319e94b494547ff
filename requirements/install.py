"""Set up ``.venv`` from the locks: vLLM's CUDA build where an NVIDIA GPU is present, its CPU build otherwise.

Run by ``make setup`` with whatever Python is there; needs nothing but pip. Where that one's version does not serve, one
that does is looked for. Done once: a stamp holds the build and the digest of what was installed, so a second call
returns at once and a changed lock installs again. The build of an environment never changes: machines with and without
a GPU (a cluster's login node) may share one. ``ADG_BUILD=cuda`` or ``cpu`` chooses it for a new one.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
VENV = ROOT / ".venv"
STAMP = VENV / "installed.txt"
VERSIONS = ((3, 11), (3, 12), (3, 13))  # of Python, which the locks serve
TORCH_CPU = (3, 11)  # the one whose file torch-cpu.lock names; the others take torch's CUDA build, which runs on a CPU
ENOUGH = "import sys, ensurepip, venv; print(*sys.version_info[:2])"  # Debian has venv and ensurepip in another package


def run(*command: str | Path, needed: bool = True) -> bool:
    """Run a command; stop where it fails, or give False where ``needed`` is false and the index lists no such file."""
    done = subprocess.run([str(part) for part in command], stderr=subprocess.PIPE, text=True, encoding="utf-8")
    if not needed and "No matching distribution found" in done.stderr:
        return False
    sys.stderr.write(done.stderr)
    if done.returncode:
        sys.exit(f"failed with exit status {done.returncode}: {' '.join(str(part) for part in command)}")
    return True


def version(python: str | Path) -> tuple[int, ...]:
    """The version of an interpreter that has venv and pip; () where it has not, or is none."""
    try:
        done = subprocess.run([str(python), "-c", ENOUGH], capture_output=True, text=True, encoding="utf-8", timeout=60)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return tuple(map(int, done.stdout.split())) if done.returncode == 0 else ()


def serves(python: str | Path) -> bool:
    """Whether an interpreter can make the environment."""
    return version(python) in VERSIONS


def candidates() -> Iterator[str]:
    """Interpreters to try: this one, those on the path, those of pyenv and of uv; the newest of each place first."""
    names = [f"python{major}.{minor}" for major, minor in reversed(VERSIONS)]
    yield sys.executable
    yield from filter(None, map(shutil.which, names))
    home = Path.home()
    for folder in (Path(os.environ.get("PYENV_ROOT") or home / ".pyenv") / "versions", home / ".local/share/uv/python"):
        for name in names:
            yield from map(str, sorted(folder.glob(f"*/bin/{name}"), reverse=True))


def interpreter() -> str:
    """The first interpreter that serves. Exits where there is none."""
    found = next(filter(serves, candidates()), None)
    if found is None:
        wanted = ", ".join(f"3.{minor}" for _, minor in VERSIONS)
        sys.exit(
            f"this is Python {sys.version.split()[0]}, and no Python {wanted} with venv and pip was found; install one "
            f"(Debian and Ubuntu: apt install python3 python3-venv) or name it: make setup PYTHON=/path/to/python3.12"
        )
    return found


def gpu_present() -> bool:
    if shutil.which("nvidia-smi") is None:
        return False
    done = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, encoding="utf-8")
    return done.returncode == 0 and "GPU" in done.stdout


def pip(python: Path, *arguments: str | Path, needed: bool = True) -> bool:
    """Install into the environment, resolving nothing: the locks are complete.

    Three packages that vLLM names but text models do not need (torchvision, torchaudio, torchcodec) must stay out, as
    their default wheels break a CPU build of torch.
    """
    command = (python, "-m", "pip", "-qq", "--disable-pip-version-check", "install", "--no-deps")
    return run(*command, *arguments, needed=needed)


def install_wheels(python: Path, lock: str, needed: bool = True) -> bool:
    """Install what a lock names, from wheels whose sha256 stands in it."""
    return pip(python, "--require-hashes", "--only-binary", ":all:", "-r", HERE / lock, needed=needed)


def choose() -> str:
    """The build of the environment that is there, else the one asked for, else the one for this machine."""
    asked = os.environ.get("ADG_BUILD", "")
    if asked not in ("", "cuda", "cpu"):
        sys.exit(f"ADG_BUILD is {asked!r}; expected cuda or cpu")
    stamped = STAMP.read_text(encoding="utf-8").split() if STAMP.is_file() else []
    if not stamped:
        return asked or ("cuda" if gpu_present() else "cpu")
    installed = stamped[0]
    if asked and asked != installed:
        sys.exit(f"{VENV} holds the {installed} build and ADG_BUILD is {asked}; run: make clean-env")
    if installed == "cpu" and gpu_present():
        print(f"note: {VENV} holds the CPU build and here is a GPU; for the CUDA build: make clean-env setup")
    return installed


def main() -> None:
    build = choose()
    contents = b"".join(path.read_bytes() for path in (*sorted(HERE.glob("*.lock")), ROOT / "pyproject.toml"))
    digest = hashlib.sha256(contents).hexdigest()
    if STAMP.is_file() and STAMP.read_text(encoding="utf-8").split() == [build, digest]:
        return
    python = VENV / "bin" / "python"
    if not python.exists():
        found = interpreter()
        print(f"creating {VENV} with {found}", flush=True)
        run(found, "-m", "venv", VENV)
    elif not serves(python):
        sys.exit(f"{VENV} holds a Python that does not serve; run: make clean-env setup")
    print(f"installing the packages of requirements/{build}.lock (a few minutes)", flush=True)
    install_wheels(python, f"{build}.lock")
    if build == "cpu" and not (version(python) == TORCH_CPU and install_wheels(python, "torch-cpu.lock", needed=False)):
        print("no CPU build of torch is locked or found here: installing the CUDA build and its runtime", flush=True)
        install_wheels(python, "torch-cuda.lock")
    # What has no wheel is built with the setuptools just installed: no build environment of unpinned tools is made, and
    # no wheel is taken from pip's cache, where another setuptools may have built it.
    here = ["--no-build-isolation", "--use-pep517", "--no-cache-dir"]
    pip(python, "--require-hashes", *here, "-r", HERE / "source.lock")
    pip(python, *here, "--editable", ROOT)
    STAMP.write_text(f"{build} {digest}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
