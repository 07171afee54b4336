"""What must not stand in a settings file, because those are copied beside every result."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wmtp.config.yaml_text import KeyPath

ADVICE = (
    "looks like a password or token, and settings are saved with every run. Remove it and use the "
    "library's own environment variable (such as HF_TOKEN or MLFLOW_TRACKING_PASSWORD) or its "
    "credential file."
)
_SECRET_WORDS = {"password", "passwd", "passphrase", "secret", "secrets", "credentials", "apikey"}
_KEY_KINDS = {"api", "access", "account", "auth", "encryption", "private", "secret", "signing"}
_TEXT_TOKENS = {"bos", "cls", "end", "eos", "image", "mask", "pad", "sep", "start", "stop", "unk"}
_LOGIN_IN_URL = re.compile(r"[a-z][a-z0-9+.-]*://[^/\s@]+@", re.IGNORECASE)
_PARAMETER_IN_URL = re.compile(r"[?&;#]([^?&;#=\s]+)=[^&;#\s]")


def find(value: Any, path: KeyPath = ()) -> Iterator[KeyPath]:
    """Yield the key paths whose text value is a secret by its name or by what is in its URL."""
    if isinstance(value, dict):
        for key, item in value.items():
            yield from find(item, (*path, key))
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from find(item, (*path, index))
    elif isinstance(value, str) and value and hidden(str(path[-1]) if path else "", value):
        yield path


def hidden(name: str, value: str) -> bool:
    """Say whether `value` must not be printed: its name or a URL's login or parameter tells."""
    parameters = _PARAMETER_IN_URL.findall(value)
    return any(map(names_secret, (name, *parameters))) or bool(_LOGIN_IN_URL.search(value))


def names_secret(name: str) -> bool:
    """Say whether a setting of this name holds a secret (`hf_token`, not `eos_token`)."""
    last = name.rpartition(".")[2]
    words = re.findall(r"[a-z]+", re.sub(r"([a-z])([A-Z])", r"\1_\2", last).lower())
    if not words:
        return False
    before = words[-2] if len(words) > 1 else ""
    if words[-1] == "key":
        return before in _KEY_KINDS or not before
    if words[-1] == "token":
        return before not in _TEXT_TOKENS
    return not _SECRET_WORDS.isdisjoint(words)


def without_secrets(arguments: list[str]) -> list[str]:
    """Return command-line arguments with each secret value replaced by `...`."""
    shown: list[str] = []
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if equals and hidden(name, value):
            shown.append(f"{name}=...")
        elif position and arguments[position - 1].startswith("-") and names_secret(shown[-1]):
            shown.append("...")
        else:
            shown.append("..." if hidden("", argument) else argument)
    return shown
