"""Every command, option and public name says in words what it is, takes and gives."""

from __future__ import annotations

import inspect
import re
import sys
from pathlib import Path

import click
import pytest
from numpydoc.docscrape import NumpyDocString

import emcl_plugin
from emcl_plugin import adapters, baselines
from emcl_plugin.cli.main import command

ROOT = Path(__file__).resolve().parents[2]
CONTEXT = click.Context(command, info_name="emcl-rerank")
COMMANDS = {name: command.get_command(CONTEXT, name) for name in command.list_commands(CONTEXT)}
OPTIONS = [
    pytest.param(name, option, id=f"{name} {option.opts[0]}")
    for name, one in {"emcl-rerank": command, **COMMANDS}.items()
    for option in one.params
    if isinstance(option, click.Option) and not option.hidden  # hidden ones are deprecated
]
TOP = {name: getattr(emcl_plugin, name) for name in emcl_plugin.__all__ if name != "__version__"}
PUBLIC = {
    f"{module.__name__}.{name}": getattr(module, name)
    for module in (emcl_plugin, adapters, baselines)
    for name in module.__all__
    if callable(getattr(module, name))
}
CLASSES = {name: one for name, one in PUBLIC.items() if inspect.isclass(one)}
FUNCTIONS = {name: one for name, one in PUBLIC.items() if inspect.isfunction(one)}


def described(thing: object) -> set[str]:
    """Parameters and attributes with a kind or words; those of a class also by its parents."""
    parents = inspect.getmro(thing) if inspect.isclass(thing) else (thing,)
    homes = [one for one in parents if one.__module__.startswith("emcl_plugin")]
    docs = [NumpyDocString(inspect.cleandoc(home.__doc__ or "")) for home in homes]
    return {
        name
        for doc in docs
        for entry in (*doc["Parameters"], *doc["Attributes"])
        if entry.type or entry.desc
        for name in entry.name.split(", ")
    }


def taken(thing: object) -> set[str]:
    """What a call takes, stars included; those of a class are its parent's."""
    stars = {inspect.Parameter.VAR_POSITIONAL: "*", inspect.Parameter.VAR_KEYWORD: "**"}
    found = inspect.signature(thing).parameters.values()
    own = [one for one in found if not (inspect.isclass(thing) and one.kind in stars)]
    return {stars.get(one.kind, "") + one.name for one in own}


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    """The help page of every command, as the site shows it."""
    sys.path.insert(0, str(ROOT / "docs"))
    try:
        import command_line
    finally:
        sys.path.remove(str(ROOT / "docs"))
    parts = re.split(r"^## (.+)\n", command_line.page(), flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def test_the_page_has_every_command(page):
    assert page.keys() == {"emcl-rerank", *(f"emcl-rerank {name}" for name in COMMANDS)}
    for name, one in COMMANDS.items():
        words = " ".join(one.get_short_help_str().split()[:3])
        assert words
        assert re.search(rf"^  {name} +{re.escape(words)}", page["emcl-rerank"], re.MULTILINE)


@pytest.mark.parametrize(("name", "option"), OPTIONS)
def test_an_option_has_words_and_is_on_the_page(page, name, option):
    assert option.help
    text = page["emcl-rerank" if name == "emcl-rerank" else f"emcl-rerank {name}"]
    for spelling in (*option.opts, *option.secondary_opts):
        assert re.search(rf"(?<![\w-]){re.escape(spelling)}(?![\w-])", text), spelling
    assert " ".join(option.help.split()[:3]) in " ".join(text.split())


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES])
def test_what_is_taken_is_described(name):
    assert PUBLIC[name].__doc__
    if not (inspect.isclass(PUBLIC[name]) and issubclass(PUBLIC[name], Warning)):  # words, always
        assert not taken(PUBLIC[name]) - described(PUBLIC[name])


@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_given_is_described(name):
    doc = NumpyDocString(inspect.getdoc(FUNCTIONS[name]))
    assert doc["Returns"] or doc["Yields"]


@pytest.mark.parametrize("name", CLASSES)
def test_public_methods_say_what_they_do(name):
    for one, member in vars(CLASSES[name]).items():
        function = getattr(member, "__func__", getattr(member, "func", member))
        if not one.startswith("_") and (callable(function) or isinstance(function, property)):
            assert inspect.getdoc(getattr(CLASSES[name], one)), one


@pytest.mark.parametrize("name", baselines.METHODS)
def test_settings_of_a_method_are_described(name):
    method = baselines.METHODS[name]
    assert method.title
    assert method.paper
    assert not taken(method.correct) - {"direction"} - described(method.correct)


@pytest.mark.parametrize("name", TOP)
def test_a_name_of_the_front_door_is_shown_by_an_example(name):
    doc = NumpyDocString(inspect.cleandoc(TOP[name].__doc__))  # run by test_doctests.py
    assert any(line.startswith(">>> ") for line in doc["Examples"])


def test_public_names_are_on_the_page_of_the_api():
    api = (ROOT / "docs" / "api.md").read_text("utf-8")
    named = set(re.findall(r"^   (?:\w+\.)*(\w+)$", api, re.MULTILINE))
    errors = {name for name, one in TOP.items() if one.__module__ == "emcl_plugin.errors"}
    assert "automodule:: emcl_plugin.errors" in api
    assert not {name.rpartition(".")[2] for name in PUBLIC} - errors - named
