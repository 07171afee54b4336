"""python-source: chunks put together are the files, and splits go by file."""

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wmtp.data.example import Example
from wmtp.data.sources.python_source import PythonSource, chunks, python_files
from wmtp.errors import DataError

SPLITS = ("train", "validation", "test")


def read(folder: Path, **settings: object) -> dict[str, list[Example]]:
    source = PythonSource(PythonSource.Config(path=str(folder), **settings))
    return {split: list(source.examples(split)) for split in SPLITS}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in range(60):
        path = tmp_path / f"package{number % 3}" / f"module{number}.py"
        path.parent.mkdir(exist_ok=True)
        body = "\n\n".join(f"def f{i}(x):\n    return x + {number}" for i in range(number))
        path.write_text(body, encoding="utf-8")
    return tmp_path


def test_chunks_are_the_files_and_splits_go_by_file(folder: Path) -> None:
    found = read(folder, window_chars=200, validation_share=0.2, test_share=0.2)
    texts: dict[str, str] = {}
    split_of: dict[str, set[str]] = {}
    for split, examples in found.items():
        assert examples
        for example in examples:
            name, _, number = example.task_id.partition("#")
            assert example.completion.startswith("def ")
            assert len(example.completion) <= 200
            assert (example.prompt, example.reward, example.split) == ("", None, split)
            assert number.isdigit()
            texts[name] = texts.get(name, "") + example.completion
            split_of.setdefault(name, set()).add(split)
    assert all(len(splits) == 1 for splits in split_of.values())
    expected = {p.relative_to(folder).as_posix(): p.read_text() for p in folder.rglob("*.py")}
    assert texts == {name: text for name, text in expected.items() if text}
    assert found == read(folder, window_chars=200, validation_share=0.2, test_share=0.2)


def test_tests_caches_and_installed_packages_are_left_out(tmp_path: Path) -> None:
    for name in (
        "a.py", "b/c.py", "test/x.py", "b/tests/x.py", "idlelib/x.py", "site-packages/x.py",
        ".hidden/x.py", "__pycache__/x.py", "b/test_c.py", "notes.txt",
    ):  # fmt: skip
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("x = 1\n")
    assert python_files(tmp_path) == ["a.py", "b/c.py", "b/test_c.py"]


def test_unreadable_files_are_counted_and_said(tmp_path: Path) -> None:
    (tmp_path / "good.py").write_bytes(b"\xef\xbb\xbfx = '\\d'\r\ny = 2\r\n")
    (tmp_path / "latin.py").write_bytes(b"x = '\xe9'\n")
    (tmp_path / "old.py").write_text("print 'x'\n")
    source = PythonSource(PythonSource.Config(path=str(tmp_path), validation_share=0, test_share=0))
    (example,) = source.examples("train")
    assert example.completion == "x = '\\d'\ny = 2\n"
    assert source.notices == [
        f"python-source, split train: left out 2 of 3 files of {tmp_path}, not valid UTF-8 or not "
        "valid Python; the first: 'latin.py'"
    ]


def test_missing_and_empty_folders_are_errors(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        read(tmp_path / "absent")
    with pytest.raises(DataError, match=r"no \.py file"):
        read(tmp_path)
    (tmp_path / "only.py").write_text("x = 1\n")
    with pytest.raises(DataError, match="no usable Python file in split"):
        read(tmp_path)
    with pytest.raises(DataError, match=r"no split 'dev'\. Known: train, validation, test"):
        list(PythonSource(PythonSource.Config(path=str(tmp_path))).examples("dev"))


def test_cuts_are_before_decorators_and_comments() -> None:
    text = "import a\n\n# about f\n@a.b\ndef f():\n    pass\n\n\nx = '''\n1'''; y = 2\n"
    assert chunks(text, 40) == [
        "import a\n\n",
        "# about f\n@a.b\ndef f():\n    pass\n\n\n",
        "x = '''\n1'''; y = 2\n",
    ]
    assert chunks(text, 1000) == [text]
    assert chunks("", 10) == []


def test_the_standard_library_is_the_default() -> None:
    first = next(PythonSource(PythonSource.Config()).examples("train"))
    assert first.task_id == "__future__.py#0"
    assert "def " in first.completion or "class " in first.completion or first.completion


LINES = st.lists(
    st.sampled_from(
        ["x = 1", "# note", "", "def f():\n    '''é\n\n'''", "if x:\n  y=2", "\f", "a;b"]
    )
)


@given(LINES, st.integers(1, 30), st.booleans())
def test_chunks_are_bounded_and_lose_nothing(lines: list[str], limit: int, end: bool) -> None:
    text = "\n".join(lines) + "\n" * end
    found = chunks(text, limit)
    assert "".join(found) == text
    assert all(0 < len(chunk) <= limit for chunk in found)
