"""Packages and package data, found by looking: every folder with an `__init__.py` below platform/, and what lies in it.

Everything else about the project is in pyproject.toml. This file exists because the folder `platform/` is imported as
`mplat`, and setuptools' declarative search cannot rename the root of what it finds. It promises that a new sub-package
or data file is installed without an entry anywhere, in editable installs and in wheels alike.

The package's own `__init__.py` comes from front/mplat: a wheel holds it beside the modules of platform/, an editable
install has the folder front/ on Python's path. Either is a regular package, which no folder that happens to be called
mplat, such as a clone of this repository in the working directory, can stand in front of.
"""

from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py
from setuptools.command.editable_wheel import editable_wheel

ROOT, FRONT = "platform", "front"
DATA = ["**/*.yaml", "**/*.json", "**/*.html.j2", "**/*.css", "**/*.js", "py.typed"]
INIT = Path(FRONT, "mplat", "__init__.py")

packages = ["mplat", *(f"mplat.{name}" for name in sorted(find_packages(ROOT)))]


class BuildWithFront(build_py):
    """The modules of platform/ and the `__init__.py` of front/."""

    def run(self) -> None:
        super().run()
        if INIT.exists() and not self.editable_mode:
            self.copy_file(str(INIT), str(Path(self.build_lib, "mplat", "__init__.py")))

    def get_source_files(self) -> list[str]:
        return [*super().get_source_files(), *([str(INIT)] if INIT.exists() else [])]


class EditableByFront(editable_wheel):
    """An editable install: front/ on the path, whose one package says where the modules are."""

    def finalize_options(self) -> None:
        if INIT.exists():
            self.distribution.packages, self.distribution.package_dir = ["mplat"], {"": FRONT}
        super().finalize_options()


setup(
    packages=packages,
    package_dir={"mplat": ROOT},
    package_data={"": DATA, "mplat.models": ["tiny/**/*"]},
    include_package_data=False,
    cmdclass={"build_py": BuildWithFront, "editable_wheel": EditableByFront},
)
