"""The service over real connections: many clients, invalid HTTP, and how it stops."""

from __future__ import annotations

import asyncio
import json
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='the service needs pip install ".[serve]"')
pytest.importorskip("uvicorn", reason='the service needs pip install ".[serve]"')
pytest.importorskip("httpx", reason='its tests need pip install ".[test-all]"')

import httpx
from asked import JSON, check_answer, check_error
from campaigns.load import Server, post

from emcl_plugin import Reranker
from emcl_plugin.data.demo import load_demo
from emcl_plugin.service.app import CONNECTIONS, HEAD_BYTES

SERVER = """
import sys, time
from emcl_plugin import Reranker
from emcl_plugin.service import app as service
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.data.demo import load_demo

service.GRACE, service.KEEP_ALIVE, seconds = 4, 1, float(sys.argv[1])
search = Corrector.search

def slow(*arguments):
    print("searching", file=sys.stderr, flush=True)
    time.sleep(seconds)
    return search(*arguments)

if seconds:
    Corrector.search = slow
demo = load_demo()
fitted = Reranker().fit(demo.text_bank, demo.video, names=demo.video_names)
service.serve(fitted, port=0, max_body=100_000, access_log="log" in sys.argv)
"""


HEAD = b"POST /search HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"


@contextmanager
def served(*arguments):
    with (
        tempfile.TemporaryDirectory() as folder,
        Server(Path(folder, "log"), "-c", SERVER, *arguments) as server,
    ):
        yield server


def ends(server, number=signal.SIGTERM):
    """What it wrote after the first lines, once it has ended as it should."""
    assert server.end(number)[0] == 0
    assert "Traceback" not in server.written()
    return server.written()


def searches(server):
    """Wait until it does."""
    while "searching" not in server.written():
        assert server.process.poll() is None
        time.sleep(0.02)


@pytest.fixture(scope="module")
def server():
    with served(0) as server:
        yield server
        assert ends(server) == ""  # whatever clients did, nothing was logged


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


SEARCH = post(json.dumps({"vector": [1] * 128}).encode())


@pytest.mark.parametrize(
    "request_",
    [
        b"GET /\r\n\r\n",
        b"GET / HTTP/1.1\r\nhost: x\r\na: " + b"b" * 2 * HEAD_BYTES,
        HEAD + b"content-length: 3\r\ncontent-length: 4\r\n\r\nabcd",
        HEAD + b"transfer-encoding: gzip, chunked\r\n\r\n",
        bytes.fromhex("1603010200010001fc0303") + bytes(500),  # TLS
    ],
    ids=["no version", "giant header", "two lengths", "unknown encoding", "TLS"],
)
def test_what_is_not_http_gets_status_400_and_is_closed(server, request_):
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(request_)
        received = b"".join(iter(lambda: client.recv(1000), b""))
    assert received.startswith(b"HTTP/1.1 400 ")


def test_idle_connections_are_closed(server):
    with socket.create_connection(server.address, timeout=10) as client:
        client.sendall(b"GET /healthz HTTP/1.1\r\nhost: x\r\n\r\n")
        begin = time.monotonic()
        assert b"".join(iter(lambda: client.recv(1000), b"")).startswith(b"HTTP/1.1 200 ")
    assert 0.5 < time.monotonic() - begin < 5


def test_connections_beyond_the_limit_get_status_503(server):
    with ExitStack() as stack:
        for _ in range(CONNECTIONS):
            stack.enter_context(socket.create_connection(server.address))
        assert httpx.get(f"{server.url}/healthz").status_code == 503
    time.sleep(0.5)
    assert httpx.get(f"{server.url}/healthz").status_code == 200


@pytest.mark.slow
def test_a_second_signal_ends_it_at_once():
    with served(30) as server, socket.create_connection(server.address) as client:
        client.sendall(SEARCH)
        searches(server)
        server.process.send_signal(signal.SIGTERM)
        with pytest.raises(subprocess.TimeoutExpired):
            server.process.wait(0.5)
        server.process.send_signal(signal.SIGTERM)
        assert server.process.wait(1) == -signal.SIGTERM


@pytest.mark.slow
def test_its_own_example_works_as_printed(server):
    found = subprocess.run(server.curl, shell=True, capture_output=True, text=True, check=True)
    assert len(json.loads(found.stdout)["results"]) == 10


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_once_requests_are_answered(number):
    with served(1, *(["log"] if number == signal.SIGTERM else [])) as server:
        answers = []

        def post():
            body = {"vector": [1] * 128}
            answers.append(httpx.post(f"{server.url}/search", json=body, timeout=20))

        idle, slow = (socket.create_connection(server.address) for _ in range(2))
        slow.sendall(HEAD + b'content-length: 50\r\n\r\n{"vec')
        thread = Thread(target=post)
        thread.start()
        searches(server)
        assert httpx.get(f"{server.url}/healthz").status_code == 200
        assert not answers  # the search goes on
        errors = ends(server, number)
        thread.join()
        idle.close()
        assert b" 503 " in slow.recv(1000)
        slow.close()
        assert [answer.status_code for answer in answers] == [200]
        assert ("POST /search" in errors) == (number == signal.SIGTERM)
