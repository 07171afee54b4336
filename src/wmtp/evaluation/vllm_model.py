"""Completions through vLLM, for models that one device's plain loop is too slow for.

vLLM (Kwon et al. 2023, arXiv:2309.06180) is not installed with this package and needs a GPU that it
supports. Its samples have other random numbers than ours, and under load its rounding varies with what
else is in a batch.
"""

from __future__ import annotations

import hashlib
import importlib.util
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wmtp.config.protocols import Protocol
from wmtp.errors import GenerationError
from wmtp.evaluation.complete import Completion, Request
from wmtp.evaluation.extraction import cut_at_stop
from wmtp.modeling.checkpoint import HEADS_FILE, SETTINGS_FILE
from wmtp.pretrained import load_config

# Requests that are handed over together; after each such share the samples are in their file.
_SHARE = 2048


class VllmModel:
    """A model folder of transformers in vLLM's offline engine.

    config: the model's configuration. `load` makes one; without vLLM that is a `GenerationError`.
    """

    def __init__(self, folder: Path, engine: Any) -> None:
        self.config = load_config(folder)
        self._engine = engine

    def complete(
        self,
        requests: Sequence[Request],
        protocol: Protocol,
        stop: tuple[str, ...],
        max_new_tokens: int,
        seed: int,
    ) -> Iterator[Completion]:
        """Yield a completion of each request, in order; see `wmtp.evaluation.complete.complete`."""
        from vllm import SamplingParams

        for start in range(0, len(requests), _SHARE):
            share = requests[start : start + _SHARE]
            outputs = self._engine.generate(
                [{"prompt_token_ids": list(request.prompt)} for request in share],
                [
                    SamplingParams(**sampling_arguments(r, protocol, stop, max_new_tokens, seed))
                    for r in share
                ],
                use_tqdm=False,
            )
            for request, output in zip(share, outputs, strict=True):
                drawn = output.outputs[0]
                finish = finish_of(drawn.finish_reason, drawn.stop_reason)
                yield Completion(request, cut_at_stop(drawn.text, stop), finish)


@contextmanager
def load_vllm(folder: Path, precision: str = "auto") -> Iterator[VllmModel]:
    """Yield the model in `folder` in a vLLM engine; its future heads stay out of it."""
    if importlib.util.find_spec("vllm") is None:
        raise GenerationError(
            "generation.backend: vllm is not installed. Install it (`pip install vllm`, on a machine with "
            "a GPU that it supports), or set generation.backend to transformers."
        )
    from vllm import LLM

    with plain_folder(folder) as plain:
        # Samples of a task share its prompt, which the prefix cache reads once.
        engine = LLM(model=str(plain), dtype=precision, enable_prefix_caching=True)
        yield VllmModel(plain, engine)


@contextmanager
def plain_folder(folder: Path) -> Iterator[Path]:
    """Yield a folder that holds the plain next-token model of a checkpoint, by links to its files.

    vLLM reads every safetensors file that it finds and would not know the future heads.
    """
    with tempfile.TemporaryDirectory(prefix="wmtp-plain-") as name:
        for file in folder.iterdir():
            if file.is_file() and file.name not in (HEADS_FILE, SETTINGS_FILE):
                (Path(name) / file.name).symlink_to(file.absolute())
        yield Path(name)


def sampling_arguments(
    request: Request, protocol: Protocol, stop: tuple[str, ...], max_new_tokens: int, seed: int
) -> dict[str, Any]:
    """Return the arguments of vLLM's `SamplingParams` for one sample, which has a seed of its own."""
    text = f"{seed}\0{request.sample_id}\0{request.task_id}".encode(errors="surrogatepass")
    return {
        "n": 1,
        "temperature": protocol.temperature,
        "top_p": protocol.top_p,
        "max_tokens": max_new_tokens,
        "stop": list(stop),
        "seed": int.from_bytes(hashlib.sha256(text).digest()[:4], "little") >> 1,
    }


def finish_of(finish_reason: str | None, stop_reason: int | str | None) -> str:
    """Return how a completion ended in our words, from vLLM's: a stop string is named, an end token not."""
    if finish_reason == "stop":
        return "stop" if isinstance(stop_reason, str) else "end"
    return "length"
