"""A proxy before the S3 server that holds back the upload of data until a test opens it, so that a Backup is caught running."""

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Final

from sandbox.ports import HOST

_DATA: Final = re.compile(rb"PUT [^ ]*\.sql[?. ]")
"""The request line of an upload of rows or of a table's definition; the manager's own records pass."""


class Gate:
    """Closed at first. *reached* is set when an upload waits at it."""

    def __init__(self, target: int) -> None:
        self._target = target
        self._open = threading.Event()
        self.reached = threading.Event()
        self._server = socket.create_server((HOST, 0))
        self.url = f"http://{HOST}:{self._server.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def open(self) -> None:
        """Let everything through from now on."""
        self._open.set()

    def close(self) -> None:
        """Stop accepting connections; who waits is let go."""
        self._open.set()
        self._server.close()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._server.accept()
                server = socket.create_connection((HOST, self._target))
                threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
                threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, guarded: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if guarded and _DATA.match(data) and not self._open.is_set():
                    self.reached.set()
                    self._open.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()


@contextmanager
def gate(target: int) -> Iterator[Gate]:
    """A gate before the server on port *target* of the loopback interface."""
    made = Gate(target)
    try:
        yield made
    finally:
        made.close()
