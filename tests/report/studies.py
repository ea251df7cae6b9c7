"""Studies to be shown: made of noise, and with names that nobody should trust."""

from __future__ import annotations

import numpy as np

from emcl_plugin.evaluation.ablation import Names, ablation
from emcl_plugin.ground_truth import GroundTruth
from emcl_plugin.pipeline.job import Job
from emcl_plugin.pipeline.settings import Settings

FIGURES = [
    "occurrence-videos", "occurrence-texts", "probability-videos", "probability-texts",
    "recall-text-to-video", "recall-video-to-text", "rank-change",
]  # fmt: skip
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


def make(text, video, truth=None, names=None, **settings):
    job = Job(None, (text, video), Settings.of(**settings))
    truth = GroundTruth.diagonal(job.shape) if truth is None else truth
    return ablation(job, job.correct(), truth, names=names), job.features


def noisy(n=60, dimension=16, seed=0):
    """Pairs with a few hubs among the videos."""
    rng = np.random.default_rng(seed)
    video = rng.standard_normal((n, dimension)).astype(np.float32) + 0.9
    text = video + 1.2 * rng.standard_normal((n, dimension)).astype(np.float32)
    video[:5] = video.mean(0) + 0.2 * video[:5]
    return text, video


def hostile(links=HOSTILE_LINKS):
    n = 60
    text, video = noisy(n)
    names = Names(
        [HOSTILE[i % len(HOSTILE)] for i in range(n)],
        [HOSTILE[(i + 5) % len(HOSTILE)] for i in range(n)],
        [links[i % len(links)] for i in range(n)] if links else (),
    )
    return make(text, video, names=names)
