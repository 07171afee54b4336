"""samples.jsonl: what is in it, and that a killed run goes on as if nothing had happened."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.tiny import child_environment, tiny_config
from wmtp.config.protocols import Protocol
from wmtp.data.tokenizer import train_tokenizer
from wmtp.errors import ConfigError, DataError, GenerationError
from wmtp.evaluation.benchmark import Task
from wmtp.evaluation.complete import Request
from wmtp.evaluation.generate import context_length, encode_prompts, generate_samples
from wmtp.evaluation.vllm_model import finish_of, load_vllm, plain_folder, sampling_arguments
from wmtp.modeling.mtp import MTPModel
from wmtp.pretrained import load_causal_lm

PROTOCOL = Protocol("warm", num_samples=3, temperature=0.9, top_p=0.95, ks=(1,))
TASKS = [Task(f"t/{i}", "def f(x):\n" * (1 + i % 3) + f"    # {i}\n", "") for i in range(5)]


def build() -> tuple[MTPModel, Any]:
    """A random model with sharp choices, and a byte-level tokenizer."""
    tokenizer = train_tokenizer([task.prompt for task in TASKS], 300)
    torch.manual_seed(0)
    model = MTPModel.from_config(tiny_config(vocab_size=300, max_position_embeddings=96), 2)
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() > 1:
                tensor.mul_(3)
    return model, tokenizer


def generated(path: Path, **options: Any) -> list[dict[str, Any]]:
    settings = {"stop": ("\n#", "e"), "max_new_tokens": 20, "seed": 5, **options}
    return generate_samples(*build(), TASKS, PROTOCOL, path, **settings)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def die_after(path: str, number: int) -> None:
    """Run by the test below in a process of its own, which ends without a chance to tidy up."""
    import os

    def progress(done: int, _: int) -> None:
        if done == number:
            os.kill(os.getpid(), signal.SIGKILL)

    generated(Path(path), progress=progress)


def test_records_are_one_per_task_and_sample(tmp_path: Path) -> None:
    path, seen = tmp_path / "samples.jsonl", []
    records = generated(path, progress=lambda *numbers: seen.append(numbers))
    keys = [(task.task_id, i) for task in TASKS for i in range(3)]
    assert [(r["task_id"], r["sample_id"]) for r in records] == keys
    assert sorted(map(json.dumps, lines(path))) == sorted(map(json.dumps, records))
    assert seen == [(i, 15) for i in range(16)]
    assert all(not {"\n#", "e"} & {r["completion"][i : i + 2] for i in range(20)} for r in records)
    assert {r["finish"] for r in records} <= {"end", "stop", "length"}
    assert all(r["prompt"] == TASKS[int(r["task_id"][2:])].prompt for r in records)
    # Nothing is left to draw, with any number of rows, and in any order of what is there.
    path.write_text("".join(f"{json.dumps(line)}\n" for line in reversed(lines(path))))
    before = path.read_bytes()
    assert generated(path, rows=2) == records
    assert path.read_bytes() == before


def test_a_killed_run_draws_nothing_twice(tmp_path: Path) -> None:
    path, whole = tmp_path / "samples.jsonl", tmp_path / "whole.jsonl"
    code = f"from tests.evaluation.test_generate import die_after; die_after({str(path)!r}, 6)"
    done = subprocess.run(
        [sys.executable, "-c", f"import torch; torch.set_num_threads(1); {code}"],
        env=child_environment(),
        check=False,
    )
    assert done.returncode == -signal.SIGKILL
    left = path.read_bytes()
    assert left.count(b"\n") == 6
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # as in the process that was killed
    path.write_bytes(left + b'{"task_id": "t/4", "sam')  # a line cut short
    try:
        assert generated(path, rows=3) == generated(whole)
    finally:
        torch.set_num_threads(threads)
    assert path.read_bytes().startswith(left)
    assert sorted(path.read_bytes().splitlines()) == sorted(whole.read_bytes().splitlines())


def test_what_cannot_be_drawn_is_said(tmp_path: Path) -> None:
    path = tmp_path / "samples.jsonl"
    with pytest.raises(
        DataError, match=r"t/2: the prompt of \d+ tokens and 90 new ones do not fit"
    ):
        generated(path, max_new_tokens=90)
    with pytest.raises(ConfigError, match="max_new_tokens: 0 leaves no room"):
        generated(path, max_new_tokens=0)
    assert not path.exists()


def test_context_lengths_of_families() -> None:
    kinds = ("llama", "gpt2", "mamba", "bloom")
    configs = {kind: tiny_config(kind, max_position_embeddings=None) for kind in kinds}
    found = {kind: context_length(config) for kind, config in configs.items()}
    assert found == {"llama": 2048, "gpt2": 1024, "mamba": None, "bloom": None}
    assert context_length(tiny_config("mpt", max_position_embeddings=None, max_seq_len=48)) == 48
    model, tokenizer = build()
    assert list(encode_prompts(model, tokenizer, TASKS, 1)) == [task.task_id for task in TASKS]


def test_absent_vllm_is_an_error(tmp_path: Path) -> None:
    with (
        pytest.raises(
            GenerationError, match=r"generation\.backend: vllm is not installed\. Install"
        ),
        load_vllm(tmp_path),
    ):
        pass


def test_vllm_gets_the_plain_model(tmp_path: Path) -> None:
    """The folder has every file but those of the heads, and is the model's head 0."""
    model, tokenizer = build()
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with plain_folder(tmp_path) as plain:
        names = {file.name for file in plain.iterdir()}
        assert {file.name for file in tmp_path.iterdir()} - names == {
            "mtp_heads.safetensors",
            "mtp_config.json",
        }
        loaded = load_causal_lm(plain, exactly=True)
        ids = torch.tensor([[5, 6, 7]])
        assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)
    assert not plain.exists()


def test_vllm_gets_the_protocol() -> None:
    one, other = (Request("t/1", i, (1, 2)) for i in (0, 1))
    arguments = sampling_arguments(one, PROTOCOL, ("\n#",), 64, 5)
    seed = arguments.pop("seed")
    assert arguments == {
        "n": 1,
        "temperature": 0.9,
        "top_p": 0.95,
        "max_tokens": 64,
        "stop": ["\n#"],
    }
    assert 0 <= seed < 2**31
    assert seed == sampling_arguments(one, PROTOCOL, (), 64, 5)["seed"]
    assert seed != sampling_arguments(other, PROTOCOL, (), 64, 5)["seed"]
    assert seed != sampling_arguments(one, PROTOCOL, (), 64, 6)["seed"]


def test_vllm_endings_are_ours() -> None:
    assert [finish_of("stop", None), finish_of("stop", 2), finish_of("stop", "\n#")] == [
        "end",
        "end",
        "stop",
    ]
    assert finish_of("length", None) == "length"
