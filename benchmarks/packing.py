"""CPU seconds from texts to packed rows, beside TRL's, on the same examples and tokenizer.

Ours is `encode_examples`, then the rows of every step of one epoch. TRL's is what its `SFTTrainer` does
with prompts and completions: `datasets.map` over a function that tokenises one example, then
`pack_dataset` with best-fit decreasing. Where TRL is not installed, ours stands alone. Rounds alternate;
the medians are printed with the share of tokens that are no padding.

    python benchmarks/packing.py --mbpp mbpp.jsonl
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import statistics
import tempfile
import time
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from wmtp.config.recipe import OptimizationSection
from wmtp.data.encode import EncodedSet, encode_examples
from wmtp.data.example import Example
from wmtp.data.order import training_order
from wmtp.data.packing import PackedSamples, Packing
from wmtp.data.sources.mbpp import Mbpp
from wmtp.data.sources.minicode.source import Minicode
from wmtp.data.tokenizer import train_tokenizer


def ours(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, max_length: int, batch: int
) -> tuple[float, float, float]:
    """Return CPU seconds of tokens and of rows, and the share of tokens that are no padding."""
    started = time.process_time()
    data: EncodedSet = encode_examples(examples, tokenizer, max_length, "benchmark")
    encoded = time.process_time()
    budget = OptimizationSection(learning_rate=1.0, global_batch=batch, epochs=1)
    packing = Packing(data, training_order(data, budget, None, seed=0), batch, max_length)
    rows = packing.rows_needed()
    samples = PackedSamples(packing, rows)
    lengths = [sum(len(item) for _, item in samples[place]) for place in range(len(samples))]
    packed = time.process_time()
    # A forward has the rows of a step, each as long as the longest.
    padded = sum(
        rows * -(-max(lengths[i : i + rows]) // 8) * 8 for i in range(0, len(lengths), rows)
    )
    return encoded - started, packed - encoded, sum(lengths) / padded


def trl(
    examples: list[Example], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[float, float, float]:
    """The same of TRL, its rows padded to the longest possible one."""
    import datasets
    from trl.data_utils import pack_dataset

    datasets.disable_progress_bars()
    pairs = [{"prompt": e.prompt, "completion": e.completion} for e in examples]
    end = str(tokenizer.eos_token)

    def tokens(example: dict[str, str]) -> dict[str, list[int]]:
        prompt = tokenizer(text=example["prompt"])["input_ids"]
        whole = tokenizer(text=example["prompt"] + example["completion"] + end)["input_ids"]
        return {
            "input_ids": whole,
            "completion_mask": [0] * len(prompt) + [1] * (len(whole) - len(prompt)),
        }

    with tempfile.TemporaryDirectory() as folder:
        dataset = datasets.Dataset.from_list(pairs)
        cache = {"cache_file_name": str(Path(folder) / "tokens.arrow")}
        started = time.process_time()
        dataset = dataset.map(tokens, remove_columns=["prompt", "completion"], **cache)
        encoded = time.process_time()
        dataset = pack_dataset(
            dataset.select_columns(["input_ids", "completion_mask"]),
            max_length,
            "bfd",
            {"cache_file_name": str(Path(folder) / "rows.arrow")},
        )
        packed = time.process_time()
        used = sum(map(len, dataset["input_ids"]))
    return encoded - started, packed - encoded, used / (len(dataset) * max_length)


def main() -> None:
    """Print the table and write it as JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mbpp", type=Path, help="mbpp.jsonl")
    parser.add_argument("--num-problems", type=int, default=1000)
    parser.add_argument("--max-lengths", type=int, nargs="+", default=[1024, 2048])
    parser.add_argument("--global-batch", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path, default=Path(__file__).parent / "results/packing.json")
    a = parser.parse_args()
    sources = {"minicode": Minicode(Minicode.Config(num_problems=a.num_problems))}
    if a.mbpp is not None:
        sources["mbpp"] = Mbpp(Mbpp.Config(path=str(a.mbpp)))
    there = importlib.util.find_spec("trl") is not None
    if not there:
        print("TRL is not installed: nothing to compare with (pip install trl)")
    results = []
    print(f"{'':26} {'examples':>8} {'tokens s':>9} {'rows s':>9} {'full':>7}")
    for name, source in sources.items():
        examples = list(source.examples("train"))
        tokenizer = train_tokenizer((e.prompt + e.completion for e in examples), 2000)
        for max_length in a.max_lengths:
            found: dict[str, list[tuple[float, float, float]]] = {}
            for _ in range(a.rounds):
                run = ours(examples, tokenizer, max_length, a.global_batch)
                found.setdefault("wmtp", []).append(run)
                if there:
                    found.setdefault("trl", []).append(trl(examples, tokenizer, max_length))
            for who, runs in found.items():
                encode, pack, full = (statistics.median(part) for part in zip(*runs, strict=True))
                label = f"{name} {max_length}, {who}"
                print(f"{label:26} {len(examples):8} {encode:9.3f} {pack:9.3f} {full:7.2%}")
                row = {"data": name, "max_length": max_length, "who": who, "full": full}
                results.append({**row, "examples": len(examples), "encode": encode, "pack": pack})
    a.json.parent.mkdir(exist_ok=True)
    a.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
