"""Licences of all packages that an installation brings, from their metadata.

python tests/repository/licences.py    rewrites docs/licences.md; needs all extras installed
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
    "certifi": "a list of certificates, used unmodified: the MPL imposes nothing",
    "docutils": "builds the site, not redistributed; the GPL covers an editor mode",
    "hypothesis": "tests only, not redistributed",
    "pathspec": "type check only, not redistributed",
    "tqdm": "used unmodified: the MPL imposes nothing",
}
ABOUT = """# Licences

This package is MIT ([LICENSE](../LICENSE)). It includes none of the packages below: pip installs them from where their authors publish them. `python tests/repository/licences.py` read their licences from their metadata, with the versions of `constraints.txt` on Linux. A test checks that every direct dependency is listed, that no licence is unknown and that every copyleft licence has a note.

- On Linux, PyPI's builds of torch require CUDA libraries (`nvidia-*`), whose licence is "NVIDIA Proprietary Software". A CPU build of torch, as used here, does not. Only GPU use needs them.
- `faiss-gpu` (extra `gpu`) was not installed for this list. FAISS is MIT; its GPU builds require CUDA libraries too.
- The demo data come from the PyPI package `emoji` (New BSD), its names from Unicode CLDR (Unicode licence).
"""  # noqa: E501
SAID = {"atheris": "Apache-2.0"}
"""Licences from the licence file, for metadata that name none."""
GROUPS = {
    "Every installation": ["core"],
    "Extras for use: `cpu`, `report`, `formats`, `serve`": ["cpu", "report", "formats", "serve"],
    "Tests, docs and fuzzing": ["test", "test-all", "docs", "dev", "fuzz"],
}


def wanted() -> dict[str, list[Requirement]]:
    """Return the requirements in setup.cfg by extra; ``core`` for those of every installation."""
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg")
    lists = {"core": config["options"]["install_requires"], **config["options.extras_require"]}
    return {
        extra: [Requirement(line) for line in lines.split("\n") if line.strip()]
        for extra, lines in lists.items()
    }


def licence(name: str) -> str:
    """Return the SPDX expression, or its equivalent in older metadata."""
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
    """Return the names of these packages and all their dependencies on this platform."""
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
    """Return docs/licences.md for the installed packages."""
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
