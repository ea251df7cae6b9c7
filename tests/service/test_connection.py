"""The service over real connections: slow, broken and too many clients, and how it ends."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
import sys
import time
from contextlib import contextmanager, suppress
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='the service needs pip install ".[serve]"')
pytest.importorskip("uvicorn", reason='the service needs pip install ".[serve]"')
pytest.importorskip("httpx", reason='its tests need pip install ".[test-all]"')

import httpx
from asked import JSON, check_answer, check_error
from campaigns import load

from emcl_plugin import Reranker
from emcl_plugin.data.demo import load_demo

SERVER = """
import resource, sys, time
from emcl_plugin import Reranker
from emcl_plugin.service import connection
from emcl_plugin.service import app as service
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.data.demo import load_demo

connection.PATIENCE, service.GRACE, seconds = 2, 6, float(sys.argv[1])
search = Corrector.search

def slow(*arguments):
    print("searching", file=sys.stderr, flush=True)
    time.sleep(seconds)
    return search(*arguments)

if seconds:
    Corrector.search = slow
if "few" in sys.argv:
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
demo = load_demo()
fitted = Reranker().fit(demo.text_bank, demo.video, names=demo.video_names)
service.serve(fitted, port=0, max_body=100_000, access_log="log" in sys.argv)
"""


HEAD = b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


class Served:
    """A service in a process of its own."""

    def __init__(self, *arguments):
        command = [sys.executable, "-c", SERVER, *map(str, arguments)]
        pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        self.process = subprocess.Popen(command, **pipes)

    def wait(self):
        """Until it listens."""
        for line in self.process.stderr:
            if line.startswith("Serving"):
                break
        self.url = re.search(r"http://127.0.0.1:\d+", line)[0]
        self.curl = self.process.stderr.readline().strip()
        self.address = ("127.0.0.1", int(self.url.rpartition(":")[2]))

    def end(self, number):
        """What it wrote after the first lines, once it has ended as it should."""
        self.process.send_signal(number)
        out, errors = self.process.communicate(timeout=20)
        assert (self.process.returncode, out) == (0, "")
        assert "Traceback" not in errors
        return errors


@contextmanager
def served(*arguments):
    server = Served(*arguments)
    try:
        server.wait()
        yield server
    finally:
        server.process.kill()
        server.process.communicate()


@pytest.fixture(scope="module")
def server():
    with served(0) as server:
        yield server
        assert server.end(signal.SIGTERM) == ""  # whatever clients did, nothing was logged


@pytest.fixture(scope="module")
def fitted():
    demo = load_demo()
    return Reranker().fit(demo.text_bank, demo.video, names=demo.video_names)


@pytest.mark.slow
def test_sixty_four_at_once(server, fitted):
    queries = load_demo().text[:64].astype(np.float32)

    async def run():
        async with httpx.AsyncClient(base_url=server.url, timeout=30) as client:
            bodies = [{"vector": query.tolist(), "k": 7} for query in queries]
            return await asyncio.gather(*(client.post("/search", json=body) for body in bodies))

    for response, query in zip(asyncio.run(run()), queries, strict=True):
        assert response.status_code == 200
        check_answer(response.json(), fitted, query, 7)


def test_a_large_body_over_the_network(server):
    def parts():
        for _ in range(50):
            yield b" " * 50_000

    for content in (parts(), b" " * 2_500_000):
        check_error(httpx.post(f"{server.url}/search", content=content, headers=JSON), 413)


@pytest.mark.slow
def test_slow_clients_stop_nobody_and_are_cut_off(server):
    starts = (
        b"",
        b"POST /sea",
        HEAD,
        HEAD + b'content-length: 50\r\n\r\n{"vec',
        HEAD + b"transfer-encoding: chunked\r\n\r\n5\r\n[1, 2\r\n",
        b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\nGET /hea",
    )
    begin = time.monotonic()
    clients = [socket.create_connection(server.address, timeout=10) for _ in range(5 * len(starts))]
    for client, start in zip(clients, starts * 5, strict=True):
        client.sendall(start)
    assert httpx.get(f"{server.url}/healthz").status_code == 200
    body = {"vector": [1] * 128}
    assert httpx.post(f"{server.url}/search", json=body).status_code == 200
    assert time.monotonic() - begin < 2  # not after these were cut off
    for client, start in zip(clients, starts * 5, strict=True):
        received = b""
        while part := client.recv(1000):  # until the server closes
            received += part
        client.close()
        assert (b"408" in received) == (start.count(b"\r\n\r\n") == 1 and b"POST" in start)
    assert time.monotonic() - begin < 8


SEARCH = load.post(json.dumps({"vector": [1] * 128}).encode())


@pytest.mark.parametrize("name", load.attacks(SEARCH))
def test_what_is_no_request_is_refused_in_json_and_ended(server, name):
    assert asyncio.run(load.attack(server.address, *load.attacks(SEARCH)[name])) == ""


def test_a_refusal_reaches_those_who_have_not_sent_all_yet(server):
    body = b" " * 500_000
    head = load.post(body, b"content-type: text/plain", b"connection: close")[: -len(body)]
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(head)
        time.sleep(0.2)
        client.sendall(body)
        received = b"".join(iter(lambda: client.recv(1000), b""))
    assert b" 415 " in received
    assert received.endswith(b"}}")


@pytest.mark.slow
def test_who_reads_nothing_is_cut_off(server, fitted):
    row = load.Row("")
    asyncio.run(load.ask_only(server.address, load.searches(fitted, 1)[0], row))
    assert row.lost == []


def test_connections_beyond_the_limit_are_told_and_then_cut_off(server, fitted):
    row = load.Row("")
    asyncio.run(load.crowd(server.address, load.searches(fitted, 1)[0], row))
    assert row.lost == []
    assert row.counts["cut off"] > 40


@pytest.mark.slow
def test_without_files_for_connections_it_says_so_once_and_goes_on():
    with served(0, "few") as server:
        clients = [socket.create_connection(server.address) for _ in range(100)]
        time.sleep(1.5)  # asyncio tries again after a second
        for client in clients:
            client.close()
        assert httpx.get(f"{server.url}/healthz", timeout=10).status_code == 200
        errors = server.end(signal.SIGTERM)
    assert errors == "Note: connections had to wait: Too many open files\n"


@pytest.mark.slow
def test_connections_that_wait_for_files_when_it_ends_are_no_error():
    """asyncio tries again a second later, at a socket that has been closed meanwhile."""
    with served(3, "few") as server, socket.create_connection(server.address) as searcher:
        searcher.sendall(SEARCH)
        assert server.process.stderr.readline() == "searching\n"
        clients = [socket.create_connection(server.address) for _ in range(100)]
        assert server.process.stderr.readline().startswith("Note: connections had to wait")
        assert server.end(signal.SIGTERM) == ""
        assert searcher.recv(1 << 16).startswith(b"HTTP/1.1 200 OK")
        for client in clients:
            client.close()


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once():
    with served(30) as server, socket.create_connection(server.address) as client:
        client.sendall(SEARCH)
        while "searching" not in server.process.stderr.readline():
            pass
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(1) == -signal.SIGTERM


@pytest.mark.slow
def test_a_body_without_end_is_cut_off(server):
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(HEAD + b"transfer-encoding: chunked\r\n\r\n")
        begin = time.monotonic()
        with suppress(ConnectionError):
            while time.monotonic() < begin + 8:
                client.sendall(b"4000\r\n" + b" " * 0x4000 + b"\r\n")
                time.sleep(0.01)
        assert time.monotonic() - begin < 6


def test_its_own_example_works_as_printed(server):
    found = subprocess.run(server.curl, shell=True, capture_output=True, text=True, check=True)
    assert len(json.loads(found.stdout)["results"]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_once_requests_are_answered(number):
    with served(3, *(["log"] if number == signal.SIGTERM else [])) as server:
        answers = []

        def post():
            body = {"vector": [1] * 128}
            answers.append(httpx.post(f"{server.url}/search", json=body, timeout=20))

        idle, slow = (socket.create_connection(server.address) for _ in range(2))
        slow.sendall(HEAD + b'content-length: 50\r\n\r\n{"vec')
        thread = Thread(target=post)
        thread.start()
        while "searching" not in server.process.stderr.readline():
            pass
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert not answers  # the search goes on
        errors = server.end(number)
        thread.join()
        idle.close()
        assert b"408" in slow.recv(1000)
        slow.close()
        assert [answer.status_code for answer in answers] == [200]
        assert ("POST /search" in errors) == (number == signal.SIGTERM)
