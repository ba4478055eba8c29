"""The port that a service's replicas share: who gets a connection, and who answers where there is none."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator

import httpx
import pytest

from kserve_rag.local import doors
from kserve_rag.local.doors import RETRY_AFTER_S, SERVER, Door, probe_address
from tests.processes import free_ports, until

REPLICA = """
import socket, sys
listener = socket.socket()
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
listener.bind(("127.0.0.1", int(sys.argv[1])))
listener.listen(200)
held = []
while True:
    connection, _ = listener.accept()
    if connection.recv(9) == b"GET /hold":
        held.append(connection)
        continue
    name = sys.argv[2]
    head = f"HTTP/1.1 200 OK\\r\\nconnection: close\\r\\ncontent-length: {len(name)}"
    connection.sendall(f"{head}\\r\\n\\r\\n{name}".encode())
    connection.shutdown(socket.SHUT_WR)
    while connection.recv(1000):
        pass
    connection.close()
"""


class Service:
    """A door, and replicas that say their names."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.port = port
        self.door = Door(port, {"": '{"error": "nobody"}', "/openai": '{"error": {"message": "nobody"}}'})
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, number: int) -> None:
        process = subprocess.Popen([sys.executable, "-c", REPLICA, str(self.port), name])
        self.processes[name] = process
        self.door.expect(name, number, process.pid)
        until(self.door.look)

    def end(self, name: str) -> None:
        process = self.processes.pop(name)
        process.kill()
        process.wait()

    def answers(self, count: int = 40, source: str = "127.0.0.1") -> Counter[str]:
        """Who answers connections from an address: names, or statuses of the door."""
        found: Counter[str] = Counter()
        for _ in range(count):
            transport = httpx.HTTPTransport(local_address=source, verify=False)
            with httpx.Client(transport=transport, trust_env=False) as client:
                answer = client.get(self.url)
                found[answer.text if answer.status_code == 200 else str(answer.status_code)] += 1
        return found


@pytest.fixture
def service() -> Iterator[Service]:
    service = Service(free_ports(1)[0])
    yield service
    for name in list(service.processes):
        service.end(name)
    service.door.close()


def test_where_nobody_serves_the_door_answers(service: Service) -> None:
    answer = httpx.post(f"{service.url}/v1/models/rag:predict", content=b"x" * 3_000_000, headers={"x-request-id": "7"})
    assert answer.status_code == 503
    assert answer.json() == {"error": "nobody"}
    assert answer.headers["retry-after"] == str(RETRY_AFTER_S)
    assert answer.headers["connection"] == "close"
    assert answer.headers["server"] == SERVER
    assert answer.headers["x-request-id"] == "7"
    assert httpx.get(f"{service.url}/openai/v1/models").json() == {"error": {"message": "nobody"}}


def test_a_replica_that_does_not_serve_can_be_probed_only(service: Service) -> None:
    service.start("one", 1)
    assert service.answers(3) == {"503": 3}
    assert service.answers(3, probe_address(1)) == {"one": 3}
    assert service.answers(3, probe_address(2)) == {"503": 3}
    service.door.serve("one")
    assert service.answers(3) == {"one": 3}


def test_connections_are_shared_among_those_that_serve(service: Service) -> None:
    for number, name in enumerate(("one", "two", "three"), 1):
        service.start(name, number)
        service.door.serve(name)
    assert service.answers(90).keys() == {"one", "two", "three"}
    service.end("two")
    service.door.forget("two")
    assert service.answers().keys() == {"one", "three"}
    assert service.answers(3, probe_address(3)) == {"three": 3}


def test_one_takes_anothers_place_and_nobody_is_sent_away(service: Service) -> None:
    """Many times, each while clients connect without a pause: also while the one before ends."""
    stop = threading.Event()
    found: Counter[str] = Counter()

    def ask() -> None:
        while not stop.is_set():
            found.update(service.answers(1))

    service.start("0", 1)
    service.door.serve("0")
    asking = [threading.Thread(target=ask) for _ in range(2)]
    for thread in asking:
        thread.start()
    until(lambda: "0" in found)
    for number in range(1, 5):
        service.start(str(number), number + 1)
        service.door.serve(str(number))
        before = str(number - 1)
        service.door.retire(before)
        until(lambda name=before: service.door.connections(name, [service.port]) == 0)
        service.end(before)
        service.door.forget(before)
        assert service.answers(10) == {str(number): 10}
        until(lambda name=str(number): name in found)
    stop.set()
    for thread in asking:
        thread.join()
    assert found.keys() == set("01234")


def test_listeners_that_keep_a_place_are_closed_where_they_are_many(
    service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doors, "_OWN_AT_MOST", 2)
    service.start("0", 1)
    service.door.serve("0")
    held = []
    for number in range(1, 5):
        service.start(str(number), number + 1)
        service.door.serve(str(number))
        service.door.retire(str(number - 1))
        service.end(str(number - 1))
        service.door.forget(str(number - 1))
        assert service.answers(5) == {str(number): 5}
        held.append(sum(entry.port == service.port and entry.state == doors._LISTEN for entry in doors._entries()))
    assert max(held) <= 3, held
    service.end("4")
    service.door.forget("4")
    assert service.answers(3) == {"503": 3}


def test_connections_of_one_that_serves_no_more_are_counted(service: Service) -> None:
    service.start("one", 1)
    service.door.serve("one")
    with contextlib.closing(socket.create_connection(("127.0.0.1", service.port))) as held:
        held.sendall(b"GET /hold HTTP/1.1\r\n\r\n")
        service.door.retire("one")
        assert service.door.connections("one", [service.port]) == 1
        assert service.door.connections("one", []) == 0
        assert service.answers(3) == {"503": 3}
    service.end("one")


def test_a_port_that_is_taken() -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken, pytest.raises(OSError, match="in use"):
        Door(taken.getsockname()[1], {"": "{}"})
