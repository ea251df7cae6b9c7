"""Studies that several files of tests look at."""

from __future__ import annotations

import pytest
from studies import SETTINGS, make, noisy

from emcl_plugin.data.demo import load_demo
from emcl_plugin.evaluation.ablation import Names
from emcl_plugin.report.page import write_report


@pytest.fixture(scope="module")
def demo():
    data = load_demo()
    names = Names(data.text_names, data.video_names)
    return make(data.text, data.video, names=names)


@pytest.fixture(scope="module")
def demo_page(demo, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "report.html"
    write_report(path, demo[0], settings=SETTINGS, force=False, features=demo[1])
    return path


@pytest.fixture(scope="module")
def small():
    return make(*noisy())
