"""Packages and package data, found by looking: every folder with an `__init__.py` below platform/, and what lies in it.

Everything else about the project is in pyproject.toml. This file exists because the folder `platform/` is imported as
`mplat`, and setuptools' declarative search cannot rename the root of what it finds. It promises that a new sub-package
or data file is installed without an entry anywhere, in editable installs and in wheels alike.
"""

from setuptools import find_packages, setup

ROOT = "platform"
DATA = ["**/*.yaml", "**/*.json", "**/*.html.j2", "**/*.css", "**/*.js", "py.typed"]

packages = ["mplat", *(f"mplat.{name}" for name in sorted(find_packages(ROOT)))]

setup(
    packages=packages,
    package_dir={"mplat": ROOT},
    package_data={"": DATA, "mplat.models": ["tiny/**/*"]},
    include_package_data=False,
)
