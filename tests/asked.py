"""A small service that is asked, and what its answers must be."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='the service needs pip install ".[serve]"')
pytest.importorskip("uvicorn", reason='the service needs pip install ".[serve]"')
pytest.importorskip("httpx", reason='its tests need pip install ".[test-all]"')

import httpx

from emcl_plugin import Reranker

D, N, MAX_K, MAX_BODY = 4, 30, 50, 2000
JSON = {"content-type": "application/json"}
GOOD = b'{"vector": [1, 2, 3.5, -4], "k": 3}'


def make(names=(), **settings):
    rng = np.random.default_rng(0)
    bank, gallery = (rng.standard_normal((n, D), np.float32) for n in (80, N))
    return Reranker(**settings).fit(bank, gallery, names=names)


def ask(app, method, path, **request):
    """A request without a network."""

    async def run():
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            return await client.request(method, path, **request)

    return asyncio.run(run())


def search(app, body, headers=JSON):
    return ask(app, "POST", "/search", content=body, headers=headers)


def check_error(response, status, *words):
    assert response.status_code == status, response.text
    assert response.headers["content-type"] == "application/json"
    assert set(response.json()) == {"error"}
    error = response.json()["error"]
    assert set(error) == {"problem", "received", "to_do"}
    assert all(isinstance(value, str) and value for value in error.values())
    assert len(response.text) < 1000
    assert "Traceback" not in response.text
    assert "File" not in response.text
    for word in words:
        assert word in response.text
    return error


def check_answer(answer, reranker, vector, k):
    scores, indices = reranker.search(vector[None], k)
    results = answer["results"]
    assert [r["rank"] for r in results] == list(range(1, k + 1))
    assert [r["index"] for r in results] == indices[0].tolist()
    assert np.array_equal(np.array([r["score"] for r in results], scores.dtype), scores[0])
    assert answer["like_the_bank"] == float(reranker.query_vectors(vector[None])[0, -1])
    assert answer["protocol"] == "bank"
    assert set(answer) == {"protocol", "results", "like_the_bank"}
    names = reranker.corrector_.names
    assert [r.get("name") for r in results] == [names[i] if names else None for i in indices[0]]
    assert all(("name" in r) == bool(names) for r in results)
