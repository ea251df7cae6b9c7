"""The service returns what `search` returns, refuses invalid requests, and describes its API."""

from __future__ import annotations

import asyncio
import html
import json
import math
import re
import socket
import time

import numpy as np
import pytest

pytest.importorskip("fastapi", reason='the service needs pip install ".[serve]"')
pytest.importorskip("uvicorn", reason='the service needs pip install ".[serve]"')
pytest.importorskip("httpx", reason='its tests need pip install ".[test-all]"')

from asked import GOOD, JSON, MAX_BODY, MAX_K, D, N, ask, check_answer, check_error, make, search
from campaigns import load
from fastapi.openapi.models import OpenAPI
from hypothesis import example, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from emcl_plugin import Reranker, __version__
from emcl_plugin.bank.corrector import Corrector
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import InputValueError, MemoryBudgetError, NotFittedError
from emcl_plugin.service import app as service


@pytest.fixture(scope="module")
def small():
    return make()


@pytest.fixture(scope="module")
def app(small):
    return service.create_app(small, max_k=MAX_K, max_body=MAX_BODY)


# --- what it answers ----------------------------------------------------------------------------


@pytest.mark.parametrize("metric", ["cosine", "dot"])
@pytest.mark.parametrize("names", [(), tuple(f"näme <{i}> \U0001f600" for i in range(N))])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_answer_is_what_search_returns(metric, names, dtype):
    """Ten results by default; more than all are all."""
    reranker = make(names, metric=metric)
    app = service.create_app(reranker, max_k=MAX_K)
    for seed, k in enumerate((None, 1, 3, 10, N, MAX_K)):
        vector = np.random.default_rng(seed).standard_normal(D).astype(dtype)
        body = {"vector": vector.tolist()} | ({} if k is None else {"k": k})
        response = search(
            app, json.dumps(body), {"content-type": "Application/JSON; charset=utf-8"}
        )
        assert response.status_code == 200
        check_answer(response.json(), reranker, vector, min(k or 10, N))
    few = service.create_app(reranker, max_k=3)
    answer = search(few, json.dumps({"vector": vector.tolist()})).json()
    check_answer(answer, reranker, vector, 3)


def test_the_gate_says_how_like_the_bank_a_query_is():
    demo = load_demo()
    app = service.create_app(Reranker().fit(demo.text_bank, demo.video))
    for vector, gate in ((demo.text_bank[0], 1), (-demo.text_bank.mean(0), 0)):
        answer = search(app, json.dumps({"vector": vector.tolist()})).json()
        assert answer["like_the_bank"] == gate


def test_it_follows_a_gallery_that_grows():
    reranker = make()
    app = service.create_app(reranker)
    vector = np.array([0.1, 0.2, 0.3, -0.9], np.float32)
    reranker.partial_fit(gallery=vector[None], refit_at=9.0)
    answer = search(app, json.dumps({"vector": vector.tolist(), "k": 5})).json()
    check_answer(answer, reranker, vector, 5)
    response = ask(app, "GET", "/healthz")
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok", "gallery": N + 1, "dimension": D, "protocol": "bank",
        "package_version": __version__,
    }  # fmt: skip


# --- what it refuses ----------------------------------------------------------------------------


def vector_with(number):
    return b'{"vector": [1, 2, %s, 4]}' % number


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"", 400, "EOF"),
        (b"{", 400, "EOF"),
        (b"not JSON", 400, "Invalid JSON"),
        (b'{"vector": [1, 2, 3, 4]} more', 400, "trailing"),
        (b"[" * 1900, 400, "recursion"),
        (b'{"vector": ' + b"[" * 300 + b"]" * 300 + b"}", 400, "recursion"),
        (vector_with(b"9" * 1900), 422, "be a finite"),
        (b'"vector"', 422, "object"),
        (b"{}", 422, "vector: Field required"),
        (b'{"vector": null}', 422, "array"),
        (b'{"vector": []}', 422, "4 items"),
        (b'{"vector": [1, 2, 3]}', 422, "3 entries"),
        (b'{"vector": [1, 2, 3, 4, 5]}', 422, "5 entries"),
        (b'{"vector": [1, 2, 3, [4]]}', 422, "vector[3]"),
        *((vector_with(x), 422, "be a finite") for x in (b"NaN", b"-Infinity", b"1e999")),
        *((vector_with(x), 422, "number") for x in (b"true", b"null", b'"3"', b"{}")),
        *((vector_with(x), 422, "equal to") for x in (b"1e300", b"-1e39")),
        (b'{"vector": [0, 0.0, -0.0, 0]}', 422, "all zeros"),
        (b'{"vector": [0, 0, 1e-60, 0]}', 422, "all zeros"),
        (GOOD.replace(b"3}", b"0}"), 422, "k: "),
        (GOOD.replace(b"3}", b"%d}" % (MAX_K + 1)), 422, f"or equal to {MAX_K}"),
        (GOOD.replace(b"3}", b"9" * 1900 + b"}"), 422, "k: "),
        *((GOOD.replace(b"3}", x + b"}"), 422, "k: ")
          for x in (b"3.0", b"true", b'"3"', b"null", b"NaN", b"1e999", b"[]")),
        (b'{"vectors": [[1, 2, 3, 4]]}', 422, "vector: Field required"),
        (GOOD.replace(b"}", b', "K": 1}'), 422, "K: Extra"),
        (GOOD.replace(b"}", b', "%s": 1}' % (b"x" * 900)), 422, "Extra"),
        (GOOD + b" " * MAX_BODY, 413, f"more than {MAX_BODY}"),
    ],
    ids=lambda value: str(value[:40]) if isinstance(value, bytes) else None,
)  # fmt: skip
def test_refused_bodies(app, body, status, words):
    check_error(search(app, body), status, words)


@pytest.mark.parametrize(
    ("method", "path", "headers", "status", "words"),
    [
        ("POST", "/search", {}, 415, "content-type: application/json"),
        ("POST", "/search", {"content-type": "text/plain"}, 415, "text/plain"),
        ("POST", "/search", {"content-type": "x" * 5000}, 415, "xxx"),
        ("GET", "/search", JSON, 405, "Not Allowed"),
        ("DELETE", "/healthz", JSON, 405, "Not Allowed"),
        ("POST", "/", JSON, 405, "Not Allowed"),
        ("POST", "/search/", JSON, 404, "/search/"),
        ("GET", "/docs", JSON, 404, "openapi.json"),
        ("GET", "/redoc", JSON, 404, "openapi.json"),
        ("GET", "/nothing", {"host": "["}, 404, "/nothing"),
        ("GET", "/%ff%0a" + "x" * 3000, JSON, 404, "xxx"),
    ],
    ids=lambda value: value[:30] if isinstance(value, str) else None,
)
def test_refused_requests(app, method, path, headers, status, words):
    response = ask(app, method, path, content=GOOD, headers=headers)
    check_error(response, status, words)
    assert ("allow" in response.headers) == (status == 405)


@pytest.mark.parametrize("length", [MAX_BODY, MAX_BODY + 1])
@pytest.mark.parametrize("chunked", [False, True])
def test_the_largest_body(app, length, chunked):
    async def parts():
        for start in range(0, length, 100):
            yield (GOOD + b" " * length)[start : min(start + 100, length)]

    response = search(app, parts() if chunked else (GOOD + b" " * length)[:length])
    assert response.status_code == (200 if length <= MAX_BODY else 413)
    assert ("content-length" in response.request.headers) != chunked


@pytest.mark.parametrize("declared", [b"2000000", b"9" * 5000, b"no number", b"-5", "²".encode()])
def test_what_the_length_header_says_is_not_trusted(app, declared):
    status = raw(app, [{"type": "http.request", "body": GOOD}], declared)[0]["status"]
    assert status == (413 if declared.startswith((b"2", b"9")) else 200)


def raw(app, messages, length=None, patience=60, **more):
    """What the application sends for these messages of a server, which then says no more."""
    sent = []
    headers = [(b"content-type", b"application/json")]
    headers += [] if length is None else [(b"content-length", length)]
    scope = {"type": "http", "method": "POST", "path": "/search", "query_string": b"", **more}

    async def receive():
        if not messages:
            await asyncio.sleep(60)
        return messages.pop(0)

    async def send(message):
        sent.append(message)

    async def run():
        task = asyncio.create_task(app({"headers": headers, **scope}, receive, send))
        await asyncio.wait([task], timeout=patience)
        task.cancel()  # as the server does when it ends
        await task

    asyncio.run(run())
    return sent


def test_a_client_that_goes_away(app):
    messages = [{"type": "http.request", "body": b"{", "more_body": True}]
    assert raw(app, [*messages, {"type": "http.disconnect"}])[0]["status"] == 400


def test_a_search_that_outlasts_the_service(app, monkeypatch):
    monkeypatch.setattr(Corrector, "search", lambda *_: time.sleep(0.3))
    sent = raw(app, [{"type": "http.request", "body": GOOD}], patience=0.1)
    assert sent[0]["status"] == 503
    assert json.loads(sent[1]["body"])["error"]["problem"] == "the service is stopping"


@pytest.mark.parametrize(
    "error", [RuntimeError("secret"), MemoryBudgetError("secret", "secret", "secret")]
)
def test_what_goes_wrong_inside_stays_inside(app, monkeypatch, error):
    def search_badly(*_):
        raise error

    monkeypatch.setattr(Corrector, "search", search_badly)
    response = search(app, GOOD)
    check_error(response, 500, "internal error of the service", type(error).__name__)
    assert "secret" not in response.text


def test_scores_that_overflow_are_not_sent():
    app = service.create_app(make(metric="dot"))
    check_error(search(app, b'{"vector": [3e38, 3e38, 3e38, 3e38]}'), 422, "overflow")


def test_limits_below_one_and_rerankers_that_are_not_fitted_are_refused(small):
    for limits in ({"max_k": 0}, {"max_body": 0}):
        with pytest.raises(InputValueError, match="at least 1"):
            service.create_app(small, **limits)
    with pytest.raises(NotFittedError):
        service.create_app(Reranker())


numbers = st.one_of(
    st.floats(), st.floats(-10, 10), st.integers(-3, 60), st.booleans(), st.integers(), st.none()
)
values = st.recursive(
    st.one_of(numbers, st.text(max_size=5)),
    lambda inner: st.lists(inner, max_size=5) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=8,
)
vectors = st.lists(st.floats(-10, 10) | st.integers(-5, 5), min_size=D, max_size=D)
bodies = st.one_of(
    values,
    st.fixed_dictionaries({"vector": vectors}, optional={"k": st.integers(-2, MAX_K + 5)}),
    st.fixed_dictionaries({"vector": st.lists(numbers, min_size=D, max_size=D)}),
    st.fixed_dictionaries({"vector": vectors | values}, optional={"k": values, "x": values}),
)


def is_number(x):
    return (
        type(x) in (int, float) and math.isfinite(x) and abs(x) <= float(np.finfo(np.float32).max)
    )


def is_good(body):
    """What a request may be, said in another way."""
    if not isinstance(body, dict) or "vector" not in body or not set(body) <= {"vector", "k"}:
        return False
    vector, k = body["vector"], body.get("k", 10)
    if type(k) is not int or not 1 <= k <= MAX_K:
        return False
    if not isinstance(vector, list) or len(vector) != D or not all(map(is_number, vector)):
        return False
    return bool(np.array(vector, np.float32).any())


@pytest.mark.slow
@settings(max_examples=150)
@given(bodies)
def test_any_json_is_answered_or_refused(app, small, body):
    response = search(app, json.dumps(body))
    if is_good(body):
        assert response.status_code == 200, response.text
        k = min(body.get("k", 10), N)
        check_answer(response.json(), small, np.array(body["vector"], np.float64), k)
    else:
        assert response.status_code in (400, 422)
        check_error(response, response.status_code)


@settings(max_examples=100)
@given(st.binary(max_size=60) | st.text(max_size=60).map(lambda text: text.encode()))
def test_any_bytes_are_refused(app, body):
    response = search(app, body)
    assert response.status_code in (400, 422)
    check_error(response, response.status_code)


NAMES = [b"content-type", b"content-length", b"host", b"origin", b"x-forwarded-for"]
VALUES = [b"application/json", b"Application/JSON; charset=utf-8", b"[", b"-1", b"99999", b"a:80"]


@settings(max_examples=300)
@example("9" * 2992 + "?", "/", b"", [])
@example("GET", "/", b"\xa9", [])
@given(
    st.sampled_from(["GET", "POST", "HEAD"]) | st.text(st.characters(max_codepoint=255)),
    st.sampled_from(["/", "/search", "/healthz", "/openapi.json"]) | st.text().map("/".__add__),
    st.binary(max_size=9),
    st.lists(st.tuples(st.sampled_from(NAMES), st.sampled_from(VALUES) | st.binary(max_size=9))),
)
def test_any_method_path_and_headers_are_answered_or_refused(app, method, path, query, headers):
    more = {"path": path, "query_string": query, "headers": headers, "server": ("test", 80)}
    sent = raw(app, [{"type": "http.request", "body": GOOD}], method=method, **more)
    content = b"".join(message.get("body", b"") for message in sent[1:])
    assert sent[0]["status"] in (200, 404, 405, 413, 415)
    if sent[0]["status"] != 200 and method != "HEAD":
        error = json.loads(content)["error"]
        assert all(isinstance(value, str) and value for value in error.values())
        assert len(content) < 2000


# --- what it says of itself ---------------------------------------------------------------------


def test_openapi_tells_what_is_there(app):
    schema = ask(app, "GET", "/openapi.json").json()
    OpenAPI.model_validate(schema)
    assert {(p, m) for p, methods in schema["paths"].items() for m in methods} == {
        ("/search", "post"),
        ("/healthz", "get"),
    }
    operation = schema["paths"]["/search"]["post"]
    assert set(operation["responses"]) == {"200", "400", "413", "415", "422", "500", "503"}
    for path, method, response in (
        ("/search", "post", search(app, GOOD)),
        ("/search", "post", search(app, b"{}")),
        ("/healthz", "get", ask(app, "GET", "/healthz")),
    ):
        told = schema["paths"][path][method]["responses"][str(response.status_code)]["content"]
        part = {**told["application/json"]["schema"], "components": schema["components"]}
        Draft202012Validator(part).validate(response.json())


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_body_is_answered_if_and_only_if_the_schema_allows_it(dtype):
    """Also at both ends of what the gallery's dtype can hold: 7e-46 is 0 in float32, 8e-46 not."""
    rng = np.random.default_rng(0)
    bank, gallery = (rng.standard_normal((n, D)).astype(dtype) for n in (80, N))
    app = service.create_app(Reranker().fit(bank, gallery), max_k=MAX_K)
    operation = ask(app, "GET", "/openapi.json").json()["paths"]["/search"]["post"]
    schema = operation["requestBody"]["content"]["application/json"]["schema"]
    Draft202012Validator.check_schema(schema)
    numbers = (0, 5e-324, 7e-46, 8e-46, 1.4e-45, 1e-30, float(np.finfo("f4").max), 3.5e38, 10**30)
    bodies = [{"vector": [0, 0, sign * x, 0]} for x in numbers for sign in (1, -1)]
    bodies += [{"vector": [1] * n} for n in range(6)] + [{}, {"vector": [1] * D, "z": 1}]
    bodies += [{"vector": [1] * D, "k": k} for k in (-1, 0, 1, MAX_K, MAX_K + 1, "3", None)]
    found = [search(app, json.dumps(body)).status_code == 200 for body in bodies]
    assert found == [Draft202012Validator(schema).is_valid(body) for body in bodies]
    assert sum(found[: 2 * len(numbers)]) == (10 if dtype is np.float32 else 16)


def test_the_page_loads_nothing_and_names_are_text():
    app = service.create_app(make(["<script>alert(1)</script>", *map(str, range(1, N))]))
    response = ask(app, "GET", "/", headers={"host": 'x"><script>'})
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    page = response.text
    assert page.count("<script") == page.count("</script") == 1
    assert "&lt;script&gt;alert(1)" in page
    page = ask(app, "GET", "/").text
    assert re.findall(r"https?:[^\s'\"]*", page) == ["http://test/search"]
    assert not re.search(r"\b(src|@import|url\()", page)
    assert f"{N} items, {D} dimensions" in page
    vector = json.loads(re.search(r"JSON.stringify\((.*?)\)", page)[1])
    assert search(app, json.dumps({"vector": vector})).json()["results"]


@pytest.mark.parametrize("name", load.HOSTILE)
def test_hostile_names_on_the_page(name):
    page = ask(service.create_app(make([name] * N)), "GET", "/").text
    shown = html.unescape(re.search("<bdi>(.*)</bdi>", page)[1])
    assert shown == {"a\u202egpj.exe": "a gpj.exe", "nul\0\n": "nul", "\udcff.mp4": "?.mp4"}.get(
        name, name
    )
    assert page.count("<script") == 1
    assert all(c.isprintable() or c == "\n" for c in page)


def test_a_host_is_no_command():
    page = ask(service.create_app(make()), "GET", "/", headers={"host": "$(id)"}).text
    assert "curl -s 'http://$(id)/search' -H" in html.unescape(page)


@pytest.mark.parametrize("place", ["taken", "elsewhere", "no port"])
def test_where_it_cannot_listen_it_says_so(small, place):
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = other.getsockname()[1]
        host = "203.0.113.9" if place == "elsewhere" else "127.0.0.1"
        with pytest.raises(InputValueError, match="take another port") as caught:
            service.serve(small, host, 70_000 if place == "no port" else taken)
    assert host in caught.value.received


def test_others_are_let_in_with_a_word_of_warning(small, monkeypatch, capsys):
    monkeypatch.setattr(service._Server, "run", lambda self, _: print(self.notice))
    for host, warned in (("127.0.0.1", False), ("localhost", False), ("0.0.0.0", True)):
        service.serve(small, host, 0)
        notice = capsys.readouterr().out
        assert ("there is no authentication" in notice) == warned
        address = "127.0.0.1" if host == "localhost" else host
        assert re.search(rf"at http://{address}:[1-9]\d*/ ", notice)
