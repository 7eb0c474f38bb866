"""The rules of the layout, checked on the source: what may import what, how long a file is, what a signature looks like."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "subquad"

# Each row may import the rows above it; the members of a row never import each other.
ROWS = [
    ("errors", "format", "parsing", "sections", "system", "text_tokenizer"),
    ("config", "console", "hub", "manifest"),
    ("state",),
    ("ops",),
    ("layers",),
    ("models",),
    ("data",),
    ("metrics",),
    ("run_folder", "run_log"),
    ("inference",),
    ("objectives",),
    ("training",),
    ("evaluation",),
    ("interop",),
    ("report", "inputs"),
    ("api",),
    ("comparison",),
    ("cli", "serve"),
    ("__init__",),
    ("__main__",),
]
RANK = {member: rank for rank, row in enumerate(ROWS) for member in row}
# Below in the order of rows, and still none of its business.
FORBIDDEN = {"data": {"state", "ops", "layers", "models", "torch"}, "ops": {"layers", "models"}, "training": {"inference"}}
OPTIONAL = {
    "MEGABYTE_pytorch",
    "PIL",
    "huggingface_hub",
    "ir_measures",
    "jinja2",
    "matplotlib",
    "pyarrow",
    "scipy",
    "sklearn",
    "soundfile",
    "tensorboard",
    "tokenizers",
    "transformers",
    "triton",
    "zstandard",
}
# Who may ask of which kind a model or a config is; all others call its methods, so that a new kind needs no change there.
KNOW_MODELS = {"models", "objectives", "interop", "comparison"}
MAX_LINES = 400
VAGUE_NAMES = {"common", "helper", "helpers", "misc", "util", "utils"}

Imports = list[tuple[str, int, bool]]


def imports(source: str, module: str, is_package: bool = False) -> Imports:
    """``(absolute name, line, whether importing the module leaves it out)`` of every import, wherever it stands."""
    found: Imports = []

    def visit(node: ast.AST, later: bool) -> None:
        if isinstance(node, ast.Import):
            found.extend((alias.name, node.lineno, later) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = module.split(".")
                parts = parts[: len(parts) - node.level + is_package]
                base = ".".join([*parts, base] if base else parts)
            found.extend((f"{base}.{alias.name}", node.lineno, later) for alias in node.names)
        elif isinstance(node, ast.Call) and _is_import_module(node):
            name = node.args[0]
            if isinstance(name, ast.Constant) and isinstance(name.value, str):
                found.append((name.value, node.lineno, later))
        later = later or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda) or _is_for_types_only(node)
        for child in ast.iter_child_nodes(node):
            visit(child, later)

    visit(ast.parse(source), False)
    return found


def _is_for_types_only(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and not node.orelse and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def _is_import_module(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
    return name in ("import_module", "__import__") and bool(node.args)


def upward_imports(source: str, module: str, is_package: bool = False) -> list[str]:
    """The imports that a module of this name may not have."""
    member = (module.split(".") + ["__init__"])[1]
    if member not in RANK:
        return [f"{module}: {member!r} has no row: add it to ROWS"]
    wrong = []
    for name, line, _ in imports(source, module, is_package):
        top, target = (name.split(".") + ["__init__"])[:2]
        forbidden = FORBIDDEN.get(member, set())
        if top != "subquad":
            if top in forbidden:
                wrong.append(f"{module}:{line} imports {name}")
            continue
        if target == "__version__" or target == member:
            continue
        # `from subquad import load`: a name of the package itself, not a module.
        target = target if target in RANK else "__init__"
        if RANK[target] >= RANK[member] or target in forbidden:
            wrong.append(f"{module}:{line} imports {name}")
    return wrong


def eager_optional_imports(source: str, module: str = "subquad.x") -> list[str]:
    """Optional packages imported outside a function."""
    found = imports(source, module)
    return [f"{module}:{line} imports {name}" for name, line, later in found if name.split(".")[0] in OPTIONAL and not later]


def keyword_catchalls(source: str, module: str = "subquad.x") -> list[str]:
    """Signatures with ``**kwargs``."""
    functions = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda))
    return [f"{module}:{node.lineno} takes **{node.args.kwarg.arg}" for node in functions if node.args.kwarg]


def unvalidated_copies(source: str, module: str = "subquad.x") -> list[str]:
    """``model_copy``, whose changes pydantic does not validate; ``with_changes`` does."""
    attributes = (node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))
    return [f"{module}:{node.lineno} calls model_copy: use with_changes" for node in attributes if node.attr == "model_copy"]


def kind_checks(source: str, module: str = "subquad.x") -> list[str]:
    """``isinstance`` of a class of ``models``, by its name in the import."""
    tree = ast.parse(source)
    if module.split(".")[1] in KNOW_MODELS:
        return []
    imported = [node for node in ast.walk(tree) if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("subquad.models")]
    kinds = {alias.asname or alias.name for node in imported for alias in node.names}
    checks = [
        node for node in ast.walk(tree) if isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass")
    ]
    asked = [(check.lineno, name) for check in checks for name in ast.walk(check.args[1])]
    return [f"{module}:{line} asks for a {node.id}" for line, node in asked if isinstance(node, ast.Name) and node.id in kinds]


def modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def long_or_silent(source: str, module: str = "subquad.x") -> list[str]:
    """A file of too many lines, and one whose docstring is missing."""
    lines = len(source.splitlines())
    long = [f"{module} has {lines} lines"] if lines > MAX_LINES else []
    return long + ([] if ast.get_docstring(ast.parse(source)) else [f"{module} has no docstring"])


SOURCES = [(name, path.read_text(encoding="utf-8"), path.name == "__init__.py") for name, path in modules()]


def test_imports_point_down() -> None:
    assert len(SOURCES) > 50
    assert [wrong for name, source, is_package in SOURCES for wrong in upward_imports(source, name, is_package)] == []


def test_optional_packages_are_imported_inside_functions() -> None:
    assert [wrong for name, source, _ in SOURCES for wrong in eager_optional_imports(source, name)] == []


def test_signatures_have_no_catchall() -> None:
    assert [wrong for name, source, _ in SOURCES for wrong in keyword_catchalls(source, name)] == []


def test_changed_configs_are_validated() -> None:
    assert [wrong for name, source, _ in SOURCES for wrong in unvalidated_copies(source, name)] == []


def test_only_models_and_objectives_ask_for_kinds_of_models() -> None:
    assert [wrong for name, source, _ in SOURCES if name.count(".") for wrong in kind_checks(source, name)] == []


def test_files_are_short_and_say_what_they_are_for() -> None:
    assert [wrong for name, source, _ in SOURCES for wrong in long_or_silent(source, name)] == []


def test_contributing_shows_the_rows_that_are_enforced() -> None:
    section = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8").partition("## The shape of the code")[2].partition("\n## ")[0]
    cells = [line.split("|")[1] for line in section.splitlines() if line.startswith("| `")]
    rows = [re.findall(r"`(\w+)/?`", cell) for cell in cells]
    assert existing(rows) == existing(ROWS[:-2])  # the last two are the package's own two files


def existing(rows: Iterable[Iterable[str]]) -> list[list[str]]:
    there = [[member for member in row if (PACKAGE / member).is_dir() or (PACKAGE / f"{member}.py").exists()] for row in rows]
    return [row for row in there if row]


def test_no_file_has_a_vague_name() -> None:
    files = [path for folder in ("src", "tests", "benchmarks", "examples") for path in (ROOT / folder).rglob("*.py")]
    assert files
    assert [str(path) for path in files if VAGUE_NAMES & {*path.relative_to(ROOT).with_suffix("").parts}] == []


@pytest.mark.parametrize(
    "statement",
    [
        "import subquad",
        "import subquad.cli",
        "import subquad.cli.train, subquad.cli.generate, subquad.cli.score, subquad.cli.info, subquad.cli.models, subquad.cli.convert",
        "import subquad.data",
        "import subquad.config",
    ],
)
def test_imports_without_torch(statement: str) -> None:
    check = f"import sys; {statement}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], timeout=60, check=False).returncode == 0


def test_public_names_exist_and_are_fetched_at_first_use() -> None:
    check = "import sys, subquad; assert 'torch' not in sys.modules; print([getattr(subquad, name) for name in subquad.__all__])"
    run = subprocess.run([sys.executable, "-W", "error", "-c", check], timeout=120, check=False, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr


# The checkers themselves, on made-up sources: each rule must be able to fail.


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("subquad.ops.fft", "from subquad.layers.hyena import Hyena"),
        ("subquad.ops.fft", "import subquad.layers.hyena"),
        ("subquad.ops.fft", "def f():\n    from subquad.models import build_model"),
        ("subquad.ops.fft", "from subquad import api"),
        ("subquad.ops.fft", "from subquad import load"),
        ("subquad.ops.fft", "import subquad"),
        ("subquad.ops.fft", "from .. import layers"),
        ("subquad.ops.fft", "from ..layers import hyena"),
        ("subquad.ops.fft", "import importlib\nimportlib.import_module('subquad.layers')"),
        ("subquad.config", "from subquad.ops import long_conv"),
        ("subquad.training.trainer", "from subquad.inference.generate import generate"),
        ("subquad.inference.score", "if True:\n    import subquad.training"),
        ("subquad.serve.app", "from subquad.cli import main"),
        ("subquad.data.corpus", "from subquad.models import presets"),
        ("subquad.data.corpus", "import torch"),
        ("subquad.data.corpus", "def f():\n    from torch.utils import data"),
        ("subquad.ops.fft", "if TYPE_CHECKING:\n    from subquad.models import build_model"),
        ("subquad.api", "class A:\n    from subquad.cli import main"),
        ("subquad.api", "def f():\n    import subquad.__main__"),
        ("subquad.novelty.thing", ""),
    ],
)
def test_an_upward_import_is_seen(module: str, source: str) -> None:
    assert len(upward_imports(source, module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("subquad.layers.hyena", "from subquad.ops.long_conv import long_conv\nfrom subquad.layers.stack import Stack"),
        ("subquad.layers.hyena", "from .stack import Stack\nfrom ..ops import long_conv\nimport torch"),
        ("subquad.training.trainer", "from subquad.data import Corpus\nfrom subquad import __version__"),
        ("subquad.report.run", "from subquad.training import log\nfrom subquad.inference import score"),
        ("subquad.cli.train", "def run():\n    from subquad import api"),
        ("subquad", "from subquad.api import load"),
        ("subquad.__main__", "from subquad.cli import main"),
    ],
)
def test_a_downward_import_passes(module: str, source: str) -> None:
    assert upward_imports(source, module) == []


def test_a_package_resolves_its_relative_imports() -> None:
    assert upward_imports("from .stack import Stack", "subquad.layers", is_package=True) == []
    assert len(upward_imports("from ..models import build_model", "subquad.layers", is_package=True)) == 1


@pytest.mark.parametrize(
    "source", ["import matplotlib.pyplot as plt", "class A:\n    from PIL import Image", "if True:\n    import triton"]
)
def test_an_eager_optional_import_is_seen(source: str) -> None:
    assert len(eager_optional_imports(source)) == 1
    statement = source.splitlines()[-1].strip()
    assert eager_optional_imports(f"def f():\n    {statement}") == []
    assert eager_optional_imports(f"if TYPE_CHECKING:\n    {statement}") == []
    assert len(eager_optional_imports(f"if TYPE_CHECKING:\n    pass\nelse:\n    {statement}")) == 1


@pytest.mark.parametrize(
    "source", ["def f(**kwargs): ...", "async def f(a, *, b, **rest): ...", "class A:\n    def f(self, **k): ...", "lambda **k: k"]
)
def test_a_catchall_is_seen(source: str) -> None:
    assert len(keyword_catchalls(source)) == 1
    assert keyword_catchalls("def f(a, *rest, b=1): g(**b)") == []


@pytest.mark.parametrize("source", ["config.model_copy(update={'dim': 8})", "f = a.b.model_copy", "x = 1\ny = c().model_copy(deep=True)"])
def test_an_unvalidated_copy_is_seen(source: str) -> None:
    assert len(unvalidated_copies(source)) == 1
    assert unvalidated_copies("# model_copy(\nwith_changes(config, {'dim': 8})") == []


def test_a_check_of_kinds_is_seen() -> None:
    source = "from subquad.models.encoder import Encoder, EncoderConfig as Config\nif isinstance(x, int | Encoder): pass"
    assert kind_checks(source, "subquad.api") == ["subquad.api:2 asks for a Encoder"]
    assert kind_checks(source, "subquad.models.classifier") == []
    assert len(kind_checks(source.replace("int | Encoder", "(int, Config)"))) == 1


def test_a_long_or_silent_file_is_seen() -> None:
    assert long_or_silent("x = 1\n") == ["subquad.x has no docstring"]
    assert long_or_silent('"""What it is."""\n' + "x = 1\n" * MAX_LINES) == [f"subquad.x has {MAX_LINES + 1} lines"]
    assert long_or_silent('"""What it is."""\n' + "x = 1\n" * (MAX_LINES - 1)) == []
