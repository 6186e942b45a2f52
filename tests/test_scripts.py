"""Tests of the scripts: calls, set-up and output.

The set-up is tested on a small project without dependencies, in real environments with the real
pip. pip finds this environment's build backend on disk, so nothing is downloaded.
"""

import configparser
import importlib.metadata
import json
import os
import pathlib
import re
import shlex
import shutil
import signal
import subprocess
import sys
import zipfile
from collections.abc import Callable

import pytest
from packaging import markers, requirements, utils

from tests import helpers

ROOT = pathlib.Path(__file__).parent.parent
SCRIPTS = ROOT / "scripts"
IS_SET_UP = not subprocess.run(
    ["bash", "-c", '. "$0" && is_up_to_date', SCRIPTS / "environment.sh"], check=False
).returncode
needs_set_up = pytest.mark.skipif(
    not IS_SET_UP, reason="the scripts' environment, which scripts/test.sh makes, is not up to date"
)
SETTINGS = """
[metadata]
name = pipeline
[options]
packages = pipeline
[options.extras_require]
test =
"""
PROGRAM = """
import json, os, sys
assert not {"PYTHONHOME", "PYTHONPATH"} & os.environ.keys(), "child processes would inherit them"
print(json.dumps([__file__, *sys.argv[1:]]))
"""


def _start(*command: object, cwd: pathlib.Path, **environment: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [str(part) for part in command],
        cwd=cwd,
        env={**os.environ, **environment},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def _finish(process: "subprocess.Popen[str]") -> "subprocess.CompletedProcess[str]":
    out, err = process.communicate(timeout=180)
    return subprocess.CompletedProcess(process.args, process.returncode, out, err)


def _run(
    *command: object, cwd: pathlib.Path, **environment: str
) -> "subprocess.CompletedProcess[str]":
    return _finish(_start(*command, cwd=cwd, **environment))


class Checkout:
    """A small project with the real scripts, in a folder whose name has special characters."""

    def __init__(self, folder: pathlib.Path):
        """Makes the project without its environment."""
        self.folder = folder
        self.root = folder / "it's a [check]*?\"; #out"
        self.script = self.root / "scripts" / "train.sh"
        self.script.parent.mkdir(parents=True)
        for name in ("environment.sh", "train.sh"):
            shutil.copy(SCRIPTS / name, self.script.parent)
        shutil.copy(ROOT / "pyproject.toml", self.root)
        (self.root / "setup.cfg").write_text(SETTINGS)
        (self.root / "pipeline").mkdir()
        (self.root / "pipeline" / "__init__.py").touch()
        (self.root / "pipeline" / "train.py").write_text(PROGRAM)
        backend = importlib.metadata.distribution("setuptools")
        pin = f"setuptools=={backend.version}\n"
        (self.script.parent / "constraints.txt").write_text(pin)
        wheel = folder / f"setuptools-{backend.version}-py3-none-any.whl"
        with zipfile.ZipFile(wheel, "w") as file:
            for path in backend.files or ():
                if path.suffix != ".pyc" and ".." not in path.parts:
                    file.write(str(path.locate()), str(path))
        self.environment = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(folder)}
        # A program with a space in its path, which runs a Python of a virtual environment.
        self.python = folder / "py thon"
        self.python.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} "$@"\n')
        self.python.chmod(0o755)

    def start(self, **environment: str) -> "subprocess.Popen[str]":
        """Starts the script from another directory."""
        return _start(self.script, cwd=self.folder, **self.environment, **environment)

    def check(self, result: "subprocess.CompletedProcess[str]", *flags: str) -> None:
        """Asserts that the project's program has run with these flags."""
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == [str(self.root / "pipeline" / "train.py"), *flags]


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Checkout:
    """A checkout that two scripts set up at once, under all kinds of settings."""
    made = Checkout(tmp_path_factory.mktemp("scripts"))
    settings = {
        "PYTHON": str(made.python),
        "PYTHONHOME": "/nowhere",
        "PIP_USER": "1",
        "PIP_TARGET": str(made.folder / "target"),
        "PIP_CONSTRAINT": "/nowhere",
    }
    results = [_finish(process) for process in [made.start(**settings) for _ in range(2)]]
    for result in results:
        made.check(result)
    assert sorted(result.stderr.count("Making") for result in results) == [0, 1]
    return made


@pytest.mark.slow
@needs_set_up
def test_scripts_run_from_anywhere_and_in_any_environment(
    checkout: Checkout, tmp_path: pathlib.Path
) -> None:
    """They run through links and relative paths, with shell variables, and pass flags unchanged."""
    flags = ("--a=b c", "-x", "*", "", "--", 'it\'s "$HOME"')
    link = tmp_path / "link"
    link.symlink_to(checkout.script)
    (tmp_path / "folder").symlink_to(checkout.root)
    # These would be imported, or found by `cd`, instead.
    for name in ("pipeline", "scripts"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("raise SystemExit('the wrong package')")
    (tmp_path / "json.py").write_text("raise SystemExit('the wrong module')")
    # An older macOS has no `readlink -f`.
    (tmp_path / "readlink").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "readlink").chmod(0o755)
    outside = str(tmp_path)
    old_macos = {"PATH": f"{outside}:{os.environ['PATH']}", "CDPATH": outside}
    for cwd, command, environment in (
        (tmp_path, [link], {}),
        (tmp_path, ["./link"], {}),
        (tmp_path, ["folder/scripts/train.sh"], {}),
        (tmp_path, ["bash", "folder/scripts/train.sh"], {}),
        (checkout.root, ["scripts/train.sh"], {"CDPATH": outside}),
        (checkout.root, ["scripts/train.sh"], old_macos),
        (checkout.root / "scripts", ["bash", "train.sh"], old_macos),
        (tmp_path, [checkout.script], {"PYTHONPATH": outside, "VIRTUAL_ENV": outside}),
        (tmp_path, [checkout.script], {"PYTHONHOME": outside, "PYTHON": str(checkout.python)}),
    ):
        result = _run(*command, *flags, cwd=cwd, **environment)
        checkout.check(result, *flags)
        assert result.stderr == ""


def _without_pip(venv: pathlib.Path) -> None:
    """Removes pip, as in an environment made by uv."""
    for path in venv.glob("lib/python*/site-packages/pip*"):
        shutil.rmtree(path)
    (venv / ".installed").unlink()


def _python_removed(venv: pathlib.Path) -> None:
    (venv / "bin" / "python").unlink()
    (venv / "bin" / "python").symlink_to("/nowhere/python3")


def _other_versions(venv: pathlib.Path) -> None:
    with (venv.parent / "scripts" / "constraints.txt").open("a") as file:
        file.write("# changed\n")


def _moved(venv: pathlib.Path) -> None:
    venv.parent.rename(venv.parent.with_name("moved"))


@pytest.mark.slow
@needs_set_up
@pytest.mark.parametrize(
    ("change", "is_made_anew"),
    [(_without_pip, False), (_python_removed, True), (_other_versions, False), (_moved, False)],
)
def test_an_environment_that_does_not_fit_is_mended(
    checkout: Checkout, change: Callable[[pathlib.Path], None], is_made_anew: bool
) -> None:
    """The repair is minimal and happens once: the next start needs none."""
    change(checkout.root / ".venv")
    if change is _moved:
        checkout.root = checkout.root.with_name("moved")
        checkout.script = checkout.root / "scripts" / "train.sh"
    result = _finish(checkout.start())
    checkout.check(result)
    assert ("Making" in result.stderr) == is_made_anew
    assert "Installing" in result.stderr
    again = _finish(checkout.start())
    checkout.check(again)
    assert again.stderr == ""


@pytest.mark.slow
@needs_set_up
def test_a_set_up_that_was_killed_is_completed(checkout: Checkout) -> None:
    """This holds even if the source files are then the same as in an earlier set-up."""
    pins = checkout.script.parent / "constraints.txt"
    before = pins.read_text()
    for text in (f"{before}# killed\n", before):
        pins.write_text(text)
        process = checkout.start()
        assert process.stderr is not None
        assert "Installing" in process.stderr.readline()
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    result = _finish(checkout.start())
    checkout.check(result)
    assert "Installing" in result.stderr


def _check_refusal(result: "subprocess.CompletedProcess[str]", python: pathlib.Path) -> None:
    assert result.returncode == 1
    (line,) = result.stderr.splitlines()
    assert "Python 3.10, 3.11, 3.12 or 3.13" in line
    assert f"{python} (Python 2.7.18)" in line


def _old_python(folder: pathlib.Path) -> pathlib.Path:
    path = folder / "python2"
    path.write_text('#!/bin/sh\n[ "$1" = --version ] && echo Python 2.7.18\n')
    path.chmod(0o755)
    return path


def test_an_unsuited_python_is_refused_with_what_to_do(tmp_path: pathlib.Path) -> None:
    shutil.copytree(SCRIPTS, tmp_path / "scripts")
    old = _old_python(tmp_path)
    _check_refusal(_run(tmp_path / "scripts" / "train.sh", cwd=tmp_path, PYTHON=str(old)), old)
    assert {path.name for path in tmp_path.iterdir()} == {"scripts", "python2"}


@pytest.mark.slow
@needs_set_up
def test_a_python_that_is_named_counts_after_set_up_too(
    checkout: Checkout, tmp_path: pathlib.Path
) -> None:
    old = _old_python(tmp_path)
    _check_refusal(_finish(checkout.start(PYTHON=str(old))), old)


def _pins(python: str) -> dict[str, str]:
    """The version of each package in the constraints for a Python."""
    environment = {"python_version": python, "python_full_version": f"{python}.0"}
    pins: dict[str, str] = {}
    for line in (SCRIPTS / "constraints.txt").read_text().splitlines():
        if line.startswith("#"):
            continue
        pin = requirements.Requirement(line)
        (specifier,) = pin.specifier
        if pin.marker is None or pin.marker.evaluate(environment):
            assert specifier.operator == "=="
            assert pin.name not in pins
            pins[pin.name] = specifier.version
    return pins


@pytest.mark.parametrize("python", ["3.10", "3.11", "3.12", "3.13"])
def test_the_constraints_pin_what_setup_cfg_asks_for(python: str) -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "setup.cfg")
    wanted = [
        *settings["options"]["install_requires"].split(),
        *settings["options.extras_require"]["test"].split(),
    ]
    assert len(wanted) >= 8
    pins = _pins(python)
    for requirement in map(requirements.Requirement, wanted):
        assert requirement.specifier.contains(pins[requirement.name]), requirement


@needs_set_up
def test_the_environment_is_made_of_the_tested_versions() -> None:
    """All direct and indirect dependencies have the versions of the constraints."""
    pins = _pins("{}.{}".format(*sys.version_info))
    environment = {**markers.default_environment(), "extra": ""}
    todo, seen = ["pipeline"], {"pipeline"}
    while todo:
        name = todo.pop()
        for line in importlib.metadata.requires(name) or ():
            requirement = requirements.Requirement(line)
            extra = "test" if name == "pipeline" else ""
            if requirement.marker and not requirement.marker.evaluate(
                {**environment, "extra": extra}
            ):
                continue
            needed = utils.canonicalize_name(requirement.name)
            if needed not in seen:
                seen.add(needed)
                todo.append(needed)
                assert importlib.metadata.version(needed) == pins[needed], needed
    assert len(seen) > 40


@pytest.mark.slow
@needs_set_up
def test_compare_shows_three_tables_also_of_what_diverges(tmp_path: pathlib.Path) -> None:
    """It runs from anywhere; the command in its last line works there."""
    compare = SCRIPTS / "compare.sh"
    result = _run(compare, "--epochs=200", "--learning_rate=0.9", cwd=tmp_path)
    assert result.returncode == 3, result.stderr
    rows = [line for line in result.stdout.splitlines() if "W = " in line]
    reports = [re.findall(r"W = \S+ b = \S+ loss=\S+", row) for row in rows]
    assert [len(row) for row in reports] == [3, 3, 3]  # the start, and two of 200 epochs
    assert len(set(reports[0])) == 1
    script, logdir = shlex.split(result.stdout.splitlines()[-1])[1:]
    assert os.access(tmp_path / script, os.X_OK)
    names = {path.name for path in (tmp_path / logdir).iterdir()}
    assert names == {"module-custom", "keras-custom", "keras-fit"}


@needs_set_up
@pytest.mark.parametrize(
    ("flag", "code", "said"),
    [
        ("--help", 0, "--epochs"),
        ("--helpfull", 0, "--epochs"),
        ("--epochs=x", 2, "--epochs=x"),
        ("--data=nowhere.csv", 2, "nowhere.csv"),
        ("--model=keras", 2, "--model"),
        ("--logdir=elsewhere", 2, "--logdir"),
    ],
)
def test_compare_names_no_runs_where_none_were(
    tmp_path: pathlib.Path, flag: str, code: int, said: str
) -> None:
    result = _run(SCRIPTS / "compare.sh", flag, cwd=tmp_path)
    assert result.returncode == code
    assert said in (result.stderr if code else result.stdout)
    assert len(result.stderr.splitlines()) == bool(code)
    assert "logs/compare" not in result.stdout + result.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_the_benchmark_fails_where_a_goal_is_missed(tmp_path: pathlib.Path) -> None:
    """It installs nothing unless asked, and leaves no files."""
    code = """
import pathlib, sys
import benchmark
benchmark.PEERS = pathlib.Path("peers")
factor = float(sys.argv.pop(1))
benchmark.GOALS = (benchmark.Goal("reading a CSV", "pipeline csv", "numpy csv", factor),
                   benchmark.Goal("reading a CSV", "pipeline csv", "jax 32", 1))
benchmark.commands = benchmark.memory = benchmark.growth = benchmark.workers = lambda _: []
benchmark.predictions = lambda *_: []
benchmark.checkpoints = lambda _: benchmark.Row("a row without a goal", "")
benchmark.main()
"""
    for factor, expected, word in ((0.001, 0, "met"), (1000, 1, "**missed**")):
        environment = {"PYTHONPATH": str(SCRIPTS), "TMPDIR": str(tmp_path)}
        command = [sys.executable, "-c", code, str(factor), "--quick"]
        result = _run(*command, cwd=tmp_path, **environment)
        assert result.returncode == expected, result.stderr
        assert f"| {word} |" in result.stdout
        assert "| not installed |" in result.stdout
        assert not list(tmp_path.iterdir())


def test_the_readme_names_the_line_of_the_update() -> None:
    """The README's recipe sets a breakpoint there, and its output shows the debugger there."""
    readme = (ROOT / "README.md").read_text()
    found = re.search(r"break (pipeline/\S+):(\d+)\n.*\n-> (.*)\n", readme)
    assert found
    line = (ROOT / found[1]).read_text().splitlines()[int(found[2]) - 1]
    assert line.strip() == found[3]


def test_the_commands_on_arrays_and_datasets_in_the_readme_run(tmp_path: pathlib.Path) -> None:
    section = (ROOT / "README.md").read_text().partition("### A compiled model")[2]
    section = section.partition("\n## ")[0]
    (tmp_path / "mine.py").write_text("".join(re.findall(r"```python\n(.*?)```", section, re.S)))
    found = re.findall(r"\npython -m pipeline\.(train .*?)\n```", section, re.S)
    commands = [shlex.split(command.replace("\\\n", "")) for command in found]
    assert [command[-1] for command in commands] == ["--run_name=digits", "--run_name=noisy"]
    for code, out, err in helpers.answers(commands, cwd=tmp_path):
        assert (code, err) == (0, "")
        assert "validation loss=" in out
