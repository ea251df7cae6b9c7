"""`serve`: a saved corrector answers over HTTP until it is told to stop."""

from __future__ import annotations

import json
import socket
import sys
import urllib.request

import numpy as np
import pytest
from click.testing import CliRunner

pytest.importorskip("fastapi", reason='the service needs pip install ".[serve]"')
pytest.importorskip("uvicorn", reason='the service needs pip install ".[serve]"')

from campaigns.load import SERVE, Server

from emcl_plugin import Reranker
from emcl_plugin.cli.main import command
from emcl_plugin.data.demo import load_demo
from emcl_plugin.errors import InputValueError, StateError
from emcl_plugin.service import app as service


def run(*arguments):
    return CliRunner().invoke(command, ["serve", *map(str, arguments)])


def test_from_a_folder_to_an_answer_and_an_end(kept, tmp_path):
    demo = load_demo()
    with Server(tmp_path / "log", *SERVE, kept) as server:
        assert f"{server.url}/" in server.curl
        body = json.dumps({"vector": demo.text[0].tolist(), "k": 4}).encode()
        kind = {"content-type": "application/json"}
        request = urllib.request.Request(f"{server.url}/search", body, kind)
        with urllib.request.urlopen(request, timeout=20) as response:
            results = json.load(response)["results"]
        assert (server.end()[0], server.written()) == (0, "")
    expected = Reranker.from_pretrained(kept).search(demo.text[:1].astype(np.float32), 4)
    assert [r["score"] for r in results] == expected[0][0].tolist()
    assert [r["name"] for r in results] == [demo.video_names[i] for i in expected[1][0]]


def test_options_reach_the_service(kept, monkeypatch):
    calls = []
    monkeypatch.setattr(service, "serve", lambda *args, **kwargs: calls.append((args, kwargs)))
    assert run(kept).exit_code == 0
    assert run(kept, "--host", "::1", "--port", 9, "--max-k", 5).exit_code == 0
    assert [args[1:] for args, _ in calls] == [("127.0.0.1", 8000), ("::1", 9)]
    assert [kwargs for _, kwargs in calls] == [{"max_k": 1000}, {"max_k": 5}]
    assert calls[0][0][0].corrector_.dimension == 128


def test_what_cannot_be_served_is_told(kept, tmp_path):
    assert isinstance(run(tmp_path / "nothing").exception, StateError)
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = run(kept, "--port", other.getsockname()[1]).exception
    assert isinstance(taken, InputValueError)
    assert "take another port" in taken.remedy
    assert isinstance(run(kept, "--port", 0, "--device", "none").exception, InputValueError)


@pytest.mark.parametrize("missing", ["fastapi", "uvicorn"])
def test_without_the_packages_it_says_what_to_install(kept, monkeypatch, missing):
    monkeypatch.delitem(sys.modules, "emcl_plugin.service.app")
    monkeypatch.setitem(sys.modules, missing, None)
    error = run(kept).exception
    assert isinstance(error, InputValueError)
    assert error.remedy == 'pip install "emcl-plugin[serve]"'
    assert missing in error.received
