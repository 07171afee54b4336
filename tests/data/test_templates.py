"""Templates and boundaries: what is learned, and what a completion follows in generation."""

from __future__ import annotations

import copy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tests.tiny import tiny_model
from wmtp.data.encode import encode_examples
from wmtp.data.example import Example
from wmtp.data.templates import frame, template_of, use_template
from wmtp.data.tokenizer import load_tokenizer, train_tokenizer
from wmtp.errors import ConfigError, DataError
from wmtp.evaluation.benchmark import Task
from wmtp.evaluation.generate import encode_prompts

CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
TEXTS = ["def f(xs):\n    return sum(xs)\n", "user\nassistant\nReverse caf\u00e9 \u4f60 12."] * 4
EXAMPLE = Example("t", "Sum xs.\n", "    return sum(xs)\n", fault_spans=((11, 14),))


@pytest.fixture(scope="module")
def trained() -> PreTrainedTokenizerBase:
    made = train_tokenizer(TEXTS, 320)
    made.add_tokens([AddedToken(name, special=True) for name in ("<|im_start|>", "<|im_end|>")])
    return made


@pytest.fixture
def tokenizer(trained: PreTrainedTokenizerBase) -> PreTrainedTokenizerBase:
    made = copy.deepcopy(trained)
    made.chat_template = CHATML
    made.eos_token = "<|im_end|>"
    return made


def only(tokenizer: PreTrainedTokenizerBase, example: Example = EXAMPLE, **settings):
    return encode_examples([example], tokenizer, 200, "here", **settings).items[0]


def test_alpaca_by_hand(tokenizer: PreTrainedTokenizerBase) -> None:
    use_template(tokenizer, "alpaca")
    item = only(tokenizer)
    text = tokenizer.decode(item.input_ids[1 : -item.completion.sum()].tolist())
    assert text == (
        "Below is an instruction that describes a task. Write a response that appropriately "
        "completes the request.\n\n### Instruction:\nSum xs.\n\n\n### Response:"
    )
    assert item.input_ids[0] == tokenizer.bos_token_id


@pytest.mark.parametrize("boundary", ["split", "joint"])
def test_chat_is_what_the_library_renders(
    tokenizer: PreTrainedTokenizerBase, boundary: str
) -> None:
    use_template(tokenizer, "chat")
    item = only(tokenizer, boundary=boundary)
    question = [{"role": "user", "content": EXAMPLE.prompt}]
    answer = [{"role": "assistant", "content": EXAMPLE.completion}]
    asked = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    whole = tokenizer.apply_chat_template(question + answer, tokenize=False)
    assert tokenizer.decode(item.input_ids.tolist()) == whole.removesuffix("\n")
    learned = tokenizer.decode(item.input_ids[item.completion].tolist())
    straddled = {"split": "", "joint": "\n"}[boundary]  # "\n   " became one token
    assert learned == straddled + EXAMPLE.completion + "<|im_end|>"
    assert tokenizer.decode(item.input_ids[~item.completion].tolist()) + straddled == asked
    assert item.input_ids[-1] == tokenizer.eos_token_id
    assert item.num_bytes == len(straddled + EXAMPLE.completion)
    assert "sum" in tokenizer.decode(item.input_ids[item.fault].tolist())


def test_an_end_that_the_template_lacks_is_added(tokenizer: PreTrainedTokenizerBase) -> None:
    tokenizer.eos_token = "</s>"
    use_template(tokenizer, "chat")
    learned = tokenizer.decode(only(tokenizer).input_ids.tolist())
    assert learned.endswith("<|im_end|>\n</s>")
    # Where something is missing at the end of the text, what stands there instead is the fault.
    end = len(EXAMPLE.completion)
    item = only(tokenizer, replace(EXAMPLE, fault_spans=((end, end),)))
    assert tokenizer.decode(item.input_ids[item.fault].tolist()) == "<|im_end|>"


@pytest.mark.parametrize("template", ["plain", "chat", "alpaca"])
def test_generation_asks_as_training_did(
    tokenizer: PreTrainedTokenizerBase, template: str, tmp_path: Path
) -> None:
    """The template goes with the saved tokenizer, and prompts are those of training, token by token."""
    use_template(tokenizer, template)
    item = only(tokenizer)
    tokenizer.save_pretrained(tmp_path)
    loaded = load_tokenizer(tmp_path)
    assert template_of(loaded) == template
    recorded = '"prompt_template"' in (tmp_path / "tokenizer_config.json").read_text()
    assert recorded == (template != "plain")
    tasks = [Task("t", EXAMPLE.prompt, tests="")]
    model = tiny_model()
    model.config.max_position_embeddings = 512
    asked = encode_prompts(model, loaded, tasks, max_new_tokens=8)["t"]
    assert asked == item.input_ids[~item.completion].tolist()
    use_template(loaded, "plain")
    assert template_of(loaded) == "plain"


def test_bad_templates_are_errors(tokenizer: PreTrainedTokenizerBase) -> None:
    use_template(tokenizer, "chat")
    tokenizer.chat_template = "{{ raise_exception('no') }}"
    with pytest.raises(DataError, match=r"its chat template refuses .*: no\. Set data\.template"):
        frame("x", tokenizer)
    tokenizer.chat_template = "{{ messages[0].content }}"
    with pytest.raises(DataError, match="does not show what the assistant says"):
        frame("x", tokenizer)
    tokenizer.init_kwargs["prompt_template"] = "chatty"
    with pytest.raises(DataError, match="has the prompt_template 'chatty'"):
        template_of(tokenizer)
    tokenizer.chat_template = None
    with pytest.raises(ConfigError, match=r"data\.template is chat, but .* has no chat template"):
        use_template(tokenizer, "chat")


def merging(*merges: tuple[str, str]) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE without pre-splitting, so that these merges go over any boundary."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    words = ["</s>", *alphabet, *(a + b for a, b in merges)]
    core = Tokenizer(models.BPE({word: i for i, word in enumerate(words)}, list(merges)))
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    core.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=core, eos_token="</s>", pad_token="</s>")


SPACE = "\u0120"


@pytest.mark.parametrize(
    ("merges", "prompt", "completion", "prompt_tokens", "num_bytes"),
    [
        ([("b", "c")], "ab", "cd", ["a"], 3),  # the merged token is learned
        ([("a", "b"), ("c", "d")], "ab", "cd", ["ab"], 2),  # it ends at the boundary
        ([(SPACE, "c")], "b ", "c", ["b"], 2),
        ([(SPACE, "c")], "b", " c", ["b"], 2),
        ([], "b\u4f60", "\u4f60", ["b", "\u00e4", "\u00bd", "\u0142"], 3),  # bytes of a character
        ([("\u0142", "c")], "\u4f60", "cd", ["\u00e4", "\u00bd"], 5),  # a byte and more
    ],
)
def test_a_token_over_the_boundary_is_learned(
    merges: list[tuple[str, str]],
    prompt: str,
    completion: str,
    prompt_tokens: list[str],
    num_bytes: int,
) -> None:
    tokenizer = merging(*merges)
    joint = only(tokenizer, Example("t", prompt, completion), boundary="joint")
    masked = joint.input_ids[~joint.completion].tolist()
    assert tokenizer.convert_ids_to_tokens(masked) == ["</s>", *prompt_tokens]
    text = tokenizer.decode(joint.input_ids[1:-1].tolist())
    assert text == prompt + completion
    assert joint.num_bytes == num_bytes
    apart = only(tokenizer, Example("t", prompt, completion))
    assert tokenizer.decode(apart.input_ids[apart.completion][:-1].tolist()) == completion


def test_joint_faults_and_cuts_count_from_the_completion() -> None:
    tokenizer = merging(("b", "c"))
    example = Example("t", "ab", "cde\u4f60", fault_spans=((1, 2),))
    data = encode_examples([example], tokenizer, 5, "here", boundary="joint")
    item = data.items[0]
    assert data.truncated == 1
    assert tokenizer.convert_ids_to_tokens(item.input_ids) == ["</s>", "a", "bc", "d", "e"]
    assert item.fault.tolist() == [False, False, False, True, False]
    assert item.num_bytes == len("bcde")


def test_boundaries_agree_where_nothing_merges(trained: PreTrainedTokenizerBase) -> None:
    example = Example("t", "def f(xs):\n", "return sum(xs)\n")
    apart, joint = (only(trained, example, boundary=b) for b in ("split", "joint"))
    assert np.array_equal(apart.input_ids, joint.input_ids)
    assert np.array_equal(apart.completion, joint.completion)
    assert apart.num_bytes == joint.num_bytes
