"""What was imported by its old name still can be, and is told of the new one."""

import importlib
import sys

import pytest

from emcl_plugin._internal.moved import MOVED


@pytest.mark.parametrize("old", MOVED)
def test_an_old_name_works_and_warns_at_the_importing_line(old):
    name = f"emcl_plugin.{old}"
    sys.modules.pop(name, None)
    with pytest.warns(DeprecationWarning, match=f"{name} is now") as told:
        found = importlib.import_module(name)
    assert len(told) == 1
    new = importlib.import_module(f"emcl_plugin.{MOVED[old]}")
    public = [x for x in vars(new) if not x.startswith("_")]
    assert all(getattr(found, x) is getattr(new, x) for x in public)


def test_the_warning_points_to_the_statement():
    sys.modules.pop("emcl_plugin.truth", None)
    with pytest.warns(DeprecationWarning, match="ground_truth") as told:
        from emcl_plugin.truth import GroundTruth
    from emcl_plugin.ground_truth import GroundTruth as New

    assert GroundTruth is New
    assert told[0].filename == __file__


def test_other_names_are_still_unknown():
    with pytest.raises(ModuleNotFoundError):
        importlib.import_module("emcl_plugin.nonsense")
