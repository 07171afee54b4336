"""Tokenizers: trained on the data, or loaded; and how to tell that two are the same."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import (
    AutoTokenizer,
    LlamaTokenizer,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
)
from transformers.utils import is_protobuf_available, is_sentencepiece_available

from wmtp.errors import CheckpointError, DataError

PAD, BOS, EOS = "<pad>", "<s>", "</s>"
_PROBE = "def f(xs):\n    return [x * 2 for x in xs if x > -1]  # caf\u00e9, 12345\n"


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE of at most `vocab_size` tokens, special tokens included.

    Every text without the names of special tokens (`<pad>`, `<s>`, `</s>`) can be encoded and decoded
    back exactly; digits are tokens of their own. The result depends on the texts and their order alone.
    """
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, BOS, EOS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    # What other programs give a model then begins as all that it was trained on does.
    start = (BOS, core.token_to_id(BOS))
    core.post_processor = processors.TemplateProcessing(f"{BOS} $A", special_tokens=[start])
    return PreTrainedTokenizerFast(
        tokenizer_object=core,
        pad_token=PAD,
        bos_token=BOS,
        eos_token=EOS,
        clean_up_tokenization_spaces=False,
    )


def load_tokenizer(path: str | Path) -> PreTrainedTokenizerBase:
    """Load a tokenizer from a folder or the hub; it must know its end-of-sequence token."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(path), trust_remote_code=False)
    except (OSError, ValueError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(
            f"{path}: no tokenizer could be loaded: {first} Expected a folder with tokenizer.json, or a "
            "hub id (with network access)."
        ) from error
    if tokenizer.eos_token_id is None:
        raise DataError(
            f"{path}: the tokenizer has no end-of-sequence token, which ends completions."
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    return tokenizer


def load_sentencepiece(file: Path) -> PreTrainedTokenizerBase:
    """Load Meta's `tokenizer.model`, where the packages for that are installed.

    Absent packages, a damaged file and the format of Llama 3, which is another, are a
    `CheckpointError`.
    """
    with file.open("rb") as stream:
        if re.match(rb"[A-Za-z0-9+/]+=* \d+\s*$", stream.readline(1000)):
            raise CheckpointError(
                f"{file}: is in Llama 3's tiktoken format, which lacks its special tokens. Put the "
                "model's tokenizer.json and tokenizer_config.json beside it."
            )
    needed = {"sentencepiece": is_sentencepiece_available(), "protobuf": is_protobuf_available()}
    if missing := [name for name, there in needed.items() if not there]:
        raise CheckpointError(
            f"{file}: {' and '.join(missing)} must be installed to read it. Run `pip install "
            f"{' '.join(missing)}` and convert again."
        )
    try:
        return LlamaTokenizer.from_pretrained(str(file.parent))
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(
            f"{file}: is not a SentencePiece model. Copy or download it again."
        ) from error


def start_token(tokenizer: PreTrainedTokenizerBase) -> int:
    """Return the token that every sequence begins with: beginning-of-sequence, or else its end."""
    bos = tokenizer.bos_token_id
    return int(tokenizer.eos_token_id if bos is None else bos)


def fingerprint(tokenizer: PreTrainedTokenizerBase) -> str:
    """Return a hash of the vocabulary and of how a probe text is split."""
    facts = [
        sorted(tokenizer.get_vocab().items()),
        tokenizer.encode(_PROBE, add_special_tokens=False),
    ]
    return hashlib.sha256(json.dumps(facts).encode()).hexdigest()[:16]


def require_same(ours: PreTrainedTokenizerBase, theirs: PreTrainedTokenizerBase, path: str) -> None:
    """Refuse a reference whose tokens are not ours: its losses would belong to other tokens."""
    if fingerprint(ours) != fingerprint(theirs):
        raise CheckpointError(
            f"{path}: its tokenizer ({theirs.name_or_path or 'unnamed'}, {len(theirs)} tokens, "
            f"fingerprint {fingerprint(theirs)}) is not the policy's ({ours.name_or_path or 'unnamed'}, "
            f"{len(ours)} tokens, fingerprint {fingerprint(ours)}). Train the reference with the "
            "policy's tokenizer: set tokenizer.pretrained in one recipe to the other's folder."
        )
