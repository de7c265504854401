"""How Sphinx builds the site: `make docs` writes it to build/docs."""

import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "extensions"), str(HERE.parent / "src")]

import rlmrec  # noqa: E402

project = "rlmrec"
author = "the authors of rlmrec"
copyright = "the authors of rlmrec, Apache-2.0"
version = release = rlmrec.__version__

extensions = [
    "myst_nb",  # Markdown and notebooks
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "docstrings",  # these three are in extensions/
    "mathml",
    "options",
]
exclude_patterns = ["data", "extensions"]
default_role = "code"

myst_enable_extensions = ["attrs_inline", "deflist", "dollarmath", "colon_fence"]
myst_heading_anchors = 4
nb_execution_mode = "off"  # the tests run the notebooks; the site shows what is stored in them

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_inherit_docstrings = False
python_maximum_signature_line_length = 88
python_use_unqualified_type_names = True
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
napoleon_custom_sections = [("Source", "notes_style")]

html_math_renderer = "mathml"
html_theme = "furo"
html_title = "rlmrec"
html_show_sphinx = False
html_copy_source = False
html_static_path = ["static"]
html_css_files = ["site.css"]
html_theme_options = {"navigation_with_keys": True}
