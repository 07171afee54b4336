"""The errors a user can fix.

Each message says what is wrong, where, what was expected and how to mend it. The command line prints
the message alone and exits with code 2; anything that is not a `WmtpError` is a bug and keeps its
traceback.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class WmtpError(Exception):
    """Base of every error the user can fix."""


class ConfigError(WmtpError):
    """A recipe, an environment or a command-line setting is wrong."""


class DataError(WmtpError):
    """A data file is missing, malformed or empty, or does not fit the recipe."""


class CheckpointError(WmtpError):
    """A checkpoint cannot be read or does not fit the model, tokenizer or recipe."""


class SandboxError(WmtpError):
    """The sandbox cannot be had or broke; never a verdict on a program."""


class OutputError(WmtpError):
    """An output cannot be written: full disk, read-only folder, existing run."""


class TrainingError(WmtpError):
    """Training cannot go on: non-finite losses, a batch without targets."""


class GenerationError(WmtpError):
    """Completions cannot be drawn: logits that are not finite, memory too small, no vLLM."""


def near_match(name: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the nearest of `known`, or the empty string."""
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return f" Did you mean {found[0]!r}?" if found else ""
