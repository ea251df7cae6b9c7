"""The service under load: right answers, stable memory, and a clean stop after a signal."""

from __future__ import annotations

import asyncio

import pytest

pytest.importorskip("fastapi", reason='the service needs pip install ".[serve]"')
pytest.importorskip("uvicorn", reason='the service needs pip install ".[serve]"')

from campaigns import load


def test_sixty_four_at_a_time_and_an_end_in_the_middle(tmp_path):
    reranker = load.save(tmp_path / "state")
    right, wrong = load.searches(reranker, 100), load.refusals(128)
    with load.Server(tmp_path / "log.txt", *load.SERVE, tmp_path / "state") as server:

        def ask(requests):
            row = load.Row("")
            jobs = load.mixed(right, wrong, requests)
            asyncio.run(load.load(server.address, jobs, row, 64, []))
            assert row.lost == []
            assert row.tried == requests
            return server.memory()

        files, _ = server.holds()
        before = ask(300)
        assert ask(700) < before + load.GROWTH
        assert asyncio.run(load.settled(server, files))[0] == files
        row = load.Row("")
        asyncio.run(load.ended(server, right, row))
        assert row.lost == []
        assert row.counts["answered"] > 64
