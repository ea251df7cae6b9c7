"""The report page says what the ablation found, and lets no name be more than text."""

from __future__ import annotations

import dataclasses
import re
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch
from studies import FIGURES, HOSTILE_LINKS, SETTINGS, hostile, make, noisy

from emcl_plugin.errors import EmclError, InputFileError, one_line
from emcl_plugin.evaluation.ablation import ablation
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.job import Job
from emcl_plugin.report.items import link_of
from emcl_plugin.report.page import render, write_report
from emcl_plugin.report.plots import write_plots
from emcl_plugin.scores import Dense, Similarity

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

SECTIONS = ["results", "hubness", "recall", "ranks", "gap", "hubs", "queries", "settings"]
VOID = {"meta", "img", "br", "link", "input", "hr"}


class Page(HTMLParser):
    """What the browser would see."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.stack, self.headings, self.words = [], [], [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.stack.append(tag)
        if re.fullmatch("h[1-6]", tag):
            self.headings.append(int(tag[1]))

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.stack.pop() == tag

    def handle_data(self, data):
        self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())

    def all(self, tag):
        return [attrs for name, attrs in self.tags if name == tag]

    def check(self, images=(), links=()):
        """Well formed, nothing that runs, nothing that is loaded but ``images``."""
        assert self.stack == []
        names = {name for name, _ in self.tags}
        assert not names & {"script", "iframe", "object", "embed", "base", "form", "link", "input"}
        for _, attrs in self.tags:
            assert not [name for name in attrs if name.startswith("on") or name == "srcdoc"]
            assert "url(http" not in (attrs.get("style") or "")
        assert {a["src"] for a in self.all("img")} <= set(images)
        inner = [a["href"] for n, a in self.tags if "href" in a and a["href"].startswith("#")]
        ids = [a["id"] for _, a in self.tags if "id" in a]
        assert len(ids) == len(set(ids))
        assert {href[1:] for href in inner} <= set(ids)
        outer = {a["href"] for n, a in self.tags if "href" in a} - set(inner)
        assert outer <= set(links) | set(images)
        assert [a["id"] for n, a in self.tags if n == "section"] == SECTIONS
        steps = np.diff(self.headings)
        assert self.headings[0] == 1
        assert steps.max() <= 1
        for svg in self.all("svg"):
            assert svg["role"] == "img"
            assert svg["aria-label"]
        assert all("scope" in attrs for attrs in self.all("th"))
        assert self.all("html")[0]["lang"] == "en"
        policy = next(a["content"] for a in self.all("meta") if "http-equiv" in a)
        assert policy.startswith("default-src 'none'; script-src 'none'; ")
        return self


def test_the_demo_page_says_what_was_found(demo, demo_page):
    page = Page(demo_page.read_text(encoding="utf-8")).check()
    found, _ = demo
    before, after = (found.rows[i].evaluation.text_to_video.metric("R@1") for i in (0, -1))
    assert f"R@1 text to video rose from {before:.1f} % to {after:.1f} %" in page.text
    assert "transductive (the biases were computed from all texts of this run)" in page.text
    assert "95 % interval" in page.text
    assert len(page.all("svg")) == len(FIGURES) + 1
    assert len(page.all("article")) == 20
    for words in ("arXiv 2211.11427", "arXiv 2212.11790", torch.__version__, "T.npy"):
        assert words in page.text
    assert page.all("img") == []
    assert "http" not in page.text


@pytest.mark.slow
def test_the_same_study_gives_the_same_page(demo, demo_page):
    again = render(demo[0], settings=SETTINGS, features=demo[1])
    assert again == demo_page.read_text(encoding="utf-8")


def test_the_largest_hub_and_the_right_results_are_shown(demo, demo_page):
    text = demo_page.read_text(encoding="utf-8")
    before, after = demo[0].hubness["text -> video"]
    (item, count), *_ = before.largest(1)
    name = demo[0].names.video[item]
    row = text[text.index('id="hubs"') :]
    row = Page(row[row.index("<tbody>") : row.index("</tbody>") + 8]).text
    assert row.startswith(f"{name} {count} {int(after.occurrence[item])}")
    placement = [demo[0].rows[i].evaluation.text_to_video.ranks() for i in (0, -1)]
    best = int((placement[0] / placement[1]).argmax())
    queries = text[text.index('id="queries"') :]
    first = Page(queries[queries.index("<article>") : queries.index("</article>") + 10])
    assert first.text.startswith(demo[0].names.text[best])
    assert f"Before: rank {placement[0][best]:g} " in first.text
    assert f"After: rank {placement[1][best]:g} " in first.text
    if placement[1][best] <= 5:
        assert "✓ right" in first.text


@pytest.mark.slow
def test_hostile_names_stay_text(tmp_path):
    path = tmp_path / "report.html"
    found, features = hostile()
    evil = "</td><script>alert(3)</script>"
    write_report(path, found, settings={evil: evil}, force=False, features=features)
    page = Page(path.read_bytes().decode("utf-8")).check()
    assert "<script>alert(3)</script>" in page.text
    assert "link not shown" in page.text
    assert "\x00" not in page.text


LINKS = dict.fromkeys(HOSTILE_LINKS, "") | {
    "https://example.org/v?id=1#t=2": "https://example.org/v?id=1#t=2",
    "HTTP://example.org/a.JPG": "HTTP://example.org/a.JPG",
    'https://example.org/"><script>': "https://example.org/%22%3E%3Cscript%3E",
    "thumbs/video 1.jpg": "thumbs/video%201.jpg",
    "what? #1.jpg": "what%3F%20%231.jpg",
    "é/1.png": "%C3%A9/1.png",
}


@pytest.mark.parametrize("given", LINKS)
def test_dangerous_links_are_refused_and_plain_ones_kept(given):
    assert link_of(given) == LINKS[given]


@pytest.mark.slow
def test_thumbnails_come_only_from_where_the_links_say():
    links = ["https://a.example:8000/1.jpg", "thumbs/2.png", "https://b.example/watch?v=3"]
    found, _ = hostile(links)
    text = render(found, settings={})
    page = Page(text).check(images=links[:2], links=links[2:])
    images = page.all("img")
    assert {a["src"] for a in images} == set(links[:2])
    assert all(a["loading"] == "lazy" for a in images)
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert "img-src 'self' file: https://a.example:8000;" in policy


@pytest.mark.slow
@pytest.mark.parametrize(
    ("links", "allowed"),
    [
        (["https://a;script-src/x.jpg", "https://a b,c/x.jpg"], "https:"),
        ([f"https://v{i}.example/a.jpg" for i in range(60)], "http: https:"),
    ],
)
def test_strange_and_many_origins_are_summed_up(links, allowed):
    page = Page(render(hostile(links)[0], settings={}))
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.count("script-src") == 1
    assert f"img-src {allowed};" in policy


@pytest.mark.slow
def test_without_features_and_names(small):
    text = render(small[0], settings={})
    page = Page(text).check()
    assert len(page.all("svg")) == len(FIGURES)
    assert "The report was made without features" in page.text
    assert re.search(r"text \d+", page.text)


@pytest.mark.slow
def test_a_similarity_alone():
    rng = np.random.default_rng(1)
    sim = rng.standard_normal((30, 30)) + np.eye(30) + rng.standard_normal(30)
    job = Job(sim, None)
    found = ablation(job, job.correct(), GroundTruth.diagonal((30, 30)))
    page = Page(render(found, settings={})).check()
    assert "+ EMCL" not in page.text
    assert "in the feature space" not in page.text


@pytest.mark.slow
def test_where_the_guard_holds_back():
    eye = np.eye(12, dtype=np.float32)
    found, features = make(eye, eye)
    assert not found.report.guard.applied
    page = Page(render(found, settings={}, features=features)).check()
    assert "Nothing was changed" in page.text
    assert "R@1 is 100.0 % text to video and 100.0 % video to text" in page.text
    assert "No text improved." in page.text
    assert "No text worsened." in page.text
    assert "returned unchanged by the guard" in page.text


@pytest.mark.slow
def test_what_was_assumed_of_the_queries_is_said(demo, demo_page):
    """How even, why, and where the biases were added in part, how large a part."""
    prior = demo[0].report.prior
    page = Page(demo_page.read_text(encoding="utf-8"))
    assert f"applied at {100 * prior.even:.0f} % (prior: auto)" in page.text
    assert f"Reason: {prior.reason}." in page.text
    assert "Guard: " not in page.text
    report = demo[0].report
    partly = dataclasses.replace(report.guard, strength=0.3, reason="at 30 %: a few texts")
    found = dataclasses.replace(demo[0], report=dataclasses.replace(report, guard=partly))
    page = Page(render(found, settings={})).check()
    assert "Guard: at 30 %: a few texts." in page.text
    eye = np.eye(12, dtype=np.float32)
    assert "requested equally often" not in Page(render(make(eye, eye)[0], settings={})).text


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::emcl_plugin.EmclWarning")
def test_exact_copies_are_counted():
    text, video = noisy(12)
    text[3:5], video[7:10] = text[2], video[6]
    page = Page(render(make(text, video)[0], settings={})).check()
    assert "exact duplicates 2 texts, 3 videos" in page.text


@pytest.mark.slow
def test_a_small_set_is_called_small():
    found, _ = make(*noisy(12, seed=1), guard=False)
    gains = found.gains().values()
    page = Page(render(found, settings={})).check()
    assert any(gain.too_small for gain in gains)
    assert page.text.count("Too few queries") == sum(gain.too_small for gain in gains)


@pytest.mark.slow
def test_many_captions_to_one_video_and_texts_without_one():
    rng = np.random.default_rng(0)
    text, video = noisy(40)
    index = rng.integers(0, 25, 40)
    truth = GroundTruth.from_index(index, 25)
    mask = np.ones(40, dtype=bool)
    mask[[3, 17]] = False
    found, features = make(text + video[index] * 0, video[:25], truth.keep_queries(mask))
    page = Page(render(found, settings={}, features=features)).check()
    assert "Text to video: 38 queries, 25 items; 2 without a right item excluded" in page.text


@pytest.mark.slow
@pytest.mark.parametrize("n", [1, 2, 3])
def test_the_smallest_inputs(n):
    found, features = make(*(x[:n] for x in noisy(8)))
    Page(render(found, settings={}, features=features)).check()


class Watched(Similarity):
    """Refuses to be read as a whole, and counts the single rows that are read."""

    def __init__(self, base, log):
        self.base, self.log = base, log
        self.shape, self.dtype, self.device = base.shape, base.dtype, base.device
        self.block_rows = 16

    def rows(self, start, stop):
        assert stop - start <= 16
        self.log.append((start, stop))
        return self.base.rows(start, stop)

    def dense(self):
        raise AssertionError("the scores were read as a whole")

    @property
    def T(self):
        return Watched(self.base.T, self.log)


@pytest.mark.slow
def test_scores_are_read_in_blocks_only(small):
    found, _ = small
    logs = [], []
    before, after = (
        Watched(Dense(x.dense()), log)
        for x, log in zip((found.before, found.after), logs, strict=True)
    )
    watched = dataclasses.replace(found, before=before, after=after)
    assert Page(render(watched, settings={})).text == Page(render(found, settings={})).text
    for log in logs:
        assert 0 < sum(stop - start == 1 for start, stop in log) <= 20
        assert sum(stop - start for start, stop in log) <= 3 * 60 + 20


def test_an_output_that_is_there_is_kept(small, tmp_path):
    path = tmp_path / "report.html"
    path.write_text("mine")
    with pytest.raises(InputFileError):
        write_report(path, small[0], settings={}, force=False)
    assert path.read_text() == "mine"


def test_a_missing_package_is_named(small, tmp_path, monkeypatch):
    for package in ("jinja2", "matplotlib"):
        with monkeypatch.context() as patch:
            patch.setitem(sys.modules, package, None)
            with pytest.raises(EmclError, match=package) as caught:
                write_report(tmp_path / "r.html", small[0], settings={}, force=False)
            assert caught.value.remedy == 'pip install "emcl-plugin[report]"'
            if package == "matplotlib":
                with pytest.raises(EmclError, match="not installed"):
                    write_plots(tmp_path / "plots", small[0])
    assert list(tmp_path.iterdir()) == []


def test_names_are_one_short_line():
    assert one_line("a\n\tb\x00c\u202ed") == "a b c d"
    assert len(one_line("word " * 1000)) <= 240
    assert len(one_line("word " * 1000, None)) == 4999
    assert one_line("\U0001f469\u200d\U0001f680") == "\U0001f469\u200d\U0001f680"
