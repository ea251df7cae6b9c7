"""Load campaign of the service: every answer is right or a documented refusal.

It starts `python -m emcl_plugin serve` on loopback and acts as all of its clients:

1. searches on kept, pipelined and new connections, mixed with bodies that must be refused; every
   answer is compared with `Reranker.search` of the same folder, bit for bit;
2. clients that reset the connection at every stage of a request;
3. memory, open files and threads, which must return to their values after a warm-up;
4. SIGTERM under load, five times, each with a new server.

Latencies are recorded, not judged. Linux only (/proc). About two minutes on two cores.

    python tests/repository/campaigns/load.py [--requests 20000] [--concurrency 64]
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import click
import numpy as np

from emcl_plugin import Reranker
from emcl_plugin.data.demo import load_demo
from emcl_plugin.service.app import GRACE, KEEP_ALIVE

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from reliability import write

GROWTH = 32 << 20
"""Bytes that the server may hold more after all of it than after a warm-up."""
PACKAGES = ("emcl-plugin", "torch", "numpy", "fastapi", "starlette", "pydantic", "uvicorn", "h11")
SECRET = "the-secret-of-the-environment"
HOSTILE = ("<script>alert(1)</script>", "\"'`${x}&amp;", "a\u202egpj.exe", "nul\0\n", "\udcff.mp4")

Address = tuple[str, int]


@dataclass
class Row:
    """One line of the results; the first losses are kept to be shown."""

    what: str
    tried: int = 0
    counts: Counter[str] = field(default_factory=Counter)
    lost: list[str] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def check(self, right: bool, *what: object) -> None:
        if not right:
            self.lost.append(" ".join(str(x)[:300] for x in what))

    def end(self) -> dict[str, Any]:
        seconds = round(time.monotonic() - self.started, 1)
        click.echo(f"{self.what}: {self.tried} tried, {len(self.lost)} lost, {seconds} s", err=True)
        for loss in self.lost[:5]:
            click.echo(f"  {loss}", err=True)
        counts = {name: self.counts[name] for name in sorted(self.counts)}
        return {
            "what": self.what,
            "tried": self.tried,
            "losses": len(self.lost),
            **counts,
            **self.figures,
            "seconds": seconds,
        }


@dataclass(frozen=True)
class Job:
    """A request, its status and, where that is 200, the answer."""

    request: bytes
    status: int
    answer: dict[str, Any] | None = None


# --- the server -----------------------------------------------------------------------------------


def save(folder: Path) -> Reranker:
    """A corrector of the demo's data, with hostile names among the gallery's."""
    demo = load_demo()
    names = [*HOSTILE, *demo.video_names[len(HOSTILE) :]]
    Reranker().fit(demo.text_bank, demo.video, names=names).save_pretrained(folder)
    return Reranker.from_pretrained(folder, device="cpu")


SERVE = ("-m", "emcl_plugin", "serve", "--port", "0", "--device", "cpu")


class Server:
    """A Python that serves, until the block ends; ``curl`` is the example that it shows."""

    def __init__(self, log: Path, *arguments: object) -> None:
        self.log = log
        with log.open("w") as stream:
            self.process = subprocess.Popen(
                [sys.executable, *map(str, arguments)], stdout=stream, stderr=stream,
                env={**os.environ, "EMCL_TEST_SECRET": SECRET},
            )  # fmt: skip
        end = time.monotonic() + 60
        shown = r"(http://127\.0\.0\.1:(\d+))/ .*\n(.*)\n"
        while (found := re.search(shown, log.read_text())) is None:
            if time.monotonic() > end or self.process.poll() is not None:
                raise RuntimeError(f"the server does not start: {log.read_text()}")
            time.sleep(0.05)
        self.url, self.curl = found[1], found[3]
        self.address: Address = ("127.0.0.1", int(found[2]))

    def __enter__(self) -> Server:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def end(self, number: int = signal.SIGTERM) -> tuple[int, float]:
        """The exit status after a signal, and the seconds that it took."""
        self.process.send_signal(number)
        began = time.monotonic()
        return self.process.wait(3 * GRACE), time.monotonic() - began

    def written(self) -> str:
        """What it wrote after its first two lines."""
        return "".join(self.log.read_text().splitlines(keepends=True)[2:])

    def memory(self, which: str = "VmRSS") -> int:
        """Bytes; VmHWM: the most that there were."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(re.search(rf"{which}:\s+(\d+) kB", status)[1]) << 10  # type: ignore[index]

    def holds(self) -> tuple[int, int]:
        """Open files, and threads."""
        files, threads = (os.listdir(f"/proc/{self.process.pid}/{x}") for x in ("fd", "task"))
        return len(files), len(threads)


# --- requests -------------------------------------------------------------------------------------


def post(body: bytes, *headers: bytes, path: bytes = b"/search") -> bytes:
    lines = (
        b"POST %s HTTP/1.1" % path,
        b"host: x",
        b"content-length: %d" % len(body),
        *(headers or (b"content-type: application/json",)),
    )
    return b"\r\n".join((*lines, b"", body))


def searches(reranker: Reranker, count: int) -> list[Job]:
    """Texts of the demo as queries, with what `Reranker.search` finds for them."""
    names = [name.encode(errors="replace").decode() for name in reranker.corrector_.names]
    queries = load_demo().text[:count].astype(np.float32)
    gates = reranker.query_vectors(queries)[:, -1]
    jobs = []
    for i, (query, k) in enumerate(zip(queries, itertools.cycle((1, 10, 10, 50)))):
        scores, indices = reranker.search(query[None], k)
        results = [
            {"rank": rank, "index": int(index), "name": names[index], "score": float(score)}
            for rank, (index, score) in enumerate(zip(indices[0], scores[0], strict=True), 1)
        ]
        answer = {"protocol": "bank", "results": results, "like_the_bank": float(gates[i])}
        jobs.append(Job(post(json.dumps({"vector": query.tolist(), "k": k}).encode()), 200, answer))
    return jobs


def refusals(dimension: int) -> list[Job]:
    """Bodies and requests that are HTTP, and wrong."""
    ones = [1.0] * dimension

    def body(vector: Any = ones, **more: Any) -> bytes:
        return json.dumps({"vector": vector, **more}).encode()

    json_type = b"content-type: application/json"
    wrong = [None, "1", {}, [], ones[1:], [*ones, 1], [*ones[1:], "1"], [*ones[1:], None],
             [*ones[1:], float("nan")], [*ones[1:], 1e300], [0] * dimension, [ones]]  # fmt: skip
    jobs = [Job(post(body(vector)), 422) for vector in wrong]
    jobs += [Job(post(body(k=k)), 422) for k in (0, -1, 1001, 1.5, "1", True, None, [], 2**64)]
    jobs += [Job(post(body(x=1)), 422), Job(post(b"null"), 422), Job(post(b"[]"), 422)]
    torn = (b"", b"{", b"\xff\xfe", b'{"vector": [1, ', b"[" * 100_000, body() + b"x", body()[:-1])
    jobs += [Job(post(x), 400) for x in (*torn, body().replace(b"1.0", b"9" * 5000, 1))]
    jobs += [Job(post(body() + b" " * (1 << 20)), 413), Job(post(b"[" * (1 << 21)), 413)]
    jobs += [Job(post(body(), b"content-type: text/plain"), 415), Job(post(body(), b"a: b"), 415)]
    jobs += [Job(post(body(), json_type, path=b"/"), 405), Job(post(b"", path=b"/a%00b"), 404)]
    jobs += [Job(b"DELETE /search HTTP/1.1\r\nhost: [\r\n\r\n", 405)]
    return jobs


# --- clients --------------------------------------------------------------------------------------


class Client:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader, self.writer = reader, writer

    @classmethod
    async def open(cls, address: Address) -> Client:
        return cls(*await asyncio.open_connection(*address))

    async def read(self) -> tuple[int, bytes, bytes]:
        """Status, head and body; an error where there is only a part of them."""
        head = await self.reader.readuntil(b"\r\n\r\n")
        found = re.search(rb"content-length: (\d+)", head.lower())
        read = self.reader.readexactly(int(found[1])) if found else self.reader.read()
        return int(head.split(b" ", 2)[1]), head, await read

    async def ask(self, request: bytes) -> tuple[int, bytes, bytes]:
        self.writer.write(request)
        return await asyncio.wait_for(self.read(), 60)

    def reset(self) -> None:
        """Gone without a word."""
        linger = struct.pack("ii", 1, 0)
        self.writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.writer.transport.abort()

    async def close(self) -> None:
        self.writer.close()
        with suppress(OSError):
            await self.writer.wait_closed()


def refused_well(body: bytes) -> bool:
    """Whether this is the documented body of a refusal, and tells nothing of the server."""
    try:
        error = json.loads(body)["error"]
    except (ValueError, KeyError, TypeError):
        return False
    words = ("Traceback", 'File "', SECRET, sys.prefix, str(Path.home()), tempfile.gettempdir())
    return (
        set(error) == {"problem", "received", "to_do"}
        and all(isinstance(text, str) and text for text in error.values())
        and len(body) < 1000
        and not any(word in body.decode() for word in words)
    )


def judge(row: Row, job: Job, status: int, body: bytes) -> None:
    right = status == job.status and (
        json.loads(body) == job.answer if job.answer else refused_well(body)
    )
    row.counts["answers compared" if job.answer else "refused"] += 1
    row.check(right, job.request[:200], "gave", status, body)


async def load(
    address: Address, jobs: Iterator[Job], row: Row, concurrency: int, seconds: list[float]
) -> None:
    """All jobs, each worker on a connection that it keeps for a while, up to 4 in one write."""
    chance = random.Random(0)

    async def work() -> None:
        client = None
        while batch := list(itertools.islice(jobs, chance.choice((1, 1, 1, 2, 4)))):
            client = client or await Client.open(address)
            began = time.perf_counter()
            client.writer.write(b"".join(job.request for job in batch))
            for job in batch:
                row.tried += 1
                if not row.tried % 5000:
                    click.echo(f"  {row.tried} requests", err=True)
                try:
                    status, _, body = await asyncio.wait_for(client.read(), 60)
                except (OSError, EOFError, asyncio.TimeoutError) as error:
                    row.check(False, job.request[:200], "was not answered:", repr(error))
                    await client.close()
                    client = None
                    break
                seconds.append(time.perf_counter() - began)
                judge(row, job, status, body)
            if client and chance.random() < 0.02:
                await client.close()
                client = None
        if client:
            await client.close()

    await asyncio.gather(*(work() for _ in range(concurrency)))


async def resets(address: Address, search: bytes, row: Row, count: int) -> None:
    """Clients that are gone at once, at every stage."""

    async def one(stage: int) -> None:
        row.tried += 1
        client = await Client.open(address)
        cut = (0, 20, search.index(b"\r\n\r\n") + 4, len(search) - 10, len(search), len(search))
        with suppress(OSError):
            client.writer.write(search[: cut[stage]])
            await client.writer.drain()
            if stage == 5:
                await client.reader.read(10)
            elif stage:
                await asyncio.sleep(0.002)
        client.reset()

    for start in range(0, count, 32):
        await asyncio.gather(*(one(i % 6) for i in range(start, min(start + 32, count))))


async def ended(server: Server, jobs: list[Job], row: Row) -> None:
    """SIGTERM in the middle of load: no answer is wrong or half, and the end is in time."""
    ending = asyncio.Event()

    async def work(mine: Iterable[Job]) -> None:
        client = await Client.open(server.address)
        for job in mine:
            row.tried += 1
            try:
                client.writer.write(job.request)
                status, _, body = await asyncio.wait_for(client.read(), 3 * GRACE)
            except asyncio.IncompleteReadError as error:
                row.counts["closed"] += 1
                row.check(not error.partial, "half of", error.partial)
            except OSError:
                row.counts["reset"] += 1
            else:
                if status == 503 and ending.is_set():
                    row.counts["refused"] += 1
                else:
                    row.counts["answered"] += 1
                    row.check(status == 200 and json.loads(body) == job.answer, status, body)
                    continue
            row.check(ending.is_set(), "a connection was lost before the end")
            await client.close()
            try:
                client = await Client.open(server.address)
            except OSError:
                break

    async def stop() -> None:
        await asyncio.sleep(1)
        ending.set()
        status, seconds = await asyncio.to_thread(server.end)
        row.check(status == 0, "exit status", status)
        row.check(seconds < GRACE + 1, "ended after", seconds, "s")
        slowest = row.figures.get("slowest end, s", 0)
        row.figures["slowest end, s"] = max(slowest, round(seconds, 2))

    await asyncio.gather(stop(), *(work(itertools.cycle(jobs[i:] + jobs[:i])) for i in range(64)))
    row.check(server.written() == "", "it wrote", server.written())


# --- all of it ------------------------------------------------------------------------------------


def mixed(right: list[Job], wrong: list[Job], count: int) -> Iterator[Job]:
    """Three searches to one that is refused."""
    kinds = (itertools.cycle(right), itertools.cycle(wrong))
    return (next(kinds[i % 4 == 3]) for i in range(count))


async def settled(server: Server, files: int) -> tuple[int, int]:
    """Open files and threads, once the last connections have ended."""
    end = time.monotonic() + 4 * KEEP_ALIVE
    while (held := server.holds())[0] > files and time.monotonic() < end:
        await asyncio.sleep(0.1)
    return held


async def run(
    folder: Path, reranker: Reranker, requests: int, concurrency: int
) -> list[dict[str, Any]]:
    right = searches(reranker, 400)
    wrong = refusals(reranker.corrector_.dimension)
    rows = []
    with Server(folder.parent / "log.txt", *SERVE, folder) as server:
        files, _ = server.holds()
        warm = Row("warm-up, of the same kind")
        await load(server.address, mixed(right, wrong, max(500, requests // 5)), warm, 64, [])
        rows.append(warm.end())
        held = Row("memory, open files and threads, back after everything", tried=3)
        before, (files, threads) = server.memory(), await settled(server, files)

        seconds: list[float] = []
        row = Row(f"searches and refused bodies, {concurrency} at a time")
        await load(server.address, mixed(right, wrong, requests), row, concurrency, seconds)
        for share in (50, 90, 99, 100):
            name = f"p{share}, ms" if share < 100 else "slowest, ms"
            row.figures[name] = round(1000 * float(np.percentile(seconds, share)), 1)
        row.figures["requests a second"] = round(row.tried / (time.monotonic() - row.started))
        rows.append(row.end())

        row = Row("clients that reset the connection, at every stage")
        await resets(server.address, right[0].request, row, 2000)
        rows.append(row.end())

        row = Row("searches after all of that")
        await load(server.address, iter(right), row, concurrency, [])
        rows.append(row.end())

        now, left = server.memory(), await settled(server, files)
        figures = {"before": before, "after": now, "most": server.memory("VmHWM")}
        held.figures = {f"{name}, MiB": round(x / 2**20, 1) for name, x in figures.items()}
        held.check(now - before < GROWTH, "memory grew by", now - before)
        held.check(left[0] <= files, "open files:", files, "then", left[0])
        held.check(left[1] <= threads, "threads:", threads, "then", left[1])
        rows.append(held.end())
        log = Row("exit status and log, which no client can fill", tried=2)
        status, _ = server.end()
        log.check(status == 0, "exit status", status)
        log.check(server.written() == "", "it wrote", server.written())
        rows.append(log.end())

    row = Row("SIGTERM amid load, 5 times")
    for _ in range(5):
        with Server(folder.parent / "log.txt", *SERVE, folder) as server:
            await ended(server, right, row)
    return [*rows, row.end()]


@click.command()
@click.option("--requests", default=20_000, show_default=True, help="Searches and refused bodies.")
@click.option("--concurrency", default=64, show_default=True, help="Of them at the same time.")
def main(requests: int, concurrency: int) -> None:
    """The service under load; exit status 1 on any loss."""
    with tempfile.TemporaryDirectory() as folder:
        state = Path(folder) / "state"
        rows = asyncio.run(run(state, save(state), requests, concurrency))
    command = f"campaigns/load.py --requests {requests} --concurrency {concurrency}"
    write("load", command, rows, PACKAGES)
    sys.exit(any(row["losses"] for row in rows))


if __name__ == "__main__":
    main()
