"""Completions: those of transformers token by token, and of a row the same in any company."""

from __future__ import annotations

from collections import deque
from contextlib import ExitStack
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.modeling.test_families import FAMILIES
from tests.tiny import VOCAB, tiny_config
from wmtp.config.protocols import PROTOCOLS, Protocol
from wmtp.errors import GenerationError
from wmtp.evaluation import complete as module
from wmtp.evaluation.complete import Completion, Endings, Request, complete
from wmtp.evaluation.extraction import cut_at_stop
from wmtp.evaluation.rows import OneRow, PaddedRows, Reader

pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script:DeprecationWarning")

GREEDY = PROTOCOLS["greedy"]
WARM = Protocol("warm", num_samples=4, temperature=1.0, top_p=0.95, ks=(1,))
NEW = 12
LENGTHS = (3, 9, 5, 17, 2, 6, 11, 1, 30, 7, 8, 8, 1, 3, 20, 9, 6, 4)
END = 2


class Letters:
    """A tokenizer of single characters: token i is chr(32 + i)."""

    eos_token_id = END

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(32 + i) for i in ids if not (skip_special_tokens and i == END))


def tiny(family: str = "Llama", **changes: Any) -> Any:
    """A random model whose choices are clear: large weights make sharp distributions."""
    kind, settings = FAMILIES[family]
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(tiny_config(kind, **{**settings, **changes})).eval()
    with torch.no_grad():
        for tensor in model.parameters():
            if tensor.dim() > 1:
                tensor.mul_(3)
    return model


def requests(samples: int = 1, lengths: tuple[int, ...] = LENGTHS) -> list[Request]:
    generator = torch.Generator().manual_seed(1)
    prompts = [torch.randint(3, VOCAB, (n,), generator=generator).tolist() for n in lengths]
    return [Request(f"t/{i}", s, tuple(p)) for i, p in enumerate(prompts) for s in range(samples)]


def endings(model: Any, stop: tuple[str, ...] = (), new: int = NEW) -> Endings:
    return Endings(model, Letters(), stop, new)  # type: ignore[arg-type]


def drawn(
    model: Any,
    wanted: list[Request],
    protocol: Protocol = GREEDY,
    stop: tuple[str, ...] = (),
    **options: Any,
) -> dict[tuple[str, int], Completion]:
    new = options.pop("new", NEW)
    found = complete(model, wanted, protocol, endings(model, stop, new), **{"seed": 0, **options})
    return {(c.request.task_id, c.request.sample_id): c for c in found}


def greedy_of_transformers(model: Any, request: Request) -> str:
    ids = torch.tensor([request.prompt])
    settings = {"attention_mask": torch.ones_like(ids), "pad_token_id": 0, "eos_token_id": END}
    out = model.generate(ids, max_new_tokens=NEW, do_sample=False, **settings)
    return Letters().decode(out[0, ids.shape[1] :].tolist(), skip_special_tokens=True)


# One of every kind: rotary, learned, linear-bias positions, windows, chunks, soft caps, experts, states.
KINDS = ["Llama", "Qwen2", "GPT-2", "Mistral", "Gemma 2", "Gemma 3 (text)", "Llama 4 (text)"]
KINDS += ["Bloom", "Mamba", "LFM2", "Mixtral"]


@pytest.mark.parametrize("family", KINDS)
def test_greedy_is_that_of_transformers(family: str) -> None:
    model = tiny(family)
    wanted = requests()
    found = drawn(model, wanted)
    for request in wanted:
        assert found[request.task_id, 0].text == greedy_of_transformers(model, request)


@pytest.mark.parametrize("family", KINDS[:8])
def test_padded_batches_of_an_accelerator_are_the_same(family: str) -> None:
    """Without attention by row, as on a GPU: the family's own masks over rows of many lengths."""
    model = tiny(family)
    reader = Reader(model)
    batch = module._Batch(reader, PaddedRows(reader, 5), 5, GREEDY, endings(model), seed=0)
    found = {c.request.task_id: c.text for c in batch.run(deque(requests()))}
    assert found == {key[0]: c.text for key, c in drawn(model, requests()).items()}


def rows_of(family: str) -> type:
    with ExitStack() as stack:
        return type(module._rows_for(Reader(tiny(family)), stack)(16))


def test_which_families_share_forwards_on_a_cpu() -> None:
    many = {"Llama", "Qwen2", "GPT-2", "Mistral", "Gemma 2", "Gemma 3 (text)"}
    assert {family for family in KINDS if rows_of(family) is PaddedRows} == many
    assert {family for family in KINDS if rows_of(family) is OneRow} == set(KINDS) - many


@pytest.fixture
def logits_seen(monkeypatch: pytest.MonkeyPatch) -> dict[tuple[str, int], list[torch.Tensor]]:
    """The logits that each sample was drawn from, in order."""
    seen: dict[tuple[str, int], list[torch.Tensor]] = {}
    append = module._Batch._append

    def recorded(self: Any, logits: torch.Tensor, rows: Any, first: int = 0) -> Any:
        for slot, row in rows.items():
            key = row.request.task_id, row.request.sample_id
            seen.setdefault(key, []).append(logits[slot - first].clone())
        return append(self, logits, rows, first)

    monkeypatch.setattr(module._Batch, "_append", recorded)
    return seen


@pytest.mark.parametrize("family", ["Llama", "GPT-2", "Mistral", "Gemma 2", "Mixtral", "LFM2"])
def test_a_row_is_the_same_to_the_last_bit_in_any_company(
    family: str, logits_seen: dict[tuple[str, int], list[torch.Tensor]]
) -> None:
    model = tiny(family)
    wanted = requests(samples=3, lengths=(3, 19, 8, 33))
    expected, company = {}, [(1, 1), (3, -1), (8, 1), (16, -1)]
    for rows, order in company:
        logits_seen.clear()
        found = {k: c.text for k, c in drawn(model, wanted[::order], WARM, rows=rows).items()}
        expected = expected or {key: (found[key], list(logits_seen[key])) for key in found}
        for key, (text, logits) in expected.items():
            assert found[key] == text
            assert all(map(torch.equal, logits, logits_seen[key]))
    # A part of the work alone, such as what a kill has left, is the same too.
    part = drawn(model, wanted[4:8], WARM)
    assert all(part[key].text == expected[key][0] for key in part)
    assert len({text for text, _ in expected.values()}) > 8


def test_seeds_and_samples_differ() -> None:
    model, wanted = tiny(), requests(samples=2)
    first, second = (drawn(model, wanted, WARM, seed=seed) for seed in (0, 1))
    assert sum(first[key].text != second[key].text for key in first) > len(first) / 2
    assert sum(first[f"t/{i}", 0].text != first[f"t/{i}", 1].text for i in range(18)) > 9


def test_a_prompt_is_read_once_for_its_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    model, read = tiny(), []
    prompt = Reader.prompt
    monkeypatch.setattr(Reader, "prompt", lambda self, ids: read.append(ids) or prompt(self, ids))
    found = drawn(model, requests(samples=20, lengths=(5, 9)), WARM)
    assert len(found) == 40
    assert [len(ids) for ids in read if isinstance(ids, tuple)] == [5, 9]


def test_freed_rows_are_filled(monkeypatch: pytest.MonkeyPatch) -> None:
    model, steps = tiny(), []
    step = PaddedRows.step

    def counted(self: PaddedRows, tokens: Any) -> torch.Tensor:
        steps.append(len(tokens))
        return step(self, tokens)

    wanted = requests(samples=40, lengths=(5, 9, 2))
    ends = endings(model)
    ends.end_tokens |= set(range(3, 9))
    monkeypatch.setattr(module, "_rows_agree", lambda reader: True)  # makes steps of its own
    monkeypatch.setattr(PaddedRows, "step", counted)
    found = list(complete(model, wanted, WARM, ends, seed=0))
    assert len(found) == 120
    assert len({len(c.text) for c in found}) > NEW / 2  # a ragged workload
    # No row idles while work waits; after that the longest completion decides.
    assert sum(n < 16 for n in steps) <= NEW < sum(n == 16 for n in steps)


def test_stops_ends_and_length() -> None:
    model, wanted = tiny(), requests()
    plain = {key: c.text for key, c in drawn(model, wanted).items()}
    stop = (plain["t/1", 0][2:4], plain["t/3", 0][5])
    found = drawn(model, wanted, stop=stop)
    for key, text in plain.items():
        assert found[key].text == cut_at_stop(text, stop)
        reached = any(s in text for s in stop)
        assert found[key].finish == ("stop" if reached else "length" if len(text) == NEW else "end")
    assert found["t/1", 0].finish == "stop"
    assert {c.finish for c in drawn(model, wanted, stop=("never",), new=1).values()} == {
        "length",
        "end",
    }


def test_end_tokens_are_those_of_tokenizer_and_model() -> None:
    model = tiny()
    model.generation_config.eos_token_id = [7, 8]
    assert endings(model).end_tokens == {2, 7, 8}
    assert endings(model).text([20, 21, 7]) == "45"  # token 7 would be a "'"
    model.generation_config.eos_token_id = None
    tokenizer = Letters()
    tokenizer.eos_token_id = None  # type: ignore[assignment]
    ends = Endings(model, tokenizer, (), 5)  # type: ignore[arg-type]
    assert ends.end_tokens == set()
    assert [ends.finish([2] * n) for n in (4, 5)] == [None, "length"]


def test_nan_names_the_task() -> None:
    model = tiny()
    embedding = model.get_input_embeddings().weight
    wanted = requests()
    odd = next(t for t in range(3, VOCAB) if t in wanted[4].prompt)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())
    with torch.no_grad():
        embedding[odd] = torch.nan
    with pytest.raises(GenerationError, match=r"t/\d+, sample 0: the model's logits after \d+ \+"):
        drawn(model, wanted)


def test_too_little_memory_halves_the_rows(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The device's memory is a bound on rows here; what was under way begins anew and is the same."""
    model, wanted = tiny(), requests(samples=2)
    expected = {key: c.text for key, c in drawn(model, wanted, WARM).items()}
    step, bound = PaddedRows.step, 5

    def bounded(self: PaddedRows, tokens: Any) -> torch.Tensor:
        if len(tokens) > bound:
            raise torch.OutOfMemoryError
        return step(self, tokens)

    monkeypatch.setattr(module, "_rows_agree", lambda reader: True)
    monkeypatch.setattr(PaddedRows, "step", bounded)
    found = list(complete(model, wanted, WARM, endings(model), seed=0))
    assert {(c.request.task_id, c.request.sample_id): c.text for c in found} == expected
    assert len(found) == len(wanted)
    assert "going on with 4 rows" in caplog.text
    bound = 0
    with pytest.raises(GenerationError, match=r"t/\d+: the device's memory does not hold one"):
        drawn(model, wanted, WARM)
