"""Completions for the tasks of a benchmark, appended to samples.jsonl as they come."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PretrainedConfig, PreTrainedTokenizerBase

from wmtp.config.protocols import Protocol
from wmtp.data.encode import prompt_ids
from wmtp.errors import ConfigError, DataError
from wmtp.evaluation.benchmark import Task
from wmtp.evaluation.complete import Endings, Request, complete
from wmtp.evaluation.judge import read_samples
from wmtp.evaluation.vllm_model import VllmModel
from wmtp.modeling.mtp import MTPModel
from wmtp.outputs import append_jsonl

# What families call the number of positions that they have; others have no such bound.
_CONTEXT_LENGTHS = ("max_position_embeddings", "max_seq_len")


def generate_samples(
    model: MTPModel | VllmModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Task],
    protocol: Protocol,
    path: Path,
    *,
    stop: tuple[str, ...],
    max_new_tokens: int,
    seed: int,
    rows: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[dict[str, Any]]:
    """Return one record per task and sample, in that order; what `path` already holds is not drawn again.

    A record is `{task_id, sample_id, prompt, completion, finish}`. A completion ends at an end token
    (`finish` is `end`), at the first of `stop` (`stop`), or after `max_new_tokens` (`length`). rows: how
    many are drawn at a time, see `complete`. On a CPU in float32 a record depends on the model, the task,
    the protocol, the sample's number and `seed` alone. progress: called with the numbers of samples done
    and in all.
    """
    encoded = encode_prompts(model, tokenizer, tasks, max_new_tokens)
    wanted = {(task.task_id, i): task for task in tasks for i in range(protocol.num_samples)}
    with append_jsonl(path) as lines:
        records = {
            (record["task_id"], record["sample_id"]): record
            for record in read_samples(path, ("task_id", "sample_id", "completion"))
        }
        done = {key: records[key] for key in wanted if key in records}
        left = [
            Request(task.task_id, sample_id, tuple(encoded[task.task_id]))
            for (_, sample_id), task in wanted.items()
            if (task.task_id, sample_id) not in done
        ]
        # Long ones first: what memory cannot hold shows at once. Samples of a task stay together.
        left.sort(key=lambda request: -len(request.prompt))
        if isinstance(model, VllmModel):
            drawn = model.complete(left, protocol, stop, max_new_tokens, seed)
        else:
            endings = Endings(model.backbone, tokenizer, stop, max_new_tokens)
            drawn = complete(model.backbone, left, protocol, endings, seed=seed, rows=rows)
        if progress is not None:
            progress(len(done), len(wanted))
        for completion in drawn:
            key = completion.request.task_id, completion.request.sample_id
            done[key] = {
                "task_id": key[0],
                "sample_id": key[1],
                "prompt": wanted[key].prompt,
                "completion": completion.text,
                "finish": completion.finish,
            }
            lines.write(done[key])
            if progress is not None:
                progress(len(done), len(wanted))
    return [done[key] for key in wanted]


def encode_prompts(
    model: MTPModel | VllmModel,
    tokenizer: PreTrainedTokenizerBase,
    tasks: list[Task],
    max_new_tokens: int,
) -> dict[str, list[int]]:
    """Return the tokens of each task's prompt; too little room for a completion is a `DataError`."""
    if max_new_tokens < 1:
        raise ConfigError(
            f"evaluation.max_new_tokens: {max_new_tokens} leaves no room for a completion. Give at least 1."
        )
    encoded = {task.task_id: prompt_ids(task.prompt, tokenizer) for task in tasks}
    bound = context_length(model.config)
    task_id, longest = max(encoded.items(), key=lambda pair: len(pair[1]))
    if bound is not None and len(longest) + max_new_tokens > bound:
        raise DataError(
            f"{task_id}: the prompt of {len(longest)} tokens and {max_new_tokens} new ones do not fit "
            f"into the model's {bound} positions. Lower evaluation.max_new_tokens or train with "
            "a larger model.architecture.max_positions."
        )
    return encoded


def context_length(config: PretrainedConfig) -> int | None:
    """Return how many tokens a model can read, None where its family sets no bound."""
    text = config.get_text_config()
    found = (getattr(text, name, None) for name in _CONTEXT_LENGTHS)
    return next((int(bound) for bound in found if bound), None)
