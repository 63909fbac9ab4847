"""Objects as files, the asynchronous core: a reader that reads ahead, and a writer that commits when it is closed.

Invariants:
- A reader stays with the version that it was opened on.
- What is read ahead lies behind the position, grows only while reads follow each other, and is at most AHEAD_MAX.
- A writer's bytes become visible at `close`, all at once, or never: an error, `abandon`, the end of the store and the
  loss of the last reference each give the put up.
"""

from __future__ import annotations

import asyncio
import io
from collections import deque
from types import TracebackType
from typing import Final, Self

from reedbed.client.arguments import flat_view
from reedbed.client.background import Background
from reedbed.client.contents import Handle
from reedbed.client.get import Getter
from reedbed.client.put import Putter
from reedbed.client.spec import PutSpec
from reedbed.common.errors import InvalidArgument, PreconditionFailed, Unavailable, rebuild
from reedbed.common.limits import KIB, MIB
from reedbed.protos.types import ObjectInfo

AHEAD_MIN: Final = 256 * KIB
AHEAD_MAX: Final = 16 * MIB
_DIRECT: Final = 4 * MIB  # a read of so much goes straight to where it belongs
PIPE_MAX: Final = 8 * MIB  # bytes that wait between a writer and its put

MODES: Final = ("rb", "wb", "xb")


def check_mode(mode: object) -> str:
    """The mode, if it is one of MODES; what else files can do is refused by name."""
    if not isinstance(mode, str):
        raise InvalidArgument(f"mode {mode!r} is not text", hint="It is rb, wb or xb")
    letters = set(mode)
    if "a" in letters:
        raise InvalidArgument(
            f"mode {mode!r} appends, and objects never change", hint="Write the object anew with 'wb'"
        )
    if "+" in letters:
        raise InvalidArgument(f"mode {mode!r} reads and writes at once", hint="Open it for one of the two")
    known = {"rb": "rb", "br": "rb", "wb": "wb", "bw": "wb", "xb": "xb", "bx": "xb"}.get(mode)
    if known is None:
        if mode and letters <= set("rwxt"):
            if letters & set("wx"):
                # a TextIOWrapper would close it, and so commit, also on an error within its `with`
                hint = "Open it with 'b', and write text.encode()"
            else:
                hint = "Open it with 'b', and wrap it in io.TextIOWrapper"
            raise InvalidArgument(f"mode {mode!r} is a text mode, and objects hold bytes", hint=hint)
        raise InvalidArgument(f"mode {mode!r} is not known", hint="It is rb, wb or xb")
    return known


class ObjectReader:
    """An open version. `info` tells of it; positions are in bytes."""

    def __init__(self, getter: Getter, handle: Handle) -> None:
        self._getter = getter
        self._handle = handle
        self._position = 0
        self._ahead: deque[tuple[int, int, asyncio.Task[bytes]]] = deque()  # (start, end, its bytes), without gaps
        self._next = 0  # where a read would follow the one before
        self._window = AHEAD_MIN
        self.closed = False

    @property
    def info(self) -> ObjectInfo:
        return self._handle.info

    async def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes from the position, all that are left for -1; empty at the end."""
        self._check_open()
        left = max(0, self.info.size - self._position)
        count = left if size is None or size < 0 else min(size, left)
        holder = io.BytesIO(bytes(count))
        with holder.getbuffer() as view:
            await self._fill(self._position, view)
        self._position += count
        return holder.getvalue()

    async def readinto(self, buffer: object) -> int:
        """Fills the buffer as far as there are bytes, and returns their number."""
        self._check_open()
        view = flat_view(buffer, "buffer")
        count = max(0, min(len(view), self.info.size - self._position))
        await self._fill(self._position, view[:count])
        self._position += count
        return count

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """As of files in binary mode; positions past the end are allowed, and read nothing."""
        self._check_open()
        if whence not in (io.SEEK_SET, io.SEEK_CUR, io.SEEK_END):
            raise InvalidArgument(f"whence={whence!r} is not 0, 1 or 2")
        base = (0, self._position, self.info.size)[whence]
        if whence == io.SEEK_SET and offset < 0:
            raise InvalidArgument(f"position {offset} is before the start", where=self._handle.target.where)
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        self._check_open()
        return self._position

    async def close(self) -> None:
        self.drop()

    def drop(self) -> None:
        """Closes without waiting for what is under way."""
        self.closed = True
        self._forget()

    async def __aenter__(self) -> Self:
        self._check_open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _check_open(self) -> None:
        if self.closed:
            raise ValueError("I/O operation on closed file")

    async def _fill(self, start: int, view: memoryview) -> None:
        end = start + len(view)
        if not len(view):
            return
        follows = start == self._next
        self._next = end
        if len(view) >= _DIRECT and self._at(start) is None:
            self._forget()
            await self._getter.read_into(self._handle, start, view, self._getter.deadline())
            return
        self._window = min(AHEAD_MAX, 2 * self._window) if follows else AHEAD_MIN
        at = start
        while at < end:
            unit = self._at(at)
            if unit is None:
                self._forget()
                unit = self._begin(at, max(end, at + AHEAD_MIN) if not follows else max(end, at + self._window // 2))
            if follows:
                self._read_on(end)
            first, last, task = unit
            try:
                data = memoryview(await asyncio.shield(task))
            except asyncio.CancelledError:
                caller = asyncio.current_task()
                if not task.cancelled() or caller is None or caller.cancelling():
                    raise
                # not the caller was cancelled, but what was read ahead: by `close`, or by a read elsewhere
                self._check_open()
                continue
            count = min(end, last) - at
            view[at - start : at - start + count] = data[at - first : at - first + count]
            at += count

    def _at(self, position: int) -> tuple[int, int, asyncio.Task[bytes]] | None:
        """What was read ahead there; what lies before is let go."""
        while self._ahead and self._ahead[0][1] <= position:
            self._cancel(self._ahead.popleft())
        if self._ahead and self._ahead[0][0] <= position:
            task = self._ahead[0][2]
            if not task.done() or (not task.cancelled() and task.exception() is None):
                return self._ahead[0]
        return None

    def _read_on(self, position: int) -> None:
        """Begins to read up to the window ahead of the position."""
        while self._ahead and (last := self._ahead[-1][1]) < min(self.info.size, position + self._window // 2):
            self._begin(last, last + max(AHEAD_MIN, self._window // 4))

    def _begin(self, start: int, end: int) -> tuple[int, int, asyncio.Task[bytes]]:
        end = min(end, self.info.size)
        task = asyncio.create_task(self._getter.get_range(self._handle, start, end, self._getter.deadline()))
        task.add_done_callback(_look)
        self._getter.hold(end - start)
        self._ahead.append((start, end, task))
        return self._ahead[-1]

    def _forget(self) -> None:
        while self._ahead:
            self._cancel(self._ahead.popleft())

    def _cancel(self, unit: tuple[int, int, asyncio.Task[bytes]]) -> None:
        unit[2].cancel()
        self._getter.hold(unit[0] - unit[1])


class _Pipe:
    """The source of a writer's put: what is written goes in, the put takes it out."""

    def __init__(self) -> None:
        self._pieces: deque[memoryview] = deque()
        self._held = 0
        self._ended = False
        self._broken = False
        self._changed = asyncio.Condition()

    async def push(self, piece: memoryview) -> None:
        """Waits for room. Returns without the piece being taken if the put has ended."""
        async with self._changed:
            await self._changed.wait_for(lambda: self._broken or self._held < PIPE_MAX)
            self._pieces.append(piece)
            self._held += len(piece)
            self._changed.notify_all()

    async def end(self) -> None:
        async with self._changed:
            self._ended = True
            self._changed.notify_all()

    async def break_off(self) -> None:
        async with self._changed:
            self._broken = True
            self._changed.notify_all()

    async def fill(self, view: memoryview) -> int:
        at = 0
        async with self._changed:
            while at < len(view):
                await self._changed.wait_for(lambda: self._pieces or self._ended)
                if not self._pieces:
                    break
                piece = self._pieces.popleft()
                count = min(len(piece), len(view) - at)
                view[at : at + count] = piece[:count]
                at += count
                if count < len(piece):
                    self._pieces.appendleft(piece[count:])
                self._held -= count
                self._changed.notify_all()
        return at


class ObjectWriter:
    """An object that is being written; `info` once it is closed."""

    def __init__(self, putter: Putter, spec: PutSpec, background: Background, *, exclusive: bool) -> None:
        self._pipe = _Pipe()
        self._where = spec.target.where
        self._exclusive = exclusive
        self._written = 0
        self._info: ObjectInfo | None = None
        self.closed = False
        self._loop = asyncio.get_running_loop()
        self._task = self._loop.create_task(_put(putter, self._pipe, spec))
        background.keep(self._task)

    @property
    def info(self) -> ObjectInfo:
        """Of the version that was made; only after `close`."""
        if self._info is None:
            raise InvalidArgument("the object is not committed yet", where=self._where, hint="Close it first")
        return self._info

    async def write(self, data: object) -> int:
        """Takes bytes, which must not change until the writer is closed, and returns their number.

        Raises the put's error if it has failed.
        """
        if self.closed:
            raise ValueError("I/O operation on closed file")
        view = flat_view(data)
        if len(view):
            await self._pipe.push(view)
        if self._task.done():
            await self._result()
        self._written += len(view)
        return len(view)

    def tell(self) -> int:
        """Bytes written so far."""
        return self._written

    async def close(self) -> None:
        """Commits. Raises the put's error; then nothing is visible, unless it says `maybe_applied`."""
        if self.closed:
            return
        self.closed = True
        await self._pipe.end()
        try:
            self._info = await self._result()
        except asyncio.CancelledError:
            await self._give_up()
            raise

    async def abandon(self) -> None:
        """Ends without a commit; nothing becomes visible."""
        if not self.closed:
            self.closed = True
            await self._give_up()

    def drop(self) -> None:
        """Abandons without waiting; from any thread."""
        if not self.closed:
            self.closed = True
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._task.cancel)

    def __del__(self) -> None:
        # a writer whose last reference is gone was not closed: then its bytes must not become an object
        if hasattr(self, "_task"):
            self.drop()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            await self.close()
        else:
            await self.abandon()

    async def _give_up(self) -> None:
        self._task.cancel()
        await asyncio.wait([self._task])
        if not self._task.cancelled():
            self._task.exception()  # it is given up, so nobody asks why it failed

    async def _result(self) -> ObjectInfo:
        await asyncio.wait([self._task])
        if self._task.cancelled():
            raise Unavailable("the store was closed before the object was", where=self._where, retryable=False)
        try:
            return self._task.result()
        except PreconditionFailed as error:
            if not self._exclusive or type(error) is not PreconditionFailed:
                raise
            raise rebuild("AlreadyExists", "the object exists", where=self._where, hint="Open it with 'wb'") from error


async def _put(putter: Putter, pipe: _Pipe, spec: PutSpec) -> ObjectInfo:
    # without a reference to the writer, so that losing it is noticed
    try:
        return await putter.put_source(pipe, spec)
    finally:
        await pipe.break_off()


def _look(task: asyncio.Task[bytes]) -> None:
    # what was read ahead may never be asked for; then its error is nobody's
    if not task.cancelled():
        task.exception()
