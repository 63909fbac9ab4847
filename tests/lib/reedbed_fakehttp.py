"""A tiny server that answers as nginx does, or as it never would."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Answer = Callable[["FakeNginx", str, str, bytes], bytes | None]  # None closes the connection


class FakeNginx:
    """Looks to a raw client like the Nginx of the benchmark; keeps what was put."""

    def __init__(self, answer: Answer | None, piece: int) -> None:
        self._server = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._server.getsockname()[1])
        self.pids = [1, os.getpid()]
        self.kept: dict[str, bytes] = {}
        self.methods: list[str] = []
        self._answer = answer or honest
        self._piece = piece

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._server.accept()
            except OSError:
                return
            threading.Thread(target=self._talk, args=(connection,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown(socket.SHUT_RDWR)
        self._server.close()

    def _talk(self, connection: socket.socket) -> None:
        with contextlib.suppress(ConnectionError), connection, connection.makefile("rb") as stream:
            while line := stream.readline():
                method, path, _ = line.decode().split(" ")
                length = 0
                while (header := stream.readline()) not in (b"\r\n", b""):
                    name, _, value = header.decode().partition(": ")
                    length = int(value) if name == "Content-Length" else length
                body = stream.read(length)
                self.methods.append(method)
                answer = self._answer(self, method, path, body)
                if answer is None:
                    return
                for start in range(0, len(answer), self._piece):
                    connection.sendall(answer[start : start + self._piece])


def honest(server: FakeNginx, method: str, path: str, body: bytes) -> bytes:
    """What nginx answers."""
    if path == "/.worker":
        return f"HTTP/1.1 204 No Content\r\nServer: fake\r\nX-Worker: {server.pids[1]}\r\n\r\n".encode()
    if method == "PUT":
        new = path not in server.kept
        server.kept[path] = body
        return b"HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n" if new else b"HTTP/1.1 204 No Content\r\n\r\n"
    if path not in server.kept:
        return b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    if method == "DELETE":
        del server.kept[path]
        return b"HTTP/1.1 204 No Content\r\n\r\n"
    kept = server.kept[path]
    return b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nETag: x\r\n\r\n" % len(kept) + kept


@contextmanager
def fake_nginx(answer: Answer | None = None, piece: int = 1 << 30) -> Iterator[FakeNginx]:
    """A server that runs in the background while in the context; answers go out in pieces of so many bytes."""
    server = FakeNginx(answer, piece)
    thread = threading.Thread(target=server.serve, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.close()
        thread.join()
