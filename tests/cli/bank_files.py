"""The data of the tests of bank mode, how the commands are given them, and what they print."""

from __future__ import annotations

import functools
import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner
from jsonschema import Draft202012Validator

from emcl_plugin import Reranker
from emcl_plugin._internal.directions import DIRECTIONS
from emcl_plugin.cli.main import command
from emcl_plugin.data.demo import load_demo

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "schema.json").read_text())
FORWARD, BACKWARD = DIRECTIONS
N = 200
SIDES = ("text", "video", "text_bank", "video_bank")
NAMES = tuple(load_demo().video_names[:N])
BOTH = ("--text", "t.npy", "--video", "v.npy")
TEXT_BANK, VIDEO_BANK = ("--text-bank", "tb.npy"), ("--video-bank", "vb.npy")
FIT = ("fit", *TEXT_BANK, "--video", "v.npy", "--save", "new")
TUNE = ("tune", *TEXT_BANK, *VIDEO_BANK)


@functools.lru_cache
def data(dtype="f2"):
    """The demo's first rows."""
    demo = load_demo()
    return SimpleNamespace(**{name: getattr(demo, name)[:N].astype(dtype) for name in SIDES})


@functools.lru_cache
def reranker(*, dual=False, names=NAMES, settings=()):
    x = data()
    extra = {"gallery_bank": x.video_bank} if dual else {}
    return Reranker(**dict(settings)).fit(x.text_bank, x.video, names=names, **extra)


def everything(folder):
    """Every file, hidden ones too, and what is in it."""
    return {str(p): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def invoke(*arguments, status=0):
    """Run a command without what the program does around it."""
    found = CliRunner().invoke(command, list(map(str, arguments)))
    assert found.exit_code == status, found.output
    assert "Traceback" not in found.output
    return SimpleNamespace(out=found.stdout, words=found.stderr, error=found.exception)


def facts_of(result, kind=None):
    """The JSON that is all of standard output, as the schema says of this command, or of any."""
    facts = json.loads(result.out, parse_constant=pytest.fail)
    wanted = {} if kind is None else {"anyOf": [{"$ref": f"#/$defs/{kind}"}]}
    Draft202012Validator({**SCHEMA, **wanted}).validate(facts)
    return facts
