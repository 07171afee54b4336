"""What the installer runs on different machines; nothing is installed here."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[1]
CPU, GPU = ("2.13.0+cpu", "none"), ("2.13.0+cu130", "13.0")

Play = Callable[..., list[str]]


@pytest.fixture
def installer() -> ModuleType:
    spec = importlib.util.spec_from_file_location("install", ROOT / "scripts" / "install.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def play(installer: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Play:
    """Return a function that plays an installation on a machine and returns its commands."""

    def play(
        *,
        base: tuple[str, str] | None = None,
        gpu: bool = False,
        pip_has_cpu_build: bool = True,
        uv_works: bool = True,
        system: str = "linux",
    ) -> list[str]:
        venv = str(tmp_path / "venv")
        has = {"venv": None, "base": base}
        commands: list[str] = []

        def note(*command: str | Path) -> str:
            text = " ".join(map(str, command)).replace(str(tmp_path), "").replace(str(ROOT), "")
            commands.append(text)
            if "--system-site-packages" in text:
                has["venv"] = base
            return text

        def output(*command: str | Path) -> str | None:
            if command[1:] == ("-c", ""):
                return None
            if command[2:] == (installer.SHOW_TORCH,):
                found = has["venv" if str(command[0]).startswith(venv) else "base"]
                return " ".join(found) if found else None
            note(*command)
            if not pip_has_cpu_build:
                return None
            has["venv"] = CPU
            return ""

        def run(*command: str | Path) -> None:
            text = note(*command)
            if system != "linux" and "torch==" in text:
                has["venv"] = ("2.13.0", "none")
            for file in (part for part in command if str(part).endswith(".txt")):
                if "-e" in command:
                    pins = Path(file).read_text().splitlines()
                    commands.extend(pin for pin in pins if pin.startswith("torch=="))

        def run_uv(command: list[str | Path]) -> subprocess.CompletedProcess[str]:
            note(*command)
            has["venv"] = (GPU if gpu else CPU) if uv_works else None
            return subprocess.CompletedProcess([], 0 if uv_works else 1)

        monkeypatch.setattr(installer, "output", output)
        monkeypatch.setattr(installer, "run", run)
        monkeypatch.setattr(installer.subprocess, "run", run_uv)
        monkeypatch.setattr(installer, "has_nvidia_gpu", lambda: gpu)
        monkeypatch.setattr(sys, "platform", system)
        monkeypatch.setattr(sys, "argv", ["install.py", venv])
        installer.main()
        return commands

    return play


def test_a_cpu_machine_gets_the_cpu_build(play: Play) -> None:
    commands = play()
    assert "--system-site-packages" not in commands[0]
    assert commands[1].endswith("torch==2.13.0+cpu")
    assert commands[2].endswith("-e [eval,tracking,lora,lm-eval,dev]")
    assert commands[3:] == ["torch==2.13.0+cpu"]  # what the rest is resolved against


def test_uv_finds_the_cpu_build_where_pip_does_not(play: Play) -> None:
    commands = play(pip_has_cpu_build=False)
    assert commands[2].endswith("-m pip install -q -c /constraints.txt uv")
    assert commands[3].endswith("--torch-backend=cpu torch==2.13.0")


def test_no_build_at_all_is_a_message(play: Play) -> None:
    with pytest.raises(SystemExit, match=r"The cpu build of torch 2\.13\.0 could not be fetched"):
        play(pip_has_cpu_build=False, uv_works=False)


def test_a_gpu_machine_gets_the_build_for_it(play: Play) -> None:
    assert play(gpu=True)[2].endswith("--torch-backend=auto torch==2.13.0")


def test_a_cuda_torch_of_the_interpreter_is_kept(play: Play) -> None:
    commands = play(base=("2.11.0+cu128", "12.8"), gpu=True)
    assert "--system-site-packages" in commands[0]
    assert len(commands) == 3
    assert commands[2] == "torch==2.11.0+cu128"


@pytest.mark.parametrize("base", [("2.10.1+cu128", "12.8"), CPU])
def test_another_torch_of_the_interpreter_is_not(play: Play, base: tuple[str, str]) -> None:
    assert "--system-site-packages" not in play(base=base)[0]


def test_a_mac_gets_the_plain_build(play: Play) -> None:
    assert play(system="darwin")[1].endswith("torch==2.13.0")
