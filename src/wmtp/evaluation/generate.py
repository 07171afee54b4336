"""Completions for the tasks of a benchmark, batched, appended to samples.jsonl as they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase, set_seed

from wmtp.config.protocols import Protocol
from wmtp.data.encode import prompt_ids
from wmtp.errors import DataError
from wmtp.evaluation.benchmark import Task
from wmtp.evaluation.extraction import cut_at_stop
from wmtp.evaluation.judge import read_samples
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import append_jsonl


def generate_samples(
    model: MTPModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Task],
    protocol: Protocol,
    path: Path,
    *,
    stop: tuple[str, ...],
    max_new_tokens: int,
    seed: int,
    batch_size: int = 64,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Return one record per task and sample; what `path` already holds is not drawn again.

    A record is `{task_id, sample_id, prompt, completion}`. Prompts of like length are batched, with a
    key/value cache; a completion ends at the end token, at the first of `stop`, or after
    `max_new_tokens`. Each batch is seeded by what is in it, so that a resumed run draws the same.
    """
    encoded = encode_prompts(model, tokenizer, tasks, max_new_tokens)
    # Batches are cut from all tasks, not from what is left, so that resuming changes no batch.
    wanted = [(task, sample) for task in tasks for sample in range(protocol.num_samples)]
    wanted.sort(key=lambda pair: (len(encoded[pair[0].task_id]), pair[0].task_id, pair[1]))
    model.eval()
    with append_jsonl(path) as out:
        done = read_samples(path, ("task_id", "sample_id", "completion"))
        have = {(record["task_id"], record["sample_id"]) for record in done}
        for start in range(0, len(wanted), batch_size):
            batch = wanted[start : start + batch_size]
            if any((task.task_id, sample) not in have for task, sample in batch):
                set_seed(seed + start)
                ids = [encoded[task.task_id] for task, _ in batch]
                texts = _complete(model, tokenizer, ids, protocol, max_new_tokens)
                for (task, sample), text in zip(batch, texts, strict=True):
                    if (task.task_id, sample) in have:
                        continue
                    record = {"task_id": task.task_id, "sample_id": sample, "prompt": task.prompt}
                    record["completion"] = cut_at_stop(text, stop)
                    out.write(record)
                    done.append(record)
            if progress is not None:
                progress(min(start + batch_size, len(wanted)), len(wanted))
    return done


def encode_prompts(
    model: MTPModel, tokenizer: PreTrainedTokenizerBase, tasks: list[Task], max_new_tokens: int
) -> dict[str, list[int]]:
    """Return the tokens of each task's prompt; too little room for a completion is a `DataError`."""
    encoded = {task.task_id: prompt_ids(task.prompt, tokenizer) for task in tasks}
    max_positions = model.config.max_position_embeddings
    task_id, longest = max(encoded.items(), key=lambda pair: len(pair[1]))
    if len(longest) + max_new_tokens > max_positions:
        raise DataError(
            f"{task_id}: the prompt of {len(longest)} tokens and {max_new_tokens} new ones do not fit "
            f"into the model's {max_positions} positions. Lower evaluation.max_new_tokens or train with "
            "a larger model.architecture.max_positions."
        )
    return encoded


def _complete(
    model: MTPModel,
    tokenizer: PreTrainedTokenizerBase,
    prompts: list[list[int]],
    protocol: Protocol,
    max_new_tokens: int,
) -> list[str]:
    width = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), width), int(tokenizer.pad_token_id))
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :] = torch.tensor(prompt)
        mask[row, width - len(prompt) :] = 1
    sampling: dict[str, Any] = {"do_sample": False}
    if protocol.temperature > 0:
        sampling = {
            "do_sample": True,
            "temperature": protocol.temperature,
            "top_p": protocol.top_p,
            "top_k": 0,
        }
    out = model.generate(
        input_ids=ids.to(model.device),
        attention_mask=mask.to(model.device),
        max_new_tokens=max_new_tokens,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **sampling,
    )
    texts: list[str] = tokenizer.batch_decode(out[:, width:], skip_special_tokens=True)
    return texts
