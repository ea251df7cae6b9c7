"""The documentation's site: `make docs` builds it into docs/_build/html, warnings as errors."""

from __future__ import annotations

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from emcl_plugin import __version__  # noqa: E402

project = "emcl_plugin"
project_copyright = "the emcl_plugin authors"
release = version = __version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "matplotlib.sphinxext.plot_directive",
    "numpydoc",
    "sphinx_gallery.gen_gallery",
    "command_line",
    "method_table",
]
templates_path = ["_templates"]
exclude_patterns = [
    "_build", "auto_examples/**.ipynb", "auto_examples/**.py", "**/sg_execution_times.rst",
]  # fmt: skip
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}

myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4
suppress_warnings = ["config.cache"]

html_theme = "furo"
html_title = f"emcl_plugin {release}"
html_theme_options = {"sidebar_hide_name": False}
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]

# How it works: the pictures are made by docs/figures/*.py, which fail if a finding does not hold.
plot_formats = ["svg"]
plot_html_show_formats = False
plot_html_show_source_link = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"/plot_",
    "ignore_pattern": r"(serve|make)_\w+\.py",
    "copyfile_regex": r"(serve|make)_\w+\.py",
    "within_subsection_order": "FileNameSortKey",
    "abort_on_example_error": True,
    "capture_repr": (),
    "image_srcset": ["2x"],
    "reset_modules": ("matplotlib", "gallery.plain_figures"),
    "download_all_examples": False,
    "show_signature": False,
    "write_computation_times": False,
    "remove_config_comments": True,
}
numpydoc_show_class_members = False
autodoc_typehints = "none"
