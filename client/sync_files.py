"""Objects as Python's own file objects, for code that is not asynchronous."""

from __future__ import annotations

import io
import warnings
from types import TracebackType
from typing import Any, Final, Self

from reedbed.client.arguments import flat_view
from reedbed.client.files import ObjectReader, ObjectWriter
from reedbed.client.loop_thread import LoopThread
from reedbed.common.limits import KIB, MIB
from reedbed.protos.types import ObjectInfo

READ_BUFFER: Final = 128 * KIB
WRITE_BUFFER: Final = MIB


class _RawReader(io.RawIOBase):
    """An open version as a raw stream."""

    def __init__(self, thread: LoopThread, reader: ObjectReader, owner: object) -> None:
        super().__init__()
        self._thread = thread
        self._owner = owner
        self.reader = reader

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        return self._thread.run(lambda: self.reader.readinto(buffer))

    def readall(self) -> bytes:
        return self._thread.run(self.reader.read)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self.reader.seek(offset, whence)

    def tell(self) -> int:
        return self.reader.tell()

    def close(self) -> None:
        # may be the garbage collector's call, in any thread: so nothing is waited for
        if not self.closed:
            super().close()
            self._thread.soon(self.reader.drop)


class ObjectFileReader(io.BufferedReader):
    """What `open(..., "rb")` returns: seekable, reads ahead, and stays with the version it was opened on."""

    def __init__(self, thread: LoopThread, reader: ObjectReader, owner: object = None) -> None:
        """`owner` is kept for as long as the file is: the store, which ends when nobody refers to it."""
        super().__init__(_RawReader(thread, reader, owner), READ_BUFFER)
        self.info: ObjectInfo = reader.info


class ObjectFileWriter(io.BufferedIOBase):
    """What `open(..., "wb")` returns: commits on close; abandons on an error within `with`, or when not closed."""

    def __init__(self, thread: LoopThread, writer: ObjectWriter, owner: object = None) -> None:
        """`owner` as for ObjectFileReader."""
        super().__init__()
        self._thread = thread
        self._owner = owner
        self._writer = writer
        self._buffer = bytearray()
        self._written = 0

    @property
    def info(self) -> ObjectInfo:
        """Of the version that was made; only after `close`."""
        return self._writer.info

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        view = flat_view(data)
        if len(self._buffer) + len(view) < WRITE_BUFFER:
            self._buffer += view
        else:
            self._send()
            # the caller may reuse its buffer at once
            self._push(bytes(view))
        self._written += len(view)
        return len(view)

    def tell(self) -> int:
        return self._written

    def flush(self) -> None:
        """Nothing: bytes become visible at close, not before."""
        if self.closed:
            raise ValueError("I/O operation on closed file")

    def close(self) -> None:
        """Commits. Raises the put's error; then nothing is visible, unless it says `maybe_applied`."""
        if self.closed:
            return
        try:
            self._send()
            self._thread.run(self._writer.close)
        except BaseException:
            self._drop()
            raise
        finally:
            super().close()

    def abandon(self) -> None:
        """Ends without a commit; nothing becomes visible."""
        if not self.closed:
            super().close()
            self._buffer.clear()
            self._thread.run(self._writer.abandon)

    def __enter__(self) -> Self:
        if self.closed:
            raise ValueError("I/O operation on closed file")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.close()
        else:
            self.abandon()

    def __del__(self) -> None:
        # the base class would close, and so commit
        if hasattr(self, "_writer") and not self.closed:
            warnings.warn(
                "an object opened for writing was not closed, and is abandoned", ResourceWarning, stacklevel=2
            )
            self._drop()
            super().close()

    def _send(self) -> None:
        if self._buffer:
            piece, self._buffer = self._buffer, bytearray()
            self._push(piece)

    def _push(self, piece: bytes | bytearray) -> None:
        if piece:
            self._thread.run(lambda: self._writer.write(piece))

    def _drop(self) -> None:
        self._thread.soon(self._writer.drop)
