"""The records of a run, compressed in memory."""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Sequence
from typing import overload

from distnewton.method.records import IterationRecord

_WINDOW = 13  # 8 KB: the first record and this one


class History(Sequence[IterationRecord]):
    """Records of iterations, each packed as it is added and unpacked as it is read.

    A record consists of some 60 small objects: 2.6 KB for 4 ranks, more for more ranks. In a long run the memory of a
    rank would grow by them. Compressed with the first record as a dictionary, a record takes about 0.5 KB.

    Parameters
    ----------
    records : iterable of IterationRecord
        Records that the history begins with.

    Notes
    -----
    A record read from the history is a copy: changing it does not change the history. Numbers come back bit for bit.
    """

    def __init__(self, records: Iterable[IterationRecord] = ()) -> None:
        self._packed: list[bytes] = []
        self._common = b""
        for record in records:
            self.append(record)

    def append(self, record: IterationRecord) -> None:
        """Add the record of the next iteration."""
        text = json.dumps(record.as_dict(), separators=(",", ":")).encode()
        if not self._packed:
            self._common = text
        packer = zlib.compressobj(6, zlib.DEFLATED, -_WINDOW, 6, zlib.Z_DEFAULT_STRATEGY, self._common)
        self._packed.append(packer.compress(text) + packer.flush())

    def __len__(self) -> int:
        return len(self._packed)

    @overload
    def __getitem__(self, index: int) -> IterationRecord: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[IterationRecord]: ...
    def __getitem__(self, index: int | slice) -> IterationRecord | Sequence[IterationRecord]:
        if isinstance(index, slice):
            return [self._unpacked(packed) for packed in self._packed[index]]
        return self._unpacked(self._packed[index])

    def _unpacked(self, packed: bytes) -> IterationRecord:
        unpacker = zlib.decompressobj(-_WINDOW, self._common)
        return IterationRecord.from_dict(json.loads(unpacker.decompress(packed) + unpacker.flush()))
