"""The page in a browser: it loads and runs nothing, and fits the window."""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import numpy as np
import pytest
from studies import HOSTILE_LINKS, hostile, make, noisy

from emcl_plugin.evaluation.ablation import Names
from emcl_plugin.report.page import render, write_report

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")


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
