"""Set up a virtual environment for this project: `python scripts/install.py .venv`.

Needs only the standard library. Keeps a torch that is there; otherwise installs the CPU build on a
Linux machine without an NVIDIA GPU, so that gigabytes of CUDA libraries stay away, and the build
for the GPU where there is one.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONSTRAINTS = ROOT / "constraints.txt"
EXTRAS = "eval,tracking,lora,lm-eval,dev"
OLDEST_TORCH = (2, 11)
SHOW_TORCH = "import torch; print(torch.__version__, torch.version.cuda or 'none')"


def main() -> None:
    """Create or complete the environment named on the command line."""
    if sys.version_info < (3, 11):  # noqa: UP036 - this is what says so
        sys.exit(f"Python 3.11 or newer is needed; {sys.executable} is {sys.version.split()[0]}.")
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute()
    python = folder / "bin" / "python"
    gpu = has_nvidia_gpu()
    if output(python, "-c", "") is None:
        create(folder)
    torch = installed_torch(python)
    if torch is None:
        install_torch(python, gpu)
        torch = installed_torch(python)
    if torch is None:
        sys.exit(f"torch was installed into {folder} but cannot be imported; see above.")
    version, cuda = torch
    print(f"torch {version} (CUDA: {cuda}); installing wmtp and the rest", flush=True)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as constraints:
        # The torch that is there counts, not the pinned one.
        text = CONSTRAINTS.read_text(encoding="utf-8")
        constraints.write(re.sub(r"(?m)^torch==.*$", f"torch=={version}", text))
        constraints.flush()
        run(python, "-m", "pip", "install", "-q", "-c", constraints.name, "-e", f"{ROOT}[{EXTRAS}]")
    unwanted = [path.stem for path in folder.glob("lib/python*/site-packages/nvidia_*.dist-info")]
    if cuda == "none" and unwanted:
        sys.exit(f"CUDA packages came with a CPU torch: {', '.join(unwanted)}. Run `make clean`.")


def create(folder: Path) -> None:
    """Create the environment; it sees the interpreter's packages when those hold a CUDA torch."""
    base = Path(getattr(sys, "_base_executable", sys.executable))
    torch = installed_torch(base)
    if torch is None or torch[1] == "none":
        print(f"creating {folder}", flush=True)
        run(base, "-m", "venv", "--clear", folder)
    else:
        print(f"creating {folder} on top of torch {torch[0]}", flush=True)
        run(base, "-m", "venv", "--clear", "--system-site-packages", folder)


def install_torch(python: Path, gpu: bool) -> None:
    """Install the pinned torch in the build that suits this machine."""
    found = re.search(r"(?m)^torch==(\S+)$", CONSTRAINTS.read_text(encoding="utf-8"))
    if found is None:
        sys.exit(f"{CONSTRAINTS} does not pin torch.")
    pin = found[1]
    if sys.platform != "linux":
        run(python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS, f"torch=={pin}")
        return
    print(f"installing torch {pin}, {'GPU' if gpu else 'CPU'} build", flush=True)
    pip: list[str | Path] = [python, "-m", "pip", "install", "-q", "-c", CONSTRAINTS]
    if not gpu and output(*pip, f"torch=={pin}+cpu") is not None:
        return
    # pip sees no such build in its indexes; uv knows where PyTorch publishes it.
    run(*pip, "uv")
    backend = "auto" if gpu else "cpu"
    uv: list[str | Path] = [
        python,
        "-m",
        "uv",
        "pip",
        "install",
        "--python",
        python,
        "-c",
        CONSTRAINTS,
    ]
    if subprocess.run([*uv, f"--torch-backend={backend}", f"torch=={pin}"]).returncode:
        sys.exit(
            f"The {backend} build of torch {pin} could not be fetched. Install a torch >= "
            f"{'.'.join(map(str, OLDEST_TORCH))} of your choice with {python} -m pip, then repeat "
            "`make install`, which keeps it."
        )


def installed_torch(python: Path) -> tuple[str, str] | None:
    """Return version and CUDA version ("none" without) of a torch that is new enough, or None."""
    found = output(python, "-c", SHOW_TORCH)
    if not found:
        return None
    version, cuda = found.split()
    numbers = tuple(int(part) for part in re.findall(r"\d+", version)[:2])
    return (version, cuda) if numbers >= OLDEST_TORCH else None


def has_nvidia_gpu() -> bool:
    """Say whether an NVIDIA driver answers on this machine."""
    return shutil.which("nvidia-smi") is not None and bool(output(Path("nvidia-smi"), "-L"))


def output(*command: str | Path) -> str | None:
    """Return what a command prints, or None when it fails or does not exist."""
    try:
        done = subprocess.run([str(part) for part in command], capture_output=True, text=True)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def run(*command: str | Path) -> None:
    """Run a command; its failure ends this program with the same exit code."""
    code = subprocess.run([str(part) for part in command]).returncode
    if code:
        sys.exit(code)


if __name__ == "__main__":
    main()
