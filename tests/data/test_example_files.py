"""Files of examples: what is written is read back, in both formats."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wmtp.data.example import Example
from wmtp.data.example_files import ROW_GROUP, parquet_schema, read_file, write_file
from wmtp.errors import DataError

TEXT = st.text(st.characters(exclude_categories=("Cs",)), max_size=12)
EXAMPLES = st.builds(
    Example,
    task_id=TEXT,
    prompt=TEXT,
    completion=TEXT.map(lambda text: text + "!"),
    reward=st.none() | st.floats(0, 1),
    tests=st.none() | TEXT,
    code_prefix=TEXT,
    difficulty=st.none() | st.floats(-9, 9),
    source=TEXT,
    split=TEXT,
    fault_spans=st.just(()) | st.just(((0, 1),)),
)


@pytest.mark.parametrize("ending", [".jsonl", ".parquet"])
@settings(max_examples=20, deadline=None)
@given(st.lists(EXAMPLES, max_size=4, unique=True))
def test_round_trip(tmp_path_factory, ending: str, examples: list[Example]) -> None:
    file = tmp_path_factory.mktemp("files") / f"examples{ending}"
    write_file(file, iter(examples))
    assert list(read_file(file)) == examples


def test_a_fault_is_in_the_completion_or_the_empty_range_at_its_end() -> None:
    whole = Example("t", "p", "abc", fault_spans=((0, 3), (3, 3)))
    assert Example.from_json(whole.to_json()) == whole
    for span in [(1, 1), (2, 1), (2, 4), (4, 4), (-1, 1)]:
        with pytest.raises(DataError, match="lies outside the completion of 3 characters"):
            Example("t", "p", "abc", fault_spans=(span,))


def test_parquet_is_streamed_in_row_groups_of_a_fixed_schema(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    number = 2 * ROW_GROUP + 1
    file = tmp_path / "many.parquet"
    write_file(file, (Example(f"t/{n}", "p", "c") for n in range(number)))
    opened = parquet.ParquetFile(file)
    assert [opened.metadata.row_group(n).num_rows for n in range(3)] == [ROW_GROUP, ROW_GROUP, 1]
    assert opened.schema_arrow.equals(parquet_schema())
    assert opened.schema_arrow.names == [field.name for field in fields(Example)]
    assert [e.task_id for e in read_file(file)] == [f"t/{n}" for n in range(number)]


def test_what_is_no_file_of_examples_is_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    with pytest.raises(DataError, match=r"Name it \.jsonl or \.parquet"):
        write_file(tmp_path / "x.csv", [])
    with pytest.raises(DataError, match=r"a\.parquet: no such file"):
        list(read_file(tmp_path / "a.parquet"))
    (tmp_path / "b.parquet").write_bytes(b"PAR1 no, it is not")
    with pytest.raises(DataError, match=r"b\.parquet row 1: damaged, or not Parquet"):
        list(read_file(tmp_path / "b.parquet"))
    parquet.write_table(pyarrow.table({"task_id": [1]}), tmp_path / "c.parquet")
    with pytest.raises(
        DataError, match=r"c\.parquet row 1: field 'task_id': .* a valid string, found 1\."
    ):
        list(read_file(tmp_path / "c.parquet"))
    bad = {f.name: [None] for f in fields(Example)}
    table = pyarrow.table(bad, schema=parquet_schema())
    parquet.write_table(table, tmp_path / "d.parquet")
    with pytest.raises(DataError, match=r"d\.parquet row 1: field 'task_id': .* found None\."):
        list(read_file(tmp_path / "d.parquet"))


@pytest.mark.parametrize("damage", [range(5000, 5400), range(30_000, 30_002)])
def test_a_damaged_page_of_parquet_is_named(tmp_path: Path, damage: range) -> None:
    pytest.importorskip("pyarrow.parquet")
    file = tmp_path / "damaged.parquet"
    write_file(file, (Example(f"t/{n * n}", "p", f"{n**5} " * 9) for n in range(3000)))
    content = bytearray(file.read_bytes())
    for place in damage:
        content[place] ^= 0x5A
    file.write_bytes(content)
    with pytest.raises(
        DataError, match=r"damaged\.parquet row \d+: damaged, or not Parquet \("
    ) as caught:
        list(read_file(file))
    assert "\n" not in str(caught.value)


def test_half_a_character_fits_json_lines_only(tmp_path: Path) -> None:
    half = Example("t", "p", "c", tests="x = '\ud800'")
    with pytest.raises(DataError, match="half of a surrogate pair"):
        write_file(tmp_path / "half.parquet", [half])
    assert not (tmp_path / "half.parquet").exists()
