"""The product does not run or unpickle what it reads."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FILES = sorted(
    path for package in ("actor", "common", "deploy", "learner") for path in (ROOT / package).rglob("*.py")
)
MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "cloudpickle",
    "dill",
    "joblib",
    "marshal",
    "shelve",
    "yaml",
    "code",
}
BUILTINS = {"eval", "exec", "compile", "__import__"}
METHODS = {"recv_pyobj", "send_pyobj", "literal_eval", "system", "popen", "run_path", "run_module"}
FLAGS = {"shell", "allow_pickle"}  # in any call, unless literally False


def faults(source: str) -> list[str]:
    """The forbidden imports and calls in a source text."""
    found = []
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Import(names=names):
                found += [name.name for name in names if name.name.split(".")[0] in MODULES]
            case ast.ImportFrom(module=str(module), names=names):
                found += [module] if module.split(".")[0] in MODULES else []
                found += [name.name for name in names if name.name in METHODS | MODULES]
                found += ["torch.load"] if module == "torch" and "load" in {n.name for n in names} else []
            case ast.Name(id=name) if name in BUILTINS:
                found.append(name)
            case ast.Attribute(attr=name) if name in METHODS:
                found.append(name)
            case ast.Attribute(value=ast.Name(id="torch"), attr="load" | "save" as name):
                found.append(f"torch.{name}")
            case ast.Attribute(value=ast.Name(id="np" | "numpy"), attr="load"):
                found.append("np.load")
            case ast.keyword(arg=str(name), value=value) if name in FLAGS:
                if not (isinstance(value, ast.Constant) and value.value is False):
                    found.append(name)
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_file_unpickles_or_runs_what_it_reads(path: Path) -> None:
    assert faults(path.read_text()) == []


@pytest.mark.parametrize(
    "source",
    [
        *("import pickle", "from pickle import loads", "import yaml", "import dill as d", "import pickle.x"),
        *("eval('1')", "exec(text)", "run = eval", "__import__('os')", "compile(a, b, 'exec')"),
        *("torch.load(path)", "torch.load(path, weights_only=True)", "from torch import load"),
        *("np.load(path)", "numpy.load(path, allow_pickle=True)", "f(allow_pickle=x)", "torch.save(a, b)"),
        *("socket.recv_pyobj()", "subprocess.run(c, shell=True)", "os.system(c)", "os.popen(c)"),
    ],
)
def test_the_guard_sees_each_of_them(source: str) -> None:
    assert faults(source)
