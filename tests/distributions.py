"""What is in the wheel and in the sdist; they are built by `python -m build`.

python tests/distributions.py FOLDER    the folder that holds the two and nothing else
"""

from __future__ import annotations

import sys
import tarfile
import zipfile
from pathlib import Path

from packaging.metadata import Metadata, parse_email

DATA = {"py.typed", "data/demo.npz", "service/service.html", "report/page.html.j2"}
SOURCES = {
    ".github/workflows/ci.yml",
    ".pre-commit-config.yaml",
    "ARCHITECTURE.md",
    "CHANGELOG.md",
    "LICENSE",
    "Makefile",
    "README.md",
    "constraints-min.txt",
    "constraints.txt",
    "docs/formats.md",
    "examples/serve_faiss.py",
    "benchmarks/scale.py",
    "pyproject.toml",
    "setup.cfg",
    "tests/cli/test_rerank.py",
    "tests/conftest.py",
    "tests/data/state_v1/corrector.safetensors",
    *(f"emcl_plugin/{name}" for name in DATA),
}


def check_metadata(text: bytes) -> Metadata:
    """Every field by its specification, none unknown; the licence by its SPDX name."""
    raw, unknown = parse_email(text)
    assert not unknown, unknown
    metadata = Metadata.from_raw(raw)
    assert (metadata.name, metadata.license_expression) == ("emcl-plugin", "MIT")
    assert metadata.license_files == ["LICENSE"]
    assert metadata.description_content_type == "text/markdown"
    assert metadata.description
    return metadata


def check_wheel(path: Path) -> None:
    """The package and its data, the licence, and no tests or benchmarks."""
    with zipfile.ZipFile(path) as wheel:
        names = set(wheel.namelist())
        (info,) = {name.split("/")[0] for name in names if ".dist-info/" in name}
        version = check_metadata(wheel.read(f"{info}/METADATA")).version
    assert path.name == f"emcl_plugin-{version}-py3-none-any.whl"
    assert {name.split("/")[0] for name in names} == {"emcl_plugin", info}
    assert not {f"emcl_plugin/{name}" for name in DATA} - names
    assert f"{info}/licenses/LICENSE" in names
    assert not [name for name in names if "test" in name or name.endswith(".pyc")]


def check_sdist(path: Path) -> None:
    """Everything that is needed to build, to read and to test."""
    with tarfile.open(path) as sdist:
        names = set(sdist.getnames())
        root = path.name.removesuffix(".tar.gz")
        metadata = sdist.extractfile(f"{root}/PKG-INFO")
        assert metadata is not None
        assert root == f"emcl_plugin-{check_metadata(metadata.read()).version}"
    assert not {f"{root}/{name}" for name in SOURCES} - names
    assert not [name for name in names if name.endswith(".pyc")]


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    wheel, sdist = sorted(Path(sys.argv[1]).iterdir(), key=lambda path: path.suffix, reverse=True)
    check_wheel(wheel)
    check_sdist(sdist)
    print(f"{wheel.name} and {sdist.name} hold what they should")
