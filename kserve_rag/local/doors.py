"""The port of a service, which its replicas share: what a Service of Kubernetes is for pods, on one machine.

Every replica listens on the port itself (SO_REUSEPORT), and so does the service's door. To whom a new connection goes
is decided in the kernel, by a program of a few instructions that the door attaches to the port:

| connection | goes to |
|---|---|
| from 127.1.x.y | the replica of that number, whether it serves or not: how one of them is probed |
| from elsewhere | one of the replicas that serve, at random |
| where none serves | the door itself, which answers 503 with `Retry-After` |

So nothing stands between a client and a replica, and a replica that serves no more is told of no new connection while
it answers those that it has.

The program names a listener by its place among those of the port, in the order in which they began to listen; where
one leaves, the last takes its place. The door keeps the same list. Replicas of one service are started one after the
other, so that it can.

Source: socket(7), SO_ATTACH_REUSEPORT_CBPF; Linux, net/core/sock_reuseport.c. Standard library alone.
"""

from __future__ import annotations

import contextlib
import ctypes
import http.server
import os
import socket
import struct
import threading
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

HOST = "127.0.0.1"
SERVER = "kserve-rag-door"
"""What tells the door's answers from those of a service."""
RETRY_AFTER_S = 2
"""What the services say themselves when they are not ready."""

_SO_ATTACH_REUSEPORT_CBPF = 51
_BACKLOG = 1024
_OWN_AT_MOST = 100
"""Listeners of one door. Each restart may leave one more."""

# linux/filter.h: instructions, and where a packet's fields are found.
_LOAD, _EQUAL, _AND, _MODULO, _RETURN = 0x20, 0x15, 0x54, 0x94, 0x06
_SOURCE_ADDRESS = 0xFFF0_0000 + 12
"""SKF_NET_OFF, and the offset in an IPv4 header."""
_RANDOM = 0xFFFF_F000 + 56
"""SKF_AD_OFF + SKF_AD_RANDOM."""

_PROBES = 0x7F01_0000
"""127.1.0.0/16."""

_ESTABLISHED, _LISTEN = "01", "0A"
"""States in /proc/net/tcp."""


class UnsupportedError(Exception):
    """This kernel lets no program decide who gets a connection."""


def probe_address(number: int) -> str:
    """The address that a connection has to come from to reach the replica of this number."""
    return f"127.1.{number // 256}.{number % 256}"


class Door:
    """The port of one service."""

    def __init__(self, port: int, refusals: Mapping[str, str]) -> None:
        """Listens, and answers until a replica serves.

        Args:
            port: free, on loopback.
            refusals: path prefix → JSON body of the 503; the longest that fits is taken.

        Raises:
            OSError: the port is taken.
            UnsupportedError: see there.
        """
        self.port = port
        self.serving: set[str] = set()
        """Names of replicas that get connections, once they listen."""
        self._replicas: dict[str, _Replica] = {}
        self._order: list[int] = []
        """Listeners of the port by their inode, as the kernel has them."""
        self._own: dict[int, socket.socket] = {}
        self._first = self._listen()
        try:
            self._attach()
        except OSError as error:
            self.close()
            raise UnsupportedError(f"SO_ATTACH_REUSEPORT_CBPF: {error.strerror}") from error
        self._answering = _Answering(self._first, refusals)

    def expect(self, name: str, number: int, pid: int) -> None:
        """A replica was started: from when it listens it can be probed, and gets connections if it serves."""
        self._replicas[name] = _Replica(number, pid)

    def forget(self, name: str) -> None:
        """A replica has ended."""
        self.look()
        self._replicas.pop(name, None)
        self.serving.discard(name)
        self._tidy()
        self._attach()

    def serve(self, name: str) -> None:
        """From now on a replica gets connections."""
        self.serving.add(name)
        self.look()
        self._attach()

    def retire(self, name: str) -> None:
        """From now on a replica gets no connection, and it may stop to listen at any time.

        Another listener of the door takes its place then, so that the place of no other replica changes.
        """
        self.serving.discard(name)
        self.look()
        self._listen()
        self._attach()

    def look(self) -> bool:
        """Takes note of who has begun to listen, or ceased. Whether all replicas listen."""
        listening = {entry.inode for entry in _entries() if entry.port == self.port and entry.state == _LISTEN}
        # The table is not read at once: entries can be missed while others come and go.
        listening.update(self._own)
        before = list(self._order)
        for inode in before:
            if inode not in listening:
                self._left(inode)
        for inode in listening.difference(before):
            self._order.append(inode)
        missing = [replica for replica in self._replicas.values() if replica.listener not in listening]
        for replica in missing:
            held = held_sockets(replica.pid)
            replica.listener = next((inode for inode in self._order if inode in held), None)
        if before != self._order:
            self._attach()
        return all(replica.listener is not None for replica in self._replicas.values())

    def listens(self, name: str) -> bool:
        """Whether a replica was seen to listen."""
        return self._replicas[name].listener is not None

    def connections(self, name: str, ports: Collection[int]) -> int:
        """How many connections a replica has at these ports, those included that it has not accepted yet."""
        replica = self._replicas[name]
        # In this order: a connection that is accepted in between is counted at least once.
        entries = list(_entries())
        held = held_sockets(replica.pid)
        count = 0
        for entry in entries:
            if entry.inode == replica.listener:
                count += entry.waiting
            elif entry.state == _ESTABLISHED and entry.inode in held and entry.port in ports:
                count += 1
        return count

    def close(self) -> None:
        """Gives the port up."""
        for own in self._own.values():
            own.close()
        self._own.clear()

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if self._own:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                listener.bind((HOST, self.port))
            else:
                # Without SO_REUSEPORT at first: nobody else's port is shared.
                listener.bind((HOST, self.port))
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.listen(_BACKLOG)
        except OSError:
            listener.close()
            raise
        self._own[self._inode(listener)] = listener
        self._order.append(self._inode(listener))
        return listener

    def _tidy(self) -> None:
        """Closes listeners of the door's own that keep no place any more.

        Those with a replica behind them stay: were one closed, that replica would change its place at once in the
        kernel and a moment later in the program. Only where they have become very many is that moment accepted.
        """
        many = len(self._own) > _OWN_AT_MOST
        for inode in self._order[:0:-1]:
            if inode in self._own and (many or inode == self._order[-1]):
                self._own.pop(inode).close()
                self._left(inode)

    def _left(self, inode: int) -> None:
        place, last = self._order.index(inode), self._order.pop()
        if last != inode:
            self._order[place] = last

    def _attach(self) -> None:
        places = {inode: place for place, inode in enumerate(self._order)}
        own = places[self._inode(self._first)]
        probed, serving = {}, []
        for name, replica in self._replicas.items():
            if replica.listener in places:
                place = places[replica.listener]
                probed[_PROBES + replica.number] = place
                if name in self.serving:
                    serving.append(place)
        program = b"".join(_program(own, probed, serving))
        instructions = ctypes.create_string_buffer(program)
        filter_ = struct.pack("HP", len(program) // 8, ctypes.addressof(instructions))
        self._first.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_REUSEPORT_CBPF, filter_)

    @staticmethod
    def _inode(listener: socket.socket) -> int:
        return os.fstat(listener.fileno()).st_ino


@dataclass
class _Replica:
    number: int
    pid: int
    listener: int | None = None
    """Inode of the socket that it listens with."""


def _program(own: int, probed: Mapping[int, int], serving: list[int]) -> Iterator[bytes]:
    """The instructions. `own`, and the values of `probed` and `serving`, are places; keys of `probed` are addresses."""
    yield _instruction(_LOAD, _SOURCE_ADDRESS)
    for address, place in probed.items():
        yield from _if_equal(address, place)
    yield _instruction(_AND, 0xFFFF_0000)
    yield from _if_equal(_PROBES, own)
    if len(serving) > 1:
        yield _instruction(_LOAD, _RANDOM)
        yield _instruction(_MODULO, len(serving))
        for number, place in enumerate(serving):
            yield from _if_equal(number, place)
    yield _instruction(_RETURN, serving[0] if serving else own)


def _if_equal(value: int, place: int) -> Iterator[bytes]:
    yield _instruction(_EQUAL, value, skip=1)
    yield _instruction(_RETURN, place)


def _instruction(code: int, value: int, *, skip: int = 0) -> bytes:
    """One instruction; `skip`: how many are left out where a comparison fails."""
    return struct.pack("=HBBI", code, 0, skip, value)


# ── what answers where nobody serves ──────────────────────────────────────────────────────────────────────────────────


class _Answering(http.server.ThreadingHTTPServer):
    """Answers every request with 503, in a thread of its own."""

    daemon_threads = True

    def __init__(self, listener: socket.socket, refusals: Mapping[str, str]) -> None:
        super().__init__(listener.getsockname(), _Refusal, bind_and_activate=False)
        self.socket.close()
        self.socket = listener
        self.refusals = sorted(refusals.items(), key=lambda item: -len(item[0]))
        threading.Thread(target=self.serve_forever, name="door", daemon=True).start()

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is none."""


class _Refusal(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = 5
    server: _Answering

    def _refuse(self) -> None:
        body = next(body for prefix, body in self.server.refusals if self.path.startswith(prefix)).encode()
        self.send_response_only(503)
        self.send_header("server", SERVER)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.send_header("retry-after", str(RETRY_AFTER_S))
        self.send_header("connection", "close")
        if "x-request-id" in self.headers:
            self.send_header("x-request-id", self.headers["x-request-id"])
        self.end_headers()
        self.wfile.write(body if self.command != "HEAD" else b"")
        self.close_connection = True
        # What is closed with its request unread is reset, and takes the answer along.
        self.connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while self.connection.recv(65_536):
                continue

    do_DELETE = do_GET = do_HEAD = do_OPTIONS = do_PATCH = do_POST = do_PUT = _refuse  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


# ── /proc ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Entry:
    """One socket of this machine."""

    port: int
    state: str
    waiting: int
    """Of a listener: connections that nobody has accepted."""
    inode: int


def _entries() -> Iterator[_Entry]:
    """Source: proc_pid_net(5)."""
    for table in ("/proc/net/tcp", "/proc/net/tcp6"):
        with contextlib.suppress(FileNotFoundError):
            for line in Path(table).read_text(encoding="ascii").splitlines()[1:]:
                fields = line.split()
                yield _Entry(
                    int(fields[1].rpartition(":")[2], 16),
                    fields[3],
                    int(fields[4].rpartition(":")[2], 16),
                    int(fields[9]),
                )


def held_sockets(pid: int) -> set[int]:
    """Inodes of the sockets that a process has open."""
    found = set()
    with contextlib.suppress(FileNotFoundError, ProcessLookupError, PermissionError):
        for descriptor in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                kind, _, inode = str(descriptor.readlink()).partition(":")
                if kind == "socket":
                    found.add(int(inode.strip("[]")))
    return found
