"""mplat starts in every way there is, from the root and from elsewhere, and Python's own `platform` stays itself."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

SCRIPTS = Path(sys.executable).parent
USES_PLATFORM = "import platform; assert platform.system() and 'lib' in platform.__file__.lower()"


def _run(argv: list[str], cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    env = {k: v for k, v in os.environ.items() if not k.startswith(("PYTEST_", "PYTHON"))} | environment
    return subprocess.run(argv, cwd=cwd, env=env, capture_output=True, text=True, timeout=100)


@pytest.fixture(params=["root", "elsewhere"])
def cwd(request, root, tmp_path) -> Path:
    return root if request.param == "root" else tmp_path


@pytest.mark.parametrize(
    "start",
    [
        [str(SCRIPTS / "mplat")],
        [sys.executable, "-m", "mplat"],
        [sys.executable, "{root}/cli.py"],
        [sys.executable, "-c", "import sys; from mplat.commands import main; sys.exit(main())"],
    ],
    ids=["mplat", "python -m mplat", "python cli.py", "python -c"],
)
def test_the_command_line_starts(start, cwd, root):
    argv = [word.format(root=root) for word in start]
    if not Path(argv[0]).exists():
        pytest.fail(f"{argv[0]} is missing: install with `make`, or pip install -e .")
    done = _run([*argv, "--help"], cwd)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ") and "doctor" in done.stdout
    unknown = _run([*argv, "no-such-command"], cwd)
    assert unknown.returncode == 2 and unknown.stderr.startswith("error: unknown command")


@pytest.mark.parametrize(
    "start", [[sys.executable, "-m", "pytest"], [str(SCRIPTS / "pytest")]], ids=["-m pytest", "pytest"]
)
def test_pytest_starts_and_finds_the_tests(start, cwd, root):
    done = _run([*start, "--version"], cwd)
    assert done.returncode == 0
    done = _run(
        [*start, "--collect-only", "-q", "-p", "no:cacheprovider", str(root / "tests" / "test_start_modes.py")], cwd
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "test_the_command_line_starts" in done.stdout


def test_the_standard_librarys_platform_is_itself(cwd):
    assert _run([sys.executable, "-c", USES_PLATFORM], cwd).returncode == 0


def test_the_standard_librarys_platform_is_itself_after_importing_mplat(cwd):
    code = f"import mplat.core.errors, mplat.commands; {USES_PLATFORM}"
    assert _run([sys.executable, "-c", code], cwd).returncode == 0


def test_scripts_in_the_root_get_the_standard_librarys_platform(root, tmp_path):
    shutil.copytree(
        root / "platform" / "commands", tmp_path / "platform" / "commands", ignore=shutil.ignore_patterns("__pycache__")
    )
    (tmp_path / "script.py").write_text(USES_PLATFORM)
    assert _run([sys.executable, "script.py"], tmp_path).returncode == 0
    # The trap this guards against is real: with an __init__.py the folder takes the module's place.
    (tmp_path / "platform" / "__init__.py").write_text("")
    assert _run([sys.executable, "script.py"], tmp_path).returncode != 0


@pytest.fixture(scope="module")
def uninstalled(root, tmp_path_factory) -> dict[str, str]:
    """An environment in which mplat's dependencies can be imported and mplat, as installed, cannot."""
    folder = tmp_path_factory.mktemp("site")
    block = folder / "sitecustomize.py"
    block.write_text(
        "import sys\n"
        "sys.meta_path[:] = [f for f in sys.meta_path if 'editable' not in str(getattr(f, '__module__', f)).lower()]\n"
        "sys.path[:] = [p for p in sys.path if 'editable' not in p and not p.endswith('front')]\n"
    )
    return {"PYTHONPATH": str(folder)}


def test_a_bare_checkout_runs_without_installation(root, cwd, uninstalled):
    absent = _run([sys.executable, "-c", "import mplat.core.errors"], cwd, **uninstalled)
    if absent.returncode == 0:
        pytest.skip("mplat is installed in a way that this test cannot hide")
    done = _run([sys.executable, str(root / "cli.py"), "models", "--help"], cwd, **uninstalled)
    assert (done.returncode, done.stderr) == (0, "")
    code = (
        f"import sys; sys.path.insert(0, {str(root)!r}); import cli; cli.import_from_checkout(); sys.path.pop(0);"
        f"import mplat.config, mplat.core.typed_lists; {USES_PLATFORM}; "
        "import mplat.errors as e; print(e.__file__)"
    )
    done = _run([sys.executable, "-c", code], cwd, **uninstalled)
    assert done.stdout.strip() == str(root / "platform" / "errors.py"), done.stderr


def test_a_checkout_runs_its_own_code_beside_another_that_is_installed(root, tmp_path):
    shutil.copy(root / "cli.py", tmp_path)
    shutil.copytree(
        root / "platform", tmp_path / "platform", ignore=shutil.ignore_patterns("__pycache__", "tiny", ".*.part")
    )
    which = (
        "from mplat.runtime.installation import installed_version as v; import mplat.errors as e; "
        "print(e.__file__, v())"
    )
    code = (
        f"import sys; sys.argv[:] = ['cli.py']; import cli; cli.is_installed() or cli.import_from_checkout(); {which}"
    )
    done = _run([sys.executable, "-c", code], tmp_path)
    assert done.stdout.split()[0] == str(root / "platform" / "errors.py"), done.stderr  # the same code, installed
    models = tmp_path / "platform" / "commands" / "models.py"
    models.write_text(models.read_text().replace("List shipped models", "List other models"))
    done = _run([sys.executable, str(tmp_path / "cli.py"), "models", "--help"], root)
    assert "List other models" in done.stdout, done.stderr
    done = _run([sys.executable, "-c", code], tmp_path)
    assert done.stdout.strip() == f"{tmp_path}/platform/errors.py the checkout {tmp_path}", done.stderr


FRONT_DOOR = (
    "import sys, mplat; assert 'torch' not in sys.modules, 'import mplat loads torch'; "
    "import mplat.models as m; assert mplat.load is m.load and mplat.Scale is m.Scale and mplat.eval.__path__; "
    "assert not hasattr(mplat, 'laod') and 'load' in dir(mplat); print(mplat.__version__)"
)


@pytest.mark.slow
def test_import_mplat_has_the_names_of_its_models(root, tmp_path):
    """Also beside a clone of the repository, which is a folder called mplat, and from a checkout's cli.py."""
    (tmp_path / "mplat" / "platform").mkdir(parents=True)
    version = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    done = _run([sys.executable, "-c", FRONT_DOOR], tmp_path, PYTHONPATH=str(root / "front"))
    assert done.stdout.strip() == version, done.stderr
    code = f"import sys; sys.path.insert(0, {str(root)!r}); import cli; cli.import_from_checkout(); {FRONT_DOOR}"
    done = _run([sys.executable, "-c", code], tmp_path)
    assert done.stdout.strip() == version, done.stderr
    done = _run([sys.executable, "-m", "mplat", "--help"], tmp_path, PYTHONPATH=str(root / "front"))
    assert done.stdout.startswith("Usage: python -m mplat"), done.stderr


@pytest.fixture
def beside_a_clone(root, tmp_path) -> Path:
    """A working directory that holds a clone of the repository called mplat, whose cli.py says so when it is run."""
    clone = tmp_path / "mplat"
    clone.mkdir()
    for name in ("front", "platform"):
        (clone / name).symlink_to(root / name)
    script = (root / "cli.py").read_text(encoding="utf-8")
    (clone / "cli.py").write_text(f'import sys\nsys.stderr.write("the cli.py of the clone runs\\n")\n{script}')
    return tmp_path


@pytest.mark.parametrize(
    "start",
    [
        [sys.executable, "-m", "mplat"],
        [str(SCRIPTS / "mplat")],
        [sys.executable, "-c", "import sys, mplat.commands; sys.exit(mplat.commands.main(prog='mplat'))"],
    ],
    ids=["python -m mplat", "mplat", "python -c"],
)
def test_beside_a_clone_called_mplat_the_package_starts_and_not_the_clones_script(start, beside_a_clone, root):
    done = _run([*start, "models", "--help"], beside_a_clone, PYTHONPATH=str(root / "front"))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("Usage: ") and "mplat models [OPTIONS]" in done.stdout
    # no module of the package has the name of a script beside it, which a folder on the path would put in its place
    scripts = {path.stem for path in root.glob("*.py")}
    assert not scripts & {path.stem for path in (root / "platform").iterdir()}


def test_the_script_of_a_clone_called_mplat_starts_too(beside_a_clone, uninstalled):
    done = _run([sys.executable, "mplat/cli.py", "models", "--help"], beside_a_clone, **uninstalled)
    assert (done.returncode, done.stderr) == (0, "the cli.py of the clone runs\n")
    assert done.stdout.startswith("Usage: python mplat/cli.py models [OPTIONS]")


def test_an_editable_install_has_the_front_on_the_path(root, tmp_path):
    """So that no folder called mplat in the working directory comes before it."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    shutil.copytree(root / "front", tmp_path / "front", ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "platform").mkdir()
    built = _run(
        [sys.executable, "setup.py", "-q", "editable_wheel", "--dist-dir", "out"], tmp_path, PYTHONWARNINGS="ignore"
    )
    assert built.returncode == 0, built.stderr
    (wheel,) = (tmp_path / "out").glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        (path,) = [name for name in content.namelist() if name.endswith(".pth")]
        assert content.read(path).decode().strip() == str(tmp_path / "front")


def test_a_missing_dependency_is_one_sentence(root, tmp_path):
    done = _run([sys.executable, "-S", "-E", str(root / "cli.py"), "models"], tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this Python (") and "which mplat depends on" in done.stderr
    assert done.stderr.count("\n") == 1


def test_packages_and_their_data_are_found_without_a_list(root, tmp_path):
    """setup.py sees a new sub-package, template or model file because it is there."""
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(root / name, tmp_path)
    for path, text in {
        "new_stage/__init__.py": "",
        "new_stage/steps/__init__.py": "",
        "new_stage/page.html.j2": "x",
        "models/__init__.py": "",
        "models/tiny/tiny-new/config.json": "{}",
        "models/tiny/tiny-new/model.safetensors": "x",
        "../front/mplat/__init__.py": "",
    }.items():
        file = tmp_path / "platform" / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    built = _run(
        [sys.executable, "setup.py", "-q", "build_py", "--build-lib", "out"], tmp_path, PYTHONWARNINGS="ignore"
    )
    assert built.returncode == 0, built.stderr
    found = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert found == {
        "mplat/__init__.py",
        "mplat/new_stage/__init__.py",
        "mplat/new_stage/page.html.j2",
        "mplat/new_stage/steps/__init__.py",
        "mplat/models/__init__.py",
        "mplat/models/tiny/tiny-new/config.json",
        "mplat/models/tiny/tiny-new/model.safetensors",
    }
