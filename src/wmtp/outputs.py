"""Output files that appear whole or not at all, and line files that survive a kill.

A disk that is full or a folder that is read-only becomes one `OutputError` with the fix.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any

from wmtp.errors import OutputError, WmtpError
from wmtp.inputs import read_json_object

LOCK_FILE = ".lock"

_LONGEST = 100  # characters of a name that go into a hidden one
_CHOOSE = "Choose another output folder or change its permissions."
_FREE = "Free some space or choose an output folder on another disk."
_REASONS = {
    errno.ENOSPC: ("the disk is full", _FREE),
    errno.EDQUOT: ("your disk quota is used up", _FREE),
    errno.EFBIG: ("the file would be larger than this system allows", "Raise `ulimit -f`."),
    errno.EROFS: ("the file system is read-only", _CHOOSE),
    errno.EACCES: ("permission is denied", _CHOOSE),
    errno.EPERM: ("permission is denied", _CHOOSE),
    errno.ENOTDIR: ("a part of its path is a file, not a folder", "Choose another output folder."),
    errno.EEXIST: ("something is there already", "Remove it or choose another output folder."),
    errno.ENOTEMPTY: ("something is there already", "Remove it or choose another output folder."),
    errno.EISDIR: ("it is a folder", "Remove it or choose another name."),
    errno.ENAMETOOLONG: ("its name is too long", "Choose a shorter name."),
}


@contextmanager
def writing(path: str | Path) -> Iterator[None]:
    """Turn a failure to write at or below `path` into an `OutputError` that says how to mend it.

    Libraries written in Rust, C++ or C (safetensors, torch, SQLite) report a full disk by their own
    exceptions; those are recognised too. Anything else passes through unchanged.
    """
    try:
        yield
    except WmtpError:
        raise
    except Exception as error:
        number = error.errno if isinstance(error, OSError) else _errno_of(error, Path(path))
        if number not in _REASONS:
            raise
        reason, fix = _REASONS[number]
        raise OutputError(f"{path}: cannot be written, {reason}. {fix}") from error


@contextmanager
def locked(folder: str | Path) -> Iterator[None]:
    """Keep other processes of ours out of `folder` meanwhile; one that has another is an `OutputError`.

    The folder is created, and removed again if nothing was put into it. Of processes that were started
    together (torchrun) the first speaks for all. File systems without locks are used without.
    """
    folder = Path(folder)
    lock = folder / LOCK_FILE
    if os.environ.get("RANK", "0") != "0":
        yield
        return
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = lock.open("a")
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise OutputError(
                f"{folder}: another process is at work there. Wait for its end, or give another --output."
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOTSUP, errno.ENOLCK, errno.ENOSYS):
                raise
        try:
            yield
        finally:
            if os.listdir(folder) == [LOCK_FILE]:
                lock.unlink()
                folder.rmdir()


def _errno_of(error: Exception, path: Path) -> int | None:
    """Return the error number behind an exception of a library that lost it, or None."""
    message = str(error)
    if found := re.search(r"\(os error (\d+)\)", message):
        return int(found[1])
    if "disk is full" in message:
        return errno.ENOSPC
    if "inline_container.cc" in message and _free_bytes(path) < 1 << 20:  # torch.save
        return errno.ENOSPC
    return None


def _free_bytes(path: Path) -> int:
    existing = next(folder for folder in [path, *path.absolute().parents] if folder.is_dir())
    return shutil.disk_usage(existing).free


def _hidden_sibling(path: Path) -> Path:
    """Return a fresh hidden name beside `path`: on one file system a rename is atomic."""
    return path.with_name(f".{path.name[:_LONGEST]}.{secrets.token_hex(6)}.partial")


def remove_partial(path: str | Path) -> None:
    """Remove what killed processes left of the file `path`, which nobody may be writing now."""
    path = Path(path)
    if len(path.name) > _LONGEST:  # what is left of other names could begin alike
        return
    with writing(path):
        for partial in path.parent.glob(f".{glob.escape(path.name)}.{'?' * 12}.partial"):
            partial.unlink()


def _sync(path: Path) -> None:
    """Force `path`, a file or a folder, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def atomic_write(path: str | Path, mode: str = "w") -> Iterator[IO[Any]]:
    """Yield a new file (`mode` "w": UTF-8 text, "wb": bytes) that replaces `path` on a clean exit.

    Missing parent folders are created. On an exception `path` stays as it was.
    """
    path = Path(path)
    partial = _hidden_sibling(path)
    encoding = None if "b" in mode else "utf-8"
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Half of a surrogate pair, as in a path that is not UTF-8, becomes an escape.
            errors = encoding and "backslashreplace"
            with partial.open(mode.replace("w", "x"), encoding=encoding, errors=errors) as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise
        _sync(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """Write `text` to `path` as UTF-8, whole or not at all."""
    with atomic_write(path) as file:
        file.write(text)


def atomic_write_json(path: str | Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, whole or not at all; NaN is a `ValueError`."""
    atomic_write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yield a new empty folder that becomes `path` on a clean exit, replacing what was there.

    Missing parent folders are created. On an exception `path` stays as it was.
    """
    path = Path(path)
    partial = _hidden_sibling(path)
    with writing(path):
        partial.mkdir(parents=True)
        try:
            yield partial
            for entry in [*partial.rglob("*"), partial]:
                if not entry.is_symlink():
                    _sync(entry)
            _replace_directory(partial, path)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        _sync(path.parent)


def _replace_directory(partial: Path, path: Path) -> None:
    """Rename `partial` to `path`; a folder that is there steps aside first and back on failure."""
    if not path.is_dir():
        partial.rename(path)
        return
    previous = _hidden_sibling(path)
    path.rename(previous)
    try:
        partial.rename(path)
    except BaseException:
        previous.rename(path)
        raise
    shutil.rmtree(previous)


class JsonlWriter:
    """Appends JSON objects to a line file; each is handed to the system when `write` returns.

    A last line that a kill left half-written is dropped when the file is opened.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        with writing(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            _repair_last_line(self.path)
            # Unbuffered, so that a line that failed is not tried again on close.
            self._file = self.path.open("ab", buffering=0)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; NaN in it is a `ValueError`, a full disk an `OutputError`.

        Half of a surrogate pair, which models do write, becomes an escape: UTF-8 cannot hold it.
        """
        text = json.dumps(record, ensure_ascii=False, allow_nan=False)
        line = text.encode(errors="backslashreplace") + b"\n"
        with writing(self.path):
            start = self._file.seek(0, os.SEEK_END)
            try:
                written = 0
                while written < len(line):
                    written += self._file.write(line[written:])
            except OSError:
                with suppress(OSError):
                    self._file.truncate(start)
                raise

    def close(self) -> None:
        """Close the file; further writes are a `ValueError`."""
        self._file.close()

    def __enter__(self) -> JsonlWriter:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def append_jsonl(path: str | Path) -> JsonlWriter:
    """Open `path` for appending: `with append_jsonl(path) as lines: lines.write({...})`."""
    return JsonlWriter(path)


def _repair_last_line(path: Path) -> None:
    """End the last line of `path`: complete it when it only lacks its newline, else drop it."""
    if not path.exists():
        return
    with path.open("rb+") as file:
        last, end = b"", 0
        for last in file:
            end += len(last)
        if not last or last.endswith(b"\n"):
            return
        try:
            json.loads(last)
        except (ValueError, RecursionError):
            file.truncate(end - len(last))
        else:
            file.write(b"\n")


def claim(folder: Path, settings: dict[str, Any], what: str) -> None:
    """Make `folder` that of work with these settings, such as `what`; other ones are an `OutputError`."""
    file = folder / "settings.json"
    if file.exists():
        before = read_json_object(file)
        if before != settings:
            odd = next(k for k in {**before, **settings} if before.get(k) != settings.get(k))
            raise OutputError(
                f"{folder}: {what} with other settings is there ({odd}: {before.get(odd)} there, "
                f"{settings.get(odd)} now). Give another --output, or delete the folder."
            )
    else:
        atomic_write_json(file, settings)
