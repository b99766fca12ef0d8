"""A teacher's outputs on disk: computed once, in a canonical order, then read through a memory map.

Rows are sorted by length and cut into chunks; one forward pass fills one chunk, so the stored bits are a function
of teacher, data and precision alone, whatever run filled them and however often it was killed.  The header is
rewritten after each sync with a checksum of every chunk; a chunk that does not match is computed again.
"""

import hashlib
import json
import math
import os
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from bertpress.training.checkpoint import machine_error, write_atomically

FORMAT = 2
TOKENS = 0  # in a shape: as many as the row has
_CHUNK = 64  # rows
_SYNC_SECONDS = 5.0
_HASHED = ("input_ids", "token_type_ids", "teacher_input_ids", "teacher_token_type_ids")
Floats = npt.NDArray[np.float32]


class Piece(NamedTuple):
    """What a row has of one tensor.

    Attributes:
        name: ``logits``, or a name on the tape.
        place: among the tensors of that name.
        shape: of a row, :data:`TOKENS` where it is the number of its tokens.
    """

    name: str
    place: int
    shape: tuple[int, ...]

    def at(self, tokens: int) -> tuple[int, ...]:
        """The shape for a row, or a batch, of so many tokens."""
        return tuple(tokens if size == TOKENS else size for size in self.shape)

    def floats(self, tokens: int) -> int:
        """Numbers of a row of so many tokens."""
        return math.prod(self.at(tokens))

    def within(self, row: int, tokens: int) -> tuple[int | slice, ...]:
        """Where the row, without its pads, lies in a padded batch."""
        return (row, *(slice(size) for size in self.at(tokens)))


Compute = Callable[[list[int]], tuple[list[Piece], list[Floats]]]
"""From rows to their pieces, which are those of every row, and for each row all its numbers in that order."""


class OutputCache:
    """Pieces of a teacher's output for some rows of a data set.

    Attributes:
        path: the data file; its header stands beside it with the suffix ``.json``.
    """

    def __init__(self, folder: Path, teacher: str, data: Any, rows: Sequence[int]) -> None:
        """Name the cache after its content.

        Args:
            folder: where caches live.
            teacher: digest of the teacher's weights and precision, and of what is asked of it.
            data: items with ``input_ids``, ``token_type_ids`` and ``index``.
            rows: which items to hold.
        """
        self.order = sorted(rows, key=lambda row: (data.lengths[row], row))
        self.lengths = [int(data.lengths[row]) for row in self.order]
        digest = hashlib.sha256(f"{FORMAT} {_CHUNK} {teacher}".encode())
        self.slots: dict[int, int] = {}
        for slot, row in enumerate(self.order):
            item = data[row]
            self.slots[int(item["index"])] = slot
            for name in _HASHED:
                ids = np.ascontiguousarray(item.get(name, ()), np.int32)
                digest.update(f"{name} {ids.size} ".encode() + ids.tobytes())
        self.key = digest.hexdigest()
        self.path = folder / f"teacher-{self.key[:32]}.f32"
        self.header_path = self.path.with_suffix(".json")
        self.checksums: list[int] = []
        self.pieces: list[Piece] = []
        self._map: Floats | None = None
        self._starts: npt.NDArray[np.int64] | None = None

    @property
    def chunks(self) -> int:
        """Number of chunks when full."""
        return -(-len(self.order) // _CHUNK)

    @property
    def full(self) -> bool:
        """Whether every row is there."""
        return len(self.checksums) == self.chunks

    @property
    def size_bytes(self) -> int:
        """Bytes of the data file when full; known once a row has been computed."""
        return int(self._offsets()[-1]) * 4

    def fill(self, compute: Compute, *, cap_bytes: int, report: Callable[[int, int], None]) -> bool:
        """Compute what is missing.

        Args:
            compute: rows of the data set to their numbers.
            cap_bytes: do nothing if what is missing would be larger.
            report: told rows done and rows in all.

        Returns:
            Whether the cache is there and full; False if it would exceed the cap.

        Raises:
            MachineError: no space left.
        """
        self._open_header()
        if self.full:
            self._load()
            return True
        pieces, first = compute(self._rows(len(self.checksums)))
        self._lay_out(pieces)
        if self.size_bytes - int(self._offsets()[len(self.checksums) * _CHUNK]) * 4 > cap_bytes:
            return False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()  # not emptied: another process may be filling it, with the same bits
            with self.path.open("r+b") as file:
                file.truncate(self.size_bytes)
                self._compute_all(file, compute, first, report)
        except OSError as error:
            raise machine_error(self.path, error) from error
        self._load()
        return True

    def read(self, indices: Sequence[int], tokens: int) -> dict[Piece, Floats]:
        """What is kept of examples, by their stable ``index``.

        Args:
            indices: (batch,), as in the batch.
            tokens: width of the batch.

        Returns:
            For each piece (batch, ...) of its shape at ``tokens``, with zeros at pads.
        """
        if self._map is None:
            raise RuntimeError(f"{self.path}: read before it was filled")
        offsets = self._offsets()
        found = {piece: np.zeros((len(indices), *piece.at(tokens)), np.float32) for piece in self.pieces}
        for row, index in enumerate(indices):
            slot = self.slots[index]
            length, start = self.lengths[slot], int(offsets[slot])
            for piece, out in found.items():
                end = start + piece.floats(length)
                out[piece.within(row, length)] = self._map[start:end].reshape(piece.at(length))
                start = end
        return found

    def _compute_all(
        self, file: Any, compute: Compute, first: list[Floats], report: Callable[[int, int], None]
    ) -> None:
        synced = time.monotonic()
        for chunk in range(len(self.checksums), self.chunks):
            rows = first if first else compute(self._rows(chunk))[1]
            first = []
            content = np.concatenate(rows).astype("<f4").tobytes()
            file.seek(int(self._offsets()[chunk * _CHUNK]) * 4)
            file.write(content)
            self.checksums.append(zlib.crc32(content))
            if self.full or time.monotonic() - synced > _SYNC_SECONDS:
                file.flush()
                os.fsync(file.fileno())
                self._write_header()
                synced = time.monotonic()
            report(min((chunk + 1) * _CHUNK, len(self.order)), len(self.order))

    def _rows(self, chunk: int) -> list[int]:
        return self.order[chunk * _CHUNK : (chunk + 1) * _CHUNK]

    def _lay_out(self, pieces: list[Piece]) -> None:
        self.pieces, self._starts = pieces, None

    def _offsets(self) -> npt.NDArray[np.int64]:
        """Where each row starts, counted in floats; (rows + 1,)."""
        if self._starts is None:
            sizes = [sum(piece.floats(tokens) for piece in self.pieces) for tokens in self.lengths]
            self._starts = np.concatenate([[0], np.cumsum(np.asarray(sizes, np.int64))])
        return self._starts

    def _write_header(self) -> None:
        header = {
            "format": FORMAT, "key": self.key, "rows": len(self.order), "pieces": self.pieces,
            "checksums": self.checksums,
        }  # fmt: skip
        write_atomically(self.header_path, lambda file: file.write(json.dumps(header).encode()))

    def _open_header(self) -> None:
        """Take over the chunks of an earlier run that are whole; a stale or torn cache has none."""
        self.checksums, self._map = [], None
        try:
            header = json.loads(self.header_path.read_text("utf-8"))
            if (header["format"], header["key"], header["rows"]) != (FORMAT, self.key, len(self.order)):
                return
            self._lay_out([Piece(name, place, tuple(shape)) for name, place, shape in header["pieces"]])
            if self.path.stat().st_size != self.size_bytes:
                return
            self.checksums = self._whole(list(header["checksums"]))
        except (OSError, ValueError, KeyError, TypeError):
            return

    def _whole(self, checksums: list[int]) -> list[int]:
        offsets, good = self._offsets(), []
        with self.path.open("rb") as file:
            for chunk, expected in enumerate(checksums[: self.chunks]):
                start, end = chunk * _CHUNK, min((chunk + 1) * _CHUNK, len(self.order))
                if zlib.crc32(file.read(int(offsets[end] - offsets[start]) * 4)) != expected:
                    break
                good.append(expected)
        return good

    def _load(self) -> None:
        self._map = np.memmap(self.path, np.dtype("<f4"), mode="r", shape=(self.size_bytes // 4,))
