"""Every command and snippet of the README and the manual, as written and in its order, on small files and with few steps."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch

import subquad
from subquad import api
from subquad.cli import main
from subquad.comparison import experiment as experiments
from subquad.comparison import runner
from subquad.config import parse, with_changes
from subquad.models import PRESETS
from subquad.training.config import TrainConfig, build_config
from tests.docs.pages import PAGES, ROOT, Block, blocks
from tests.docs.workspace import make_run, make_workspace

# What a page shows without meaning that it be run here, by how it starts.
NOT_RUN = {
    "make ": "a target of the Makefile: the tests are one of them",
    ".ci/run": "calls the tests",
    "pip install ": "changes the environment that the tests run in",
    "subquad train PRESET|CONFIG.yaml": "a synopsis",
    "subquad data fetch ": "reads the network; tests/data/test_sets.py has a server on loopback",
    "subquad train hyena-small --data tinyshakespeare:": "needs the set that is fetched before",
    "subquad convert LongSafari/": "reads the Hugging Face hub; tests/interop/test_elsewhere.py has a stand-in",
}
SMALL = {
    "m2-bert-80m": {"stack.depth": 1, "stack.dim": 48, "stack.mixer.filter.width": 8, "stack.feedforward.blocks": 4},
    "perceiver-ar-arxiv": {"stack.depth": 1, "stack.dim": 64, "max_len": 512, "latents": 64},
}  # presets that take minutes at full size
STEPS, BATCH = 2, 2


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    make_workspace(folder)
    return folder


@pytest.fixture
def workspace(files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the files as the current folder, where training takes two steps."""
    folder = Path(shutil.copytree(files, tmp_path / "workspace"))
    monkeypatch.chdir(folder)
    monkeypatch.setenv("HOME", str(folder))
    monkeypatch.setattr(api, "build_config", toy_config)
    monkeypatch.setattr(api, "run_training", overwriting(api.run_training, 2))
    small = overwriting(toy_compare(runner.compare), 1)
    monkeypatch.setattr(subquad, "compare", small)  # first: it keeps what it has fetched
    monkeypatch.setattr(runner, "compare", small)
    for name, changes in SMALL.items():
        monkeypatch.setitem(PRESETS, name, with_changes(PRESETS[name], changes))
    return folder


def toy_config(values: Mapping[str, Any], options: Mapping[str, Any]) -> TrainConfig:
    """The config as it is asked for, with few steps and small batches."""
    config = build_config(values, options)
    changes = {"steps": min(config.steps, STEPS), "batch": min(config.batch, BATCH), "accumulate": 1, "eval.windows": 2}
    return with_changes(config, changes | {"device": "cpu", "dtype": "float32", "threads": 1})


def toy_compare(compare: Callable[..., Any]) -> Callable[..., Any]:
    """A comparison of the first two models on the first two data sets, in the quick version; what is not here is replaced by a book."""

    def small(experiment: Any, out: Any, *, jobs: int = 1, **options: Any) -> Any:
        whole = experiments.read_experiment(experiment) if isinstance(experiment, str | Path) else experiment
        files = {
            name: ["books/0.txt", "books/1.txt"]
            for name, spec in whole.data.items()
            if not spec.synthetic and not all(list(Path().glob(path)) for path in spec.paths if not Path(path).is_absolute())
        }
        whole = experiments.with_data(whole, files)
        values = (whole if "(quick" in whole.title else experiments.quick_version(whole)).model_dump(mode="json")
        values["data"] = {name: spec | {"only": list(whole.models)[:2]} for name, spec in list(values["data"].items())[:2]}
        return compare(parse(experiments.Experiment, values), out, jobs=0, **options)

    return small


def overwriting(run: Callable[..., Any], place: int) -> Callable[..., Any]:
    """Of several ways to write one folder, which a page may show, each finds it new."""

    def anew(*arguments: Any, **options: Any) -> Any:
        if not options.get("resume"):
            shutil.rmtree(Path(arguments[place]), ignore_errors=True)
        return run(*arguments, **options)

    return anew


def is_run(command: str) -> bool:
    return not any(command.startswith(start) for start in NOT_RUN)


def run_command(command: str) -> None:
    """Runs one line of a shell block: a lone ``subquad`` in this process, anything else in a shell."""
    for name in re.findall(r"(?<!--out )\bruns/[\w-]+", command):
        if not re.search(rf"--out {name}\b", command) or "--resume" in command:
            make_run(name)
    words = shlex.split(command)
    if words[0] == "subquad" and not {"|", ">", "<", "&&"} & set(words):
        words = [os.path.expanduser(word) for word in words]
        assert main(words[1:]) == 0, command
    else:
        folder = Path("bin")
        folder.mkdir(exist_ok=True)
        (folder / "subquad").write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m subquad "$@"\n')
        (folder / "subquad").chmod(0o755)
        environment = os.environ | {"PATH": f"{folder.resolve()}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT / "src")}
        subprocess.run(["sh", "-e", "-c", command], check=True, env=environment, timeout=100)


def names_of(page: str) -> dict[str, Any]:
    """What the snippets of a page take from the reader."""
    ids = torch.randint(0, 26, (2, 24))
    names: dict[str, Any] = {"subquad": subquad, "torch": torch, "ids": ids, "input_ids": ids, "mask": torch.ones_like(ids)}
    names |= {"texts": ["a text", "another"], "x": torch.randn(2, 4096, dtype=torch.complex64)}
    if page in ("README.md", "official.md"):
        import json

        names |= {"config": json.loads(Path("config.json").read_text()), "state": torch.load("weights.ckpt", weights_only=True)}
    if page == "hyena.md":
        names["model"] = subquad.build("hyena-tiny", {"max_len": 2048}).eval()
    if page == "inference.md":
        make_run("runs/books")
        names["model"] = subquad.load("runs/books")
    return names


def run_snippet(block: Block, names: dict[str, Any], page: Path) -> None:
    for name in re.findall(r'(?:load\(|init=)"(runs/[\w-]+)"', block.text):
        make_run(name)
    code = compile("\n" * (block.line - 1) + block.text, str(page), "exec")
    exec(code, names)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_what_a_page_shows_runs(page: Path, workspace: Path, capfd: pytest.CaptureFixture[str]) -> None:
    names = names_of(page.name)
    for block in blocks(page):
        if block.language == "sh":
            for command in filter(is_run, block.commands):
                run_command(command)
        elif block.language == "python":
            run_snippet(block, names, page)
        elif block.language == "yaml":
            (workspace / "experiment.yaml").write_text(block.text, encoding="utf-8")
            run_command("subquad compare experiment.yaml --out runs/experiment")


def test_every_block_says_its_language_and_every_exception_is_used() -> None:
    shown = [(page.name, block) for page in PAGES for block in blocks(page)]
    assert {block.language for _, block in shown} <= {"sh", "python", "yaml", "text"}
    commands = [command for _, block in shown if block.language == "sh" for command in block.commands]
    assert [start for start in NOT_RUN if not any(command.startswith(start) for command in commands)] == []
    assert sum(map(is_run, commands)) > 50
