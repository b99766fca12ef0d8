import gzip
import json

import pytest

from bertpress.errors import DataError
from bertpress.tasks import Rows
from bertpress.tasks.files import read

TABLE = {"text": ["a, b", 'say "hi"\nagain', "çé"], "label": ["0", "1", "0"]}


def write(path, columns=TABLE):
    records = [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
    name = path.name.removesuffix(".gz")
    if name.endswith(".parquet"):
        import pyarrow as pa
        import pyarrow.parquet as pq

        pq.write_table(pa.table(columns), path)
        return path
    if name.endswith(".jsonl"):
        text = "\n".join(map(json.dumps, records)) + "\n"
    else:
        import csv
        import io

        out = io.StringIO()
        writer = csv.writer(out, delimiter="\t" if name.endswith(".tsv") else ",")
        writer.writerows([columns, *zip(*columns.values(), strict=True)])
        text = out.getvalue()
    data = text.encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["t.jsonl", "t.jsonl.gz", "t.csv", "t.csv.gz", "t.tsv", "t.tsv.gz", "t.parquet"])
def test_all_formats_hold_the_same(tmp_path, name):
    rows = read(write(tmp_path / name), "train")
    assert rows.columns == TABLE
    assert list(rows.columns) == list(TABLE)
    assert rows.source.endswith(name)


def test_places_are_lines_of_the_file(tmp_path):
    rows = read(write(tmp_path / "t.csv"), "train")
    assert [rows.place(i).rpartition("/")[2] for i in range(3)] == ["t.csv line 2", "t.csv line 3", "t.csv line 5"]
    (tmp_path / "u.jsonl").write_text('{"a": 1}\n\n{"a": 2, "b": 3}\n')
    rows = read(tmp_path / "u.jsonl", "train")
    assert rows == Rows({"a": [1, 2], "b": [None, 3]}, "train", str(tmp_path / "u.jsonl"), "line", [1, 3])
    assert read(write(tmp_path / "t.parquet"), "train").place(1).endswith("t.parquet row 2")


def test_quotes_within_a_tab_separated_line_are_text(tmp_path):
    lines = ["text\tlabel", '"begins\t0', 'says "so" twice\t1', 'ends"\t0', '"a ""whole"" cell"\t1', '"\t0']
    (tmp_path / "t.tsv").write_text("\n".join(lines) + "\n")
    rows = read(tmp_path / "t.tsv", "train")
    assert rows.columns["text"] == ['"begins', 'says "so" twice', 'ends"', 'a "whole" cell', '"']
    assert rows.place(4).endswith("t.tsv line 6")
    (tmp_path / "u.tsv").write_text('text\tlabel\n"open\t0\tmore\n')
    with pytest.raises(DataError, match="u.tsv line 2: 3 cells, but the header has 2$"):
        read(tmp_path / "u.tsv", "train")


def test_a_cell_may_be_as_long_as_a_book(tmp_path):
    (tmp_path / "t.csv").write_text("text,label\n" + "film " * 100_000 + ",0\n")
    assert len(read(tmp_path / "t.csv", "train").columns["text"][0]) == 500_000


def test_a_byte_order_mark_is_no_content(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbftext\nhello\n")
    assert read(tmp_path / "t.csv", "train").columns == {"text": ["hello"]}


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.jsonl", b'{"a": 1}\n{"a": \n', "t.jsonl line 2: broken JSON, Expecting value at column"),
        ("t.jsonl", b'{"a": 1}\n[1]\n', "t.jsonl line 2: a JSON object is needed, not list"),
        ("t.jsonl", b'{"a": 1}\n{"a": "\xe9"}\n', "t.jsonl line 2: byte 0xe9 at column 8 is not UTF-8"),
        ("t.csv", b"a,b\n1,2\n3\n", "t.csv line 3: 1 cells, but the header has 2"),
        ("t.csv", b"a,a\n1,2\n", "t.csv line 1: column names a, a must be distinct"),
        ("t.csv", b'a\n"open\nmore\n', "t.csv line 3: broken CSV"),
        ("t.csv", b"a\nx\n\xff\n", "t.csv line 3: byte 0xff at column 1 is not UTF-8"),
        ("t.jsonl.gz", b"plain", "t.jsonl.gz line 1: not a sound gzip file"),
        ("t.parquet", b"nonsense", "t.parquet: not a sound Parquet file"),
        ("t.csv", b"a,b\n", "t.csv: no rows"),
        ("t.jsonl", b"", "t.jsonl: no rows"),
    ],
)
def test_bad_files(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as caught:
        read(tmp_path / name, "train")
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_truncated_gzip_names_the_line(tmp_path):
    lines = [json.dumps({"text": f"{i * 7919} word {i * i}"}) for i in range(5000)]
    whole = gzip.compress("\n".join(lines).encode())
    (tmp_path / "t.jsonl.gz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match=r"t\.jsonl\.gz line [1-9]\d{2,3}: the gzip file is truncated"):
        read(tmp_path / "t.jsonl.gz", "train")


def test_a_folder_or_missing_file_is_no_data(tmp_path):
    with pytest.raises(DataError, match=r"t\.csv: cannot be read \(No such file or directory\)"):
        read(tmp_path / "t.csv", "train")
