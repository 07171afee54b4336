"""Provenance names code, libraries and machine, and no secret."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from datetime import datetime, timedelta
from importlib.metadata import version
from pathlib import Path

import pytest

import wmtp.provenance as module
from wmtp.provenance import available_cpus, provenance


def test_it_is_plain_json_about_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/a/b/wmtp", "train", "--set", "x.token=hunter2"])
    found = json.loads(json.dumps(provenance()))
    assert found["versions"]["torch"] == version("torch")
    assert found["python"] == ".".join(map(str, sys.version_info[:3]))
    assert found["cpus"] == available_cpus() >= 1
    assert datetime.fromisoformat(found["time"]).utcoffset() == timedelta(0)
    assert found["command"] == ["wmtp", "train", "--set", "x.token=..."]
    assert found["device"] is not None  # the tests have loaded torch


def test_it_does_not_load_torch() -> None:
    code = (
        "import sys; from wmtp.provenance import provenance; found = provenance(); "
        "print(found['device'], 'torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["None", "False"]


def test_the_commit_of_the_checkout_that_holds_the_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if shutil.which("git") is None:
        pytest.skip("git is not installed")
    file = tmp_path / "provenance.py"
    file.write_text("")
    monkeypatch.setattr(module, "__file__", str(file))

    def git(*arguments: str) -> str:
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        done = subprocess.run(
            ["git", *identity, *arguments], cwd=tmp_path, capture_output=True, text=True, check=True
        )
        return done.stdout.strip()

    assert provenance()["commit"] is None
    git("init", "--quiet")
    assert provenance()["commit"] is None  # a checkout of something else
    git("add", ".")
    git("commit", "--quiet", "-m", "first")
    assert (provenance()["commit"], provenance()["dirty"]) == (git("rev-parse", "HEAD"), False)
    file.write_text("changed")
    assert provenance()["dirty"] is True
