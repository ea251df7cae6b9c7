"""The commands and outputs that the README shows: find them, run them, renew them.

python tests/readme.py update          write today's outputs into the README
python tests/readme.py test-command    print the command that installs and tests
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

README = Path(__file__).resolve().parents[1] / "README.md"
CONSOLE = re.compile(r"```console\n(.*?)```", re.DOTALL)


def commands(block: str) -> list[tuple[str, str]]:
    """(command, shown output) of a console block."""
    parts = re.split(r"^\$ (.*)\n", block, flags=re.MULTILINE)[1:]
    return list(zip(parts[::2], parts[1::2], strict=True))


def shown() -> list[tuple[str, str]]:
    """Every command of the README with the output it shows."""
    return [pair for block in CONSOLE.findall(README.read_text()) for pair in commands(block)]


def run(command: str, folder: Path) -> str:
    """What a person would see."""
    bin_folder = Path(sys.executable).parent
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command],
        cwd=folder,
        env={"PATH": f"{bin_folder}:/usr/bin:/bin", "HOME": str(folder)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=True,
    )
    return done.stdout


def without_times(text: str) -> str:
    """Seconds differ from run to run."""
    text = re.sub(r"\d+\.\d s\b", "0.0 s", text)
    return re.sub(r" *\d+\.\d\d(?=  (transductive|bank|none))", " 0.00", text)


def update(folder: Path) -> None:
    """Write today's outputs into the README."""

    def renew(match: re.Match[str]) -> str:
        pairs = commands(match[1])
        body = "".join(f"$ {command}\n{run(command, folder)}" for command, _ in pairs)
        return f"```console\n{body}```"

    README.write_text(CONSOLE.sub(renew, README.read_text()))


def test_command() -> str:
    """The README's line that ends with the tests, less the making of an environment."""
    lines = re.findall(r"^python3 -m venv .*pytest.*$", README.read_text(), flags=re.MULTILINE)
    assert len(lines) == 1, lines
    return lines[0].split("activate && ", 1)[1]


if __name__ == "__main__":
    if sys.argv[1:] == ["update"]:
        import tempfile

        with tempfile.TemporaryDirectory() as name:
            update(Path(name))
    elif sys.argv[1:] == ["test-command"]:
        print(test_command())
    else:
        sys.exit(__doc__)
