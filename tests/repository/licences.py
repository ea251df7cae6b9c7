"""The licences of all that an installation brings, as the installed packages tell them.

python tests/repository/licences.py    writes docs/licences.md anew; needs all extras installed
"""

from __future__ import annotations

import configparser
import re
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "licences.md"
COPYLEFT = re.compile(r"GPL|MPL|EPL|CDDL|EUPL|Mozilla|General Public|Eclipse", re.IGNORECASE)
NOTES = {
    "certifi": "a list of certificates, used as it is: the MPL asks for nothing then",
    "docutils": "for the site: no part of it is handed on; the GPL is that of an editor's mode",
    "hypothesis": "for the tests: no part of it is handed on",
    "pathspec": "for the type check: no part of it is handed on",
    "tqdm": "used as it is: the MPL asks for nothing then",
}
ABOUT = """# Licences

This package is MIT ([LICENSE](../LICENSE)). None of the packages below is part of it: pip installs them from where their authors publish them. What they say of their licence was read from their metadata by `python tests/repository/licences.py`, with the versions of `constraints.txt` on Linux; a test sees to it that every direct dependency is listed, that no licence is unknown, and that a copyleft one has a note.

- On Linux, PyPI's own builds of torch also bring CUDA libraries: `nvidia-*`, which name their licence "NVIDIA Proprietary Software". A CPU build of torch, as here, brings none of them, and nothing here needs them but a GPU.
- `faiss-gpu` (extra `gpu`) was not installed where this was made. FAISS is MIT; its GPU builds bring CUDA libraries too.
- The demo data are from the PyPI package `emoji` (New BSD), its names from Unicode CLDR (Unicode licence).
"""  # noqa: E501
SAID = {"atheris": "Apache-2.0"}
"""By its licence file, where the metadata name none."""
GROUPS = {
    "Every installation": ["core"],
    "Extras for use: `cpu`, `report`, `formats`, `serve`": ["cpu", "report", "formats", "serve"],
    "Tests, docs and fuzzing": ["test", "test-all", "docs", "dev", "fuzz"],
}


def wanted() -> dict[str, list[Requirement]]:
    """setup.cfg's requirements by extra; those of every installation are `core`."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: [Requirement(line) for line in lines.split("\n") if line.strip()]
        for extra, lines in lists.items()
    }


def licence(name: str) -> str:
    """The SPDX expression, or what stands in its place in older metadata."""
    about = metadata.metadata(name)
    kinds = [
        line.split(" :: ")[-1]
        for line in about.get_all("Classifier") or []
        if line.startswith("License ::") and line != "License :: OSI Approved"
    ]
    written = (about.get("License") or "").strip()
    short = written if "\n" not in written else ""
    said = about.get("License-Expression") or ", ".join(kinds) or short
    return said or SAID.get(name, "unknown")


def brought(requirements: list[Requirement]) -> set[str]:
    """Names of these packages and of all that they need in turn, here."""
    found: set[str] = set()
    seen: set[tuple[str, frozenset[str]]] = set()
    left = list(requirements)
    while left:
        one = left.pop()
        name, extras = canonicalize_name(one.name), frozenset(one.extras)
        if (name, extras) in seen:
            continue
        seen.add((name, extras))
        found.add(name)
        for line in metadata.requires(name) or []:
            needed = Requirement(line)
            marker = needed.marker
            if marker is None or any(marker.evaluate({"extra": e}) for e in ("", *extras)):
                left.append(needed)
    return found


def page() -> str:
    """docs/licences.md as of today."""
    by_extra = wanted()
    direct = {canonicalize_name(one.name) for lines in by_extra.values() for one in lines}
    text, told = ABOUT, {"emcl-plugin"}
    for title, extras in GROUPS.items():
        names = brought([one for extra in extras for one in by_extra[extra]]) - told
        told |= names
        text += f"\n## {title}\n\n| package | directly | licence | note |\n|---|---|---|---|\n"
        for name in sorted(names):
            own = "yes" if name in direct else ""
            text += f"| {name} | {own} | {licence(name)} | {NOTES.get(name, '')} |\n"
    return text


if __name__ == "__main__":
    PAGE.write_text(page(), "utf-8")
