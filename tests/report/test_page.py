import dataclasses
import os
import re
import shutil
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest
import torch

from emcl_plugin.demo import load_demo
from emcl_plugin.errors import EmclError, InputFileError, InputValueError
from emcl_plugin.job import Job
from emcl_plugin.report.page import clean, link_of, render, write_report
from emcl_plugin.report.plots import FORMATS, NAMES, _probability, build, write_plots
from emcl_plugin.similarity import Dense, Similarity
from emcl_plugin.study import Names, study
from emcl_plugin.truth import GroundTruth

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

SECTIONS = ["results", "hubness", "recall", "ranks", "gap", "hubs", "queries", "settings"]
FIGURES = [
    "occurrence-videos", "occurrence-texts", "probability-videos", "probability-texts",
    "recall-text-to-video", "recall-video-to-text", "rank-change",
]  # fmt: skip
VOID = {"meta", "img", "br", "link", "input", "hr"}
SETTINGS = {"text": "T.npy", "emcl": "auto"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "' onmouseover='alert(1)",
    "</title></style></svg><script>alert(2)</script>",
    "{{ 7 * 7 }}{% raw %}",
    "a very long caption " * 400,
    "unbroken" * 200,
    "",
    "\u202eright to left override \u05e9\u05dc\u05d5\u05dd",
    "\u0645\u0631\u062d\u0628\u0627 \U0001f469\u200d\U0001f680 \U0001f3f4",
    "null\x00 bell\x07 new\nline",
    "lone surrogate \ud83d",
    "$x_1$ & \\frac &amp;",
    "{% for x in ().__class__.__mro__ %}{{ x }}{% endfor %}{# a comment #}",
    "<!-- a comment <script>alert(1)</script> --><!--><![CDATA[",
    "<svg onload=alert(1)><use href='http://elsewhere.invalid/a.svg#x'/></svg>",
    "&lt;script&gt;alert(1)&lt;/script&gt; &#60;img src=x onerror=alert(1)&#62;",
    "<iframe srcdoc='<script>parent.alert(1)</script>'></iframe><base href=//elsewhere.invalid>",
    "<style>@import 'http://elsewhere.invalid/a.css'; * { display: none }</style>",
    "javascript:alert(1)",
    "a caption of 100 kB <b>" + "x" * 100_000,
]
HOSTILE_LINKS = [
    "javascript:alert(1)",
    "JaVaScRiPt:alert(1)//a.jpg",
    "java\tscript:alert(1)",
    " javascript:alert(1)",
    "data:image/svg+xml,<svg onload=alert(1)>.jpg",
    "data:text/html,<script>alert(1)</script>",
    "vbscript:x",
    "//evil.example/a.jpg",
    "\\\\evil.example\\a.jpg",
    "/\\evil.example/a.jpg",
    "file:///etc/passwd.png",
    "http:",
    "https:///a.jpg",
    "http://[::1",
    "blob:https://x/a.png",
    "",
]


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


def make(text, video, truth=None, names=None, **settings):
    job = Job(None, (text, video), **settings)
    truth = GroundTruth.diagonal(job.shape) if truth is None else truth
    return study(job, job.correct(), truth, names=names), job.features


def noisy(n=60, dimension=16, seed=0):
    """Pairs with a few hubs among the videos."""
    rng = np.random.default_rng(seed)
    video = rng.standard_normal((n, dimension)).astype(np.float32) + 0.9
    text = video + 1.2 * rng.standard_normal((n, dimension)).astype(np.float32)
    video[:5] = video.mean(0) + 0.2 * video[:5]
    return text, video


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


def hostile(links=HOSTILE_LINKS):
    n = 60
    text, video = noisy(n)
    names = Names(
        [HOSTILE[i % len(HOSTILE)] for i in range(n)],
        [HOSTILE[(i + 5) % len(HOSTILE)] for i in range(n)],
        [links[i % len(links)] for i in range(n)] if links else (),
    )
    return make(text, video, names=names)


def test_the_demo_page_says_what_was_found(demo, demo_page):
    page = Page(demo_page.read_text(encoding="utf-8")).check()
    found, _ = demo
    before, after = (found.rows[i].evaluation.text_to_video.metric("R@1") for i in (0, -1))
    assert f"R@1 text to video rose from {before:.1f} to {after:.1f}" in page.text
    assert "transductive: the biases were computed from all the texts at once" in page.text
    assert "95 % interval" in page.text
    assert len(page.all("svg")) == len(FIGURES) + 1
    assert len(page.all("article")) == 20
    for words in ("arXiv 2211.11427", "arXiv 2212.11790", torch.__version__, "T.npy"):
        assert words in page.text
    assert page.all("img") == []
    assert "http" not in page.text


def test_the_same_study_gives_the_same_page(demo, demo_page):
    again = render(demo[0], settings=SETTINGS, features=demo[1])
    assert again == demo_page.read_text(encoding="utf-8")


def test_the_largest_hub_and_the_right_results_are_shown(demo, demo_page):
    text = demo_page.read_text(encoding="utf-8")
    before, after = demo[0].hubness["text -> video"]
    (item, count), *_ = before.largest(1)
    name = demo[0].names.of_video(item)
    row = text[text.index('id="hubs"') :]
    row = Page(row[row.index("<tbody>") : row.index("</tbody>") + 8]).text
    assert row.startswith(f"{name} {count} {int(after.occurrence[item])}")
    placement = [demo[0].rows[i].evaluation.text_to_video.ranks() for i in (0, -1)]
    best = int((placement[0] / placement[1]).argmax())
    queries = text[text.index('id="queries"') :]
    first = Page(queries[queries.index("<article>") : queries.index("</article>") + 10])
    assert first.text.startswith(demo[0].names.of_text(best))
    assert f"Before: rank {placement[0][best]:g} " in first.text
    assert f"After: rank {placement[1][best]:g} " in first.text
    if placement[1][best] <= 5:
        assert "✓ right" in first.text


def test_hostile_names_stay_text(tmp_path):
    path = tmp_path / "report.html"
    found, features = hostile()
    evil = "</td><script>alert(3)</script>"
    write_report(path, found, settings={evil: evil}, force=False, features=features)
    page = Page(path.read_bytes().decode("utf-8")).check()
    assert "<script>alert(3)</script>" in page.text
    assert "link not shown" in page.text
    assert "\x00" not in page.text


@pytest.mark.parametrize("given", HOSTILE_LINKS)
def test_a_dangerous_link_is_refused(given):
    assert link_of(given) == ""


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("https://example.org/v?id=1#t=2", "https://example.org/v?id=1#t=2"),
        ("HTTP://example.org/a.JPG", "HTTP://example.org/a.JPG"),
        ('https://example.org/"><script>', "https://example.org/%22%3E%3Cscript%3E"),
        ("thumbs/video 1.jpg", "thumbs/video%201.jpg"),
        ("what? #1.jpg", "what%3F%20%231.jpg"),
        ("é/1.png", "%C3%A9/1.png"),
    ],
)
def test_a_plain_link_is_kept(given, expected):
    assert link_of(given) == expected


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


def test_an_origin_cannot_write_into_the_policy():
    found, _ = hostile(["https://a;script-src/x.jpg", "https://a b,c/x.jpg"])
    page = Page(render(found, settings={}))
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert policy.count("script-src") == 1
    assert "img-src https:;" in policy


def test_many_origins_are_summed_up():
    found, _ = hostile([f"https://v{i}.example/a.jpg" for i in range(60)])
    page = Page(render(found, settings={}))
    policy = next(a["content"] for a in page.all("meta") if "http-equiv" in a)
    assert "img-src http: https:;" in policy


def test_without_features_and_names(small):
    text = render(small[0], settings={})
    page = Page(text).check()
    assert len(page.all("svg")) == len(FIGURES)
    assert "No features were given to the report" in page.text
    assert re.search(r"text \d+", page.text)


def test_a_similarity_alone():
    rng = np.random.default_rng(1)
    sim = rng.standard_normal((30, 30)) + np.eye(30) + rng.standard_normal(30)
    job = Job(sim, None)
    found = study(job, job.correct(), GroundTruth.diagonal((30, 30)))
    page = Page(render(found, settings={})).check()
    assert "+ EMCL" not in page.text
    assert "In the full feature space" not in page.text


def test_where_the_guard_holds_back():
    eye = np.eye(12, dtype=np.float32)
    found, features = make(eye, eye)
    assert not found.report.guard.applied
    page = Page(render(found, settings={}, features=features)).check()
    assert "The input was left as it was" in page.text
    assert "R@1 is 100.0 text to video and 100.0 video to text" in page.text
    assert "No text moved up." in page.text
    assert "No text moved down." in page.text
    assert "left as it was by the guard" in page.text


def test_what_was_assumed_of_the_queries_is_said(demo, demo_page):
    """How even, why, and where the biases were added in part, how large a part."""
    prior = demo[0].report.prior
    page = Page(demo_page.read_text(encoding="utf-8"))
    assert f"taken as {100 * prior.even:.0f} % even (prior: auto)" in page.text
    assert f"the queries cover the videos {100 * prior.evenness:.0f} % evenly" in page.text
    assert "The biases were applied" not in page.text
    report = demo[0].report
    partly = dataclasses.replace(report.guard, strength=0.3, reason="at 30 %: a few texts")
    found = dataclasses.replace(demo[0], report=dataclasses.replace(report, guard=partly))
    page = Page(render(found, settings={})).check()
    assert "The biases were applied at 30 %: a few texts." in page.text
    eye = np.eye(12, dtype=np.float32)
    assert "How often each video" not in Page(render(make(eye, eye)[0], settings={})).text


def test_a_small_set_is_called_small():
    found, _ = make(*noisy(12, seed=1), guard=False)
    gains = found.gains().values()
    page = Page(render(found, settings={})).check()
    assert any(gain.too_small for gain in gains)
    assert page.text.count("Too small to tell") == sum(gain.too_small for gain in gains)


def test_many_captions_to_one_video_and_texts_without_one():
    rng = np.random.default_rng(0)
    text, video = noisy(40)
    index = rng.integers(0, 25, 40)
    truth = GroundTruth.from_index(index, 25)
    mask = np.ones(40, dtype=bool)
    mask[[3, 17]] = False
    found, features = make(text + video[index] * 0, video[:25], truth.keep_queries(mask))
    page = Page(render(found, settings={}, features=features)).check()
    assert "Text to video: 38 queries, 25 items; 2 without a right item left out" in page.text


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


def test_probabilities_are_those_of_the_softmax(small):
    scores = small[0].before.dense().double()
    temperature = 0.15 * float(scores.std(correction=0))
    for axis, found in zip((1, 0), _probability(small[0].before), strict=True):
        mass = torch.softmax(scores / temperature, dim=axis).sum(1 - axis)
        expected = np.sort((mass / mass.mean()).numpy())[::-1]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-7)
    error = small[0].hubness["text -> video"][0].normalization_error
    np.testing.assert_allclose(
        np.abs(_probability(small[0].before)[0] - 1).mean(), error, rtol=1e-4
    )


def test_tables_of_the_figures_add_up(demo):
    plots = {plot.name: plot for plot in build(*demo)}
    n = demo[0].report.shape[0]
    for side in ("videos", "texts"):
        rows = plots[f"occurrence-{side}"].rows
        for column in (1, 2):
            assert sum(int(row[column]) for row in rows) == n
    ranks = np.array([row[1:] for row in plots["rank-change"].rows], dtype=int)
    first, last = (demo[0].rows[i].evaluation.text_to_video for i in (0, -1))
    assert ranks.sum() == n
    for axis, placement in ((1, first), (0, last)):
        share = 100 * ranks.sum(axis) / n
        np.testing.assert_allclose(share[0], placement.metric("R@1"))
        np.testing.assert_allclose(share[:2].sum(), placement.metric("R@5"))
        np.testing.assert_allclose(share[:3].sum(), placement.metric("R@10"))
    recall = {row[0]: row[1:] for row in plots["recall-text-to-video"].rows}
    for k in (1, 5, 10):
        assert recall[str(k)] == [f"{p.metric(f'R@{k}'):.1f}" for p in (first, last)]


def test_every_figure_is_written_in_every_format(small, tmp_path):
    folder = tmp_path / "plots"
    paths = write_plots(folder, small[0], features=small[1])
    names = [*FIGURES, "modality-gap"]
    assert set(names) == set(NAMES)  # which are looked for before the work
    assert paths == [folder / f"{name}.{form}" for name in names for form in FORMATS]
    starts = {".png": b"\x89PNG", ".svg": b"<?xml", ".pdf": b"%PDF"}
    for path in paths:
        assert path.read_bytes().startswith(starts[path.suffix])
    with pytest.raises(InputFileError, match="there already"):
        write_plots(folder, small[0])
    again = write_plots(folder, small[0], ["svg"], force=True)
    assert again == [folder / f"{name}.svg" for name in FIGURES]


def test_a_format_that_is_not_known(small, tmp_path):
    with pytest.raises(InputValueError, match="jpeg"):
        write_plots(tmp_path, small[0], ["jpeg"])


def test_drawing_leaves_the_users_settings_alone(small):
    import matplotlib

    before = dict(matplotlib.rcParams)
    render(small[0], settings={})
    assert dict(matplotlib.rcParams) == before


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
    assert clean("a\n\tb\x00c\u202ed") == "a b c d"
    assert len(clean("word " * 1000)) <= 240
    assert len(clean("word " * 1000, None)) == 4999
    assert clean("\U0001f469\u200d\U0001f680") == "\U0001f469\u200d\U0001f680"


def chromium(path, profile, *flags):
    found = shutil.which("chromium") or shutil.which("chromium-browser")
    if found is None:
        pytest.skip("chromium is not installed")
    command = [
        found, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync",
        "--enable-logging=stderr", "--host-resolver-rules=MAP * ~NOTFOUND",
        f"--user-data-dir={profile}", *flags, path.as_uri(),
    ]  # fmt: skip
    return subprocess.run(command, capture_output=True, timeout=120, check=True, env=os.environ)


def requested(log):
    """Addresses in a net log, without the browser's own."""
    found = set(re.findall(r'"url":"(http[^"]+)"', log.read_text(errors="replace")))
    own = re.compile(r"https?://([a-z0-9-]+\.)*(google|googleapis|gstatic)\.com/")
    return {url for url in found if not own.match(url)}


def test_the_net_log_would_show_a_request(tmp_path):
    path, log = tmp_path / "page.html", tmp_path / "net.json"
    path.write_text('<img src="http://elsewhere.invalid/a.png">')
    chromium(path, tmp_path / "profile", f"--screenshot={tmp_path / 'p.png'}",
             f"--log-net-log={log}")  # fmt: skip
    assert requested(log) == {"http://elsewhere.invalid/a.png"}


@pytest.mark.parametrize("width", [1280, 400])
@pytest.mark.parametrize("scheme", ["dark", "light"])
def test_a_browser_has_nothing_to_say(demo_page, tmp_path, width, scheme):
    image = tmp_path / "page.png"
    log = tmp_path / "net.json"
    done = chromium(
        demo_page,
        tmp_path / "profile",
        f"--window-size={width},2000",
        f"--blink-settings=preferredColorScheme={'01'[scheme == 'light']}",
        f"--screenshot={image}",
        f"--log-net-log={log}",
    )
    assert b"CONSOLE" not in done.stderr
    assert requested(log) == set()
    from matplotlib.image import imread

    corner = imread(image)[2, 2, :3].mean()
    assert corner < 0.2 if scheme == "dark" else corner > 0.8


TAKEN = (
    "<script>document.title = 'ran'; fetch('http://elsewhere.invalid/')</script>",
    "<img src='http://elsewhere.invalid/a.png' onerror=\"document.title = 'ran'\">",
    "<svg onload=\"document.title = 'ran'\"><image href='http://elsewhere.invalid/b.png'/></svg>",
    "</bdi></title></style><meta http-equiv=refresh content='0; url=http://elsewhere.invalid/'>",
    "<details open ontoggle=\"document.title = 'ran'\"><iframe src='http://elsewhere.invalid/c'>",
    "<style>@import 'http://elsewhere.invalid/d.css';</style><link rel=prefetch href=//e.invalid>",
)


@pytest.mark.parametrize("guarded", [True, False], ids=["as it is", "without its policy"])
def test_no_caption_is_run_or_sends_a_request(tmp_path, guarded):
    """In a browser, and even where the policy did not stand in the way."""
    text, video = noisy()
    every = [TAKEN[i % len(TAKEN)] for i in range(len(text))]
    found, features = make(text, video, names=Names(every, every[::-1], HOSTILE_LINKS * 4))
    page = render(found, settings={name: name for name in TAKEN}, features=features)
    if not guarded:
        page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    path, log = tmp_path / "page.html", tmp_path / "net.json"
    path.write_text(page, encoding="utf-8")
    done = chromium(path, tmp_path / "profile", "--virtual-time-budget=3000", "--dump-dom",
                    f"--log-net-log={log}")  # fmt: skip
    assert b"CONSOLE" not in done.stderr
    assert b"<title>emcl_plugin: 60 texts, 60 videos</title>" in done.stdout
    assert requested(log) == set()
    assert all(word.encode() in done.stdout for word in ("ontoggle", "prefetch", "refresh"))


def test_the_page_does_not_scroll_sideways(tmp_path):
    """In a frame, for a window is no narrower than 500 px; the copy may run a script to measure."""
    found, features = hostile()
    page = render(found, settings={"x" * 300: "y" * 300}, features=features)
    page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", page)
    measure = (
        "<script>const e = document.documentElement;"
        "parent.postMessage([e.scrollWidth, e.clientWidth], '*');</script></body>"
    )
    inner, outer = tmp_path / "inner.html", tmp_path / "outer.html"
    inner.write_text(page.replace("</body>", measure), encoding="utf-8")
    outer.write_text(
        "<!DOCTYPE html><title>none</title><script>"
        "onmessage = (e) => { document.title = 'wide ' + e.data.join(' of '); };"
        "</script><iframe src='inner.html' width='400' height='900' style='border: 0'></iframe>"
    )
    done = chromium(outer, tmp_path / "profile", "--virtual-time-budget=5000", "--dump-dom")
    wide = re.search(rb"<title>wide (\d+) of (\d+)</title>", done.stdout)
    assert int(wide[1]) <= int(wide[2]) <= 400


def test_the_policy_stops_a_script(demo_page, tmp_path):
    altered = tmp_path / "altered.html"
    script = "<script>document.title = 'ran'</script></body>"
    text = demo_page.read_text(encoding="utf-8").replace("</body>", script)
    altered.write_text(text, encoding="utf-8")
    done = chromium(altered, tmp_path / "profile", "--dump-dom")
    assert b"<title>ran</title>" not in done.stdout
    assert b"violates" in done.stderr


def test_a_thumbnail_beside_the_page_is_loaded(tmp_path):
    from matplotlib.image import imsave

    imsave(tmp_path / "a 1.png", np.zeros((8, 8, 3)))
    found, _ = hostile(["a 1.png"])
    path = tmp_path / "report.html"
    write_report(path, found, settings={}, force=False)
    done = chromium(path, tmp_path / "profile", "--window-size=1280,9000",
                    f"--screenshot={tmp_path / 'page.png'}")  # fmt: skip
    assert b"CONSOLE" not in done.stderr
