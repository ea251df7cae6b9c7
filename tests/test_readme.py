"""What the README shows is what a person sees today."""

from __future__ import annotations

import doctest

import pytest
import readme


def test_shown_outputs_are_todays(tmp_path):
    shown = readme.shown()
    assert len(shown) >= 3
    for command, output in shown:
        assert output, f"no output is shown for {command}"
        today = readme.without_times(readme.run(command, tmp_path))
        assert today == readme.without_times(output), "python tests/readme.py update"


@pytest.mark.filterwarnings("ignore::emcl_plugin.EmclWarning")
def test_python_lines_run_as_shown():
    found = doctest.testfile(str(readme.README), module_relative=False, verbose=False)
    assert found.attempted >= 8
    assert found.failed == 0


def test_the_test_command_is_found():
    assert "pytest" in readme.test_command()
