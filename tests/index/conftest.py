"""Fixtures of the tests of the exported vectors."""

from __future__ import annotations

import pytest
from served import fitted

from emcl_plugin.data.demo import load_demo


@pytest.fixture(scope="module", params=["text -> video", "video -> text"])
def side(request):
    """(corrector, queries) of a direction of the demo."""
    demo = load_demo()
    if request.param == "text -> video":
        return fitted(demo.text_bank, demo.video, names=demo.video_names), demo.text
    return fitted(demo.video_bank, demo.text), demo.video


@pytest.fixture(scope="module")
def forward():
    demo = load_demo()
    return fitted(demo.text_bank, demo.video, names=demo.video_names), demo.text
