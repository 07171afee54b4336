"""CPU seconds per generated token, beside `transformers.generate` with the same batch, on a ragged load.

Tasks with prompts of many lengths and several samples each, on a random Llama whose end tokens are a
share of the vocabulary, so that lengths are geometric: `--mean-length` says how long, `--max-new-tokens`
bounds them. Ours is `wmtp.evaluation.complete`. Theirs is what an evaluation with `generate` does: prompts
sorted by length, batches padded on the left, a key/value cache; a batch lasts as long as its longest row.
Both sample with the same settings and hand over token ids; every row's own tokens count. Rounds alternate,
each in a process of its own for its peak of memory. CPU seconds, since other work may share the machine.

    python benchmarks/generation.py --threads 1
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.utils import logging as transformers_logging

from wmtp.config.protocols import Protocol
from wmtp.evaluation.complete import Endings, Request, complete

# Hidden size, feed-forward size, layers, heads, key/value heads, vocabulary.
SIZES = {
    "1M": (128, 352, 4, 4, 4, 2000),
    "9M": (320, 864, 6, 5, 5, 4000),
    "33M": (512, 1376, 8, 8, 2, 16000),
}


class Ids:
    """Stands where a tokenizer does: no text is made, on neither side."""

    eos_token_id = None

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return " ".join(map(str, ids))


def workload(a: argparse.Namespace) -> tuple[Any, list[Request], set[int]]:
    """Return the model, one request per sample, and the tokens that end a completion."""
    width, inner, layers, heads, kv_heads, vocab = SIZES[a.size]
    config = AutoConfig.for_model(
        "llama",
        vocab_size=vocab,
        hidden_size=width,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        num_key_value_heads=kv_heads,
        max_position_embeddings=4096,
    )
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    draw = random.Random(0)
    requests = []
    for task in range(a.tasks):
        length = draw.randint(*a.prompt_lengths)
        prompt = tuple(draw.randrange(vocab) for _ in range(length))
        requests += [Request(f"t/{task}", sample, prompt) for sample in range(a.samples)]
    ends = set() if a.mean_length == 0 else set(range(round(vocab / a.mean_length)))
    return model, requests, ends


def ours(a: argparse.Namespace) -> int:
    """Return the number of tokens drawn by this project."""
    model, requests, ends = workload(a)
    model.generation_config.eos_token_id = sorted(ends) or None
    endings = Endings(model, Ids(), (), a.max_new_tokens)
    protocol = Protocol("benchmark", a.samples, a.temperature, a.top_p, (1,))
    started = begin()
    requests.sort(key=lambda request: -len(request.prompt))
    drawn = complete(model, requests, protocol, endings, seed=0, rows=a.batch)
    tokens = sum(len(c.text.split()) + (c.finish == "end") for c in drawn)
    return report(started, tokens)


def transformers(a: argparse.Namespace) -> int:
    """Return the number of tokens drawn by `generate`."""
    model, requests, ends = workload(a)
    requests.sort(key=lambda request: -len(request.prompt))
    pad = model.config.vocab_size - 1
    started, tokens = begin(), 0
    for start in range(0, len(requests), a.batch):
        batch = [list(request.prompt) for request in requests[start : start + a.batch]]
        width = max(map(len, batch))
        ids = torch.tensor([[pad] * (width - len(p)) + p for p in batch])
        mask = torch.tensor([[0] * (width - len(p)) + [1] * len(p) for p in batch])
        torch.manual_seed(start)
        out = model.generate(
            ids,
            attention_mask=mask,
            max_new_tokens=a.max_new_tokens,
            do_sample=True,
            temperature=a.temperature,
            top_p=a.top_p,
            top_k=0,
            eos_token_id=sorted(ends) or None,
            pad_token_id=pad,
        )
        for row in out[:, width:].tolist():
            tokens += next((i + 1 for i, token in enumerate(row) if token in ends), len(row))
    return report(started, tokens)


def begin() -> tuple[float, int]:
    return time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def report(started: tuple[float, int], tokens: int) -> int:
    """Print what a round took, as JSON: CPU seconds, tokens, and growth of memory in MiB."""
    seconds = time.process_time() - started[0]
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - started[1]
    print(json.dumps({"seconds": seconds, "tokens": tokens, "memory": grown / 1024}))
    return tokens


WHO = {"wmtp": ours, "transformers": transformers}


def rounds(arguments: list[str], number: int) -> dict[str, list[dict[str, float]]]:
    """Run both sides in turn, each time in a fresh process."""
    found: dict[str, list[dict[str, float]]] = {who: [] for who in WHO}
    for _ in range(number):
        for who, results in found.items():
            command = [sys.executable, __file__, "--only", who, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            results.append(json.loads(done.stdout.splitlines()[-1]))
    return found


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", choices=SIZES, help="default: all")
    parser.add_argument("--tasks", type=int, default=8)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--prompt-lengths", type=int, nargs=2, default=(40, 200))
    parser.add_argument("--mean-length", type=int, help="0: none ends; default: 32, and 0")
    parser.add_argument("--max-new-tokens", type=int, default=128)
    parser.add_argument("--temperature", type=float, default=0.8)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=WHO, help=argparse.SUPPRESS)
    parser.add_argument(
        "--json", type=Path, default=Path(__file__).parent / "results/generation.json"
    )
    a = parser.parse_args()
    torch.set_num_threads(a.threads)
    transformers_logging.set_verbosity_error()
    if a.only is not None:
        WHO[a.only](a)
        return
    results = []
    print(f"{'':22} {'tokens':>8} {'CPU s':>8} {'tokens/s':>9} {'MiB':>6} {'ratio':>6}")
    for size in [a.size] if a.size else SIZES:
        for mean in (32, 0) if a.mean_length is None else (a.mean_length,):
            given = {**vars(a), "size": size, "mean_length": mean}
            names = ["size", "tasks", "samples", "mean_length", "max_new_tokens", "temperature"]
            names += ["top_p", "batch", "threads"]
            options = [x for n in names for x in (f"--{n.replace('_', '-')}", str(given[n]))]
            options += ["--prompt-lengths", *map(str, a.prompt_lengths)]
            speeds = {}
            for who, runs in rounds(options, a.rounds).items():
                middle = {key: statistics.median(run[key] for run in runs) for key in runs[0]}
                speeds[who] = statistics.median(run["tokens"] / run["seconds"] for run in runs)
                settings = {name: given[name] for name in names}
                results.append({"who": who, **settings, **middle, "tokens_per_second": speeds[who]})
                ratio = speeds["wmtp"] / speeds[who]
                label = f"{size}, {'ragged' if mean else 'even'}, {who}"
                print(
                    f"{label:26} {middle['tokens']:8.0f} {middle['seconds']:8.1f} {speeds[who]:9.1f} "
                    f"{middle['memory']:6.0f} {ratio:6.2f}",
                    flush=True,
                )
    a.json.parent.mkdir(exist_ok=True)
    machine = {"machine": platform.machine(), "torch": torch.__version__}
    a.json.write_text(json.dumps({**machine, "results": results}, indent=2))


if __name__ == "__main__":
    main()
