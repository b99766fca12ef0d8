"""Read a local JSON Lines, CSV, TSV or Parquet file, with the line number of whatever is wrong in it."""

import csv
import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from bertpress.errors import DataError
from bertpress.tasks.rows import Rows

_LONGEST_CELL = 2**29  # characters; the module's own limit is 2**17
Table = tuple[dict[str, list[Any]], list[int]]  # columns, and the line of each row


def lines(path: Path) -> Iterator[tuple[int, str]]:
    """Numbered lines of a UTF-8 text, unzipped where the name ends in ``.gz``."""
    number = 0
    try:
        with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as file:
            for number, line in enumerate(file, 1):
                yield number, line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{error.object[error.start]:02x} at column {error.start + 1}"
        raise DataError(f"{path} line {number}: {byte} is not UTF-8") from None
    except EOFError:
        raise DataError(f"{path} line {number + 1}: the gzip file is truncated") from None
    except (gzip.BadGzipFile, zlib.error) as error:
        raise DataError(f"{path} line {number + 1}: not a sound gzip file ({error})") from None


def _json_lines(path: Path) -> Table:
    columns: dict[str, list[Any]] = {}
    numbers: list[int] = []
    for number, line in lines(path):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"{path} line {number}: broken JSON, {error.msg} at column {error.colno}") from None
        except (ValueError, RecursionError) as error:  # a number of thousands of digits, lists in lists without end
            raise DataError(f"{path} line {number}: unusable JSON, {error}") from None
        if not isinstance(record, dict):
            raise DataError(f"{path} line {number}: a JSON object is needed, not {type(record).__name__}")
        for name in record:
            if name not in columns:  # a column that starts late is empty above
                columns[name] = [None] * len(numbers)
        for name, values in columns.items():
            values.append(record.get(name))
        numbers.append(number)
    return columns, numbers


def _quoted(path: Path, delimiter: str = ",") -> Table:
    """Cells of which those in quotes may hold delimiters and span lines."""
    at = 0

    def text() -> Iterator[str]:
        nonlocal at
        for number, line in lines(path):
            at = number
            yield line

    def rows() -> Iterator[tuple[int, list[str]]]:
        start = 1  # a quoted cell may span lines: a row is named by its first
        for row in csv.reader(text(), delimiter=delimiter, strict=True):
            yield start, row
            start = at + 1

    csv.field_size_limit(_LONGEST_CELL)
    try:
        return _table(path, rows())
    except csv.Error as error:
        raise DataError(f"{path} line {at}: broken CSV, {error}") from None


def _tabs(path: Path) -> Table:
    """Cells between tabs, in which quotes mean nothing unless they enclose a cell: GLUE's files have bare ones.

    Only a file that makes no table so may have cells in quotes that span lines.
    """
    split = ((at, [_unquoted(cell) for cell in line.rstrip("\r\n").split("\t")]) for at, line in lines(path))
    try:
        return _table(path, split)
    except DataError as fault:
        try:
            return _quoted(path, "\t")
        except DataError:
            raise fault from None


def _unquoted(cell: str) -> str:
    inner = cell[1:-1].replace('""', "")
    return cell[1:-1].replace('""', '"') if len(cell) > 1 and cell[0] == cell[-1] == '"' and '"' not in inner else cell


def _table(path: Path, found: Iterator[tuple[int, list[str]]]) -> Table:
    """Columns from numbered rows of cells, the first of them the names; empty lines are left out.

    Raises:
        DataError: names that repeat, or another number of cells.
    """
    _, header = next(found, (1, []))
    if len(set(header)) != len(header):
        raise DataError(f"{path} line 1: column names {', '.join(header)} must be distinct")
    rows: list[list[str]] = []
    numbers: list[int] = []
    for at, row in found:
        if not row or row == [""]:
            continue
        if len(row) != len(header):
            raise DataError(f"{path} line {at}: {len(row)} cells, but the header has {len(header)}")
        rows.append(row)
        numbers.append(at)
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}, numbers


def _parquet(path: Path) -> Table:
    import pyarrow as pa  # type: ignore[import-untyped]
    import pyarrow.parquet as pq  # type: ignore[import-untyped]

    try:
        columns: dict[str, list[Any]] = pq.read_table(path).to_pydict()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not a sound Parquet file ({str(error).splitlines()[0]})") from None
    return columns, list(range(1, len(next(iter(columns.values()), ())) + 1))


_READERS: dict[str, Callable[[Path], Table]] = {
    ".jsonl": _json_lines,
    ".csv": _quoted,
    ".tsv": _tabs,
    ".parquet": _parquet,
}
SUFFIXES = (".jsonl", ".jsonl.gz", ".csv", ".csv.gz", ".tsv", ".tsv.gz", ".parquet")
"""File names that :func:`read` knows."""


def read(path: Path, split: str) -> Rows:
    """All columns of one file.

    Args:
        path: its name ends in one of :data:`SUFFIXES`.
        split: recorded in the rows.

    Raises:
        DataError: the file is empty, truncated, not UTF-8 or malformed; the message has the line number.
    """
    kind = path.suffixes[-2] if path.suffix == ".gz" else path.suffix
    try:
        columns, numbers = _READERS[kind](path)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    if not numbers:
        raise DataError(f"{path}: no rows")
    unit = "row" if kind == ".parquet" else "line"
    return Rows(columns, split, str(path), unit, numbers)
