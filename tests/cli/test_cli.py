"""The command line in front of a stand-in for ``subquad.api``: what reaches it, what comes out, and every way to end badly."""

from __future__ import annotations

import io
import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

import subquad
from subquad.cli import MEMORY_ADVICE, VERBS, main
from subquad.cli.settings import parse_settings
from subquad.data.files import open_documents
from subquad.errors import RunError

Calls = list[tuple[str, tuple[Any, ...], dict[str, Any]]]


@dataclass
class Stub:
    """A stand-in for ``subquad.api`` that notes its calls; ``failure`` is raised by all of them."""

    calls: Calls = field(default_factory=list)
    failure: BaseException | None = None
    signal: int | None = None
    pieces: Iterable[bytes] = (b"one ", b"\xff\x00two")

    def note(self, name: str, answer: Callable[..., Any]) -> Callable[..., Any]:
        def called(*args: Any, **options: Any) -> Any:
            self.calls.append((name, args, options))
            if self.failure is not None:
                raise self.failure
            return answer(*args, **options)

        return called

    def module(self) -> ModuleType:
        module = ModuleType("subquad.api")
        answers: dict[str, Callable[..., Any]] = {
            "run_training": lambda model, data, out, options=None, **rest: SimpleNamespace(out=Path(out), signal=self.signal),
            "load": lambda path, device: "the model",
            "stream": lambda model, prompt, **options: iter(self.pieces),
            "read_documents": lambda paths, run, options: open_documents(paths, as_given=True).documents,
            "score": lambda model, data, **passes: _score(data if isinstance(data, bytes) else data.read().tobytes()),
            "total": lambda results: _score(bytes(sum(one.bytes for one in results))),
            "info": lambda run: {"run": str(run), "model": {"parameters": 1234567, "patch_size": 4}, "bits_per_byte": None},
            "model_table": lambda: [{"name": "megabyte-tiny", "parameters": 3456789, "flops_per_byte": 2.5e6, "max_len": 1024}],
        }
        for name, answer in answers.items():
            setattr(module, name, self.note(name, answer))
        return module


def _score(data: bytes) -> SimpleNamespace:
    bits = np.full(len(data), 2.0, dtype=np.float32)
    return SimpleNamespace(bits=bits, bytes=len(data), bits_per_byte=2.0 if data else None, word_perplexity=float("inf") if data else None)


@pytest.fixture
def stub(monkeypatch: pytest.MonkeyPatch) -> Stub:
    stub = Stub()
    module = stub.module()
    monkeypatch.setitem(sys.modules, "subquad.api", module)
    monkeypatch.setattr(subquad, "api", module, raising=False)
    return stub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train.yaml").write_text("steps: 3\n", encoding="utf-8")
    return folder


def sentence(capsys: pytest.CaptureFixture[str]) -> str:
    """The one line on stderr."""
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("subquad: ")
    return lines[0]


# train


def test_train_hands_everything_on(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(tmp_path / "out")
    settings = ["--set", "optim.lr=1e-3", "--set", "optim.betas=[0.9, 0.95]", "--set", "model.cross_patch=0"]
    (tmp_path / "other").mkdir()
    options = ["--steps", "7", "--device", "cpu", "--dtype", "float32", "--init", str(tmp_path / "other")]
    assert main(["train", "megabyte-tiny", "--data", "a", "b/*.txt", "--data", "-", "--out", out, *settings, *options]) == 0
    ((name, args, rest),) = stub.calls
    expected = {"optim.lr": 1e-3, "optim.betas": [0.9, 0.95], "model.cross_patch": 0, "steps": 7, "device": "cpu", "dtype": "float32"}
    assert (name, args) == ("run_training", ("megabyte-tiny", ["a", "b/*.txt", "-"], out, expected))
    assert rest == {"init": tmp_path / "other", "resume": False, "quiet": False}
    assert capsys.readouterr().out == f"{out}\n"


def test_a_training_that_a_signal_ended_says_so_with_its_status(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    stub.signal = 15
    assert main(["train", "x", "--data", "a", "--out", str(tmp_path / "out")]) == 143
    assert capsys.readouterr().out == ""


def test_quiet_says_nothing(stub: Stub, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "x", "--data", "a", "--out", str(tmp_path / "out"), "--quiet"]) == 0
    assert stub.calls[0][2]["quiet"] is True
    assert capsys.readouterr() == ("", "")


def test_resume_takes_model_and_data_from_the_run(stub: Stub, run: Path) -> None:
    assert main(["train", "--resume", "--out", str(run), "--steps", "9"]) == 0
    assert stub.calls == [("run_training", (None, None, str(run), {"steps": 9}), {"init": None, "resume": True, "quiet": False})]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["x", "--data", "a"], "--out is missing"),
        (["x", "--data", "a", "--out", "b", "--init", "none"], "there is no folder 'none'"),
        (["--data", "a", "--out", "new"], "name what to train"),
        (["x", "--out", "new", "--set", "lr"], "--set expects key=value, such as optim.lr=1e-3, got 'lr'"),
        (["x", "--out", "new", "--set", "=3"], "--set expects key=value"),
        (["x", "--out", "new", "--set", "a=1", "--set", "a=2"], "--set a is given twice"),
        (["x", "--out", "new", "--set", "a=[1"], "--set a expects a YAML value"),
        (["x", "--out", "new", "--set", "steps=1", "--steps", "2"], "--steps and --set steps are both given"),
        (["x", "--out", "new", "--steps", "many"], "expected a whole number, got 'many'"),
        (["x", "--out", "new", "--steps"], "argument --steps: expected one argument"),
        (["x", "--out", "--quiet"], "argument --out: expected one argument"),
        (["x", "--out", "--quite"], "argument --out: expected one argument"),
        (["x", "--ouf", "new"], "unknown option --ouf: did you mean '--out'?"),
        (["x", "--ouf=new"], "unknown option --ouf: did you mean '--out'?"),
        (["x", "--out", "new", "--res"], "unknown option --res: did you mean '--resume'?"),
        (["x", "y", "--out", "new"], "unexpected argument 'y'"),
        (["x", "--lr", "1e-3", "--out", "new"], "unknown option --lr: use --set optim.lr="),
        (["x", "--batch-size=4", "--out", "new"], "unknown option --batch-size: use --set batch="),
    ],
)
def test_wrong_training_is_one_sentence(stub: Stub, arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", *arguments]) == 2
    assert words in sentence(capsys)
    assert stub.calls == []


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("1e-3", 1e-3),
        ("-2E+4", -2e4),
        ("3", 3),
        ("0.5", 0.5),
        (".5e1", 5.0),
        ("true", True),
        ("null", None),
        ("", None),
        ("bfloat16", "bfloat16"),
        ("1e", "1e"),
        ("[3, 5, 7]", [3, 5, 7]),
        ("[1e-4, a]", [1e-4, "a"]),
        ("'1e-3'", "1e-3"),
        ("a=b", "a=b"),
    ],
)
def test_settings_are_yaml(text: str, value: object) -> None:
    assert parse_settings([f"some.key={text}"]) == {"some.key": value}


# generate


def test_generate_streams_bytes(stub: Stub, run: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    assert (
        main(["generate", str(run), "--prompt", "None", "--max-bytes", "9", "--top-p", "0.9", "--stop", "\n", "--stop", "é", "--utf8"]) == 0
    )
    assert capfdbinary.readouterr().out == b"one \xff\x00two"
    (_, loaded, _), (_, args, passed) = stub.calls
    assert loaded == (run, "auto")
    assert args == ("the model", b"None")
    assert passed == {"max_bytes": 9, "top_p": 0.9, "stop": [b"\n", "é".encode()], "utf8": True}


@pytest.mark.parametrize("text", ["-", "---", "-x", "- item", "--Ünlikely", "-1e-3", "a=b", ""])
def test_a_text_may_begin_with_a_dash(stub: Stub, run: Path, text: str) -> None:
    assert main(["generate", "--stop", text, str(run), "--prompt", text, "--stop=--seed", "--seed", "-1"]) == 0
    assert stub.calls[1] == ("stream", ("the model", text.encode()), {"stop": [text.encode(), b"--seed"], "utf8": False, "seed": -1})


def test_options_stand_anywhere(stub: Stub, run: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", "--sliding", str(run), files[0], "--overlap", "-1e3", files[1]]) == 2
    assert "--overlap: expected a whole number, got '-1e3'" in sentence(capsys)
    assert main(["score", "--sliding", str(run), files[0], "--overlap", "-1", files[1], "--device", "cpu", files[2]]) == 0
    assert next(args for name, args, _ in stub.calls if name == "load") == (run, "cpu")
    assert [args[1].name for name, args, _ in stub.calls if name == "score" and args[1]] == files
    assert stub.calls[-2][2].items() >= {"overlap": -1, "strided": False, "sliding": True}.items()


def test_generate_passes_every_option(stub: Stub, run: Path) -> None:
    numbers = {"temperature": 0.5, "top_k": 3, "top_p": 0.5, "min_p": 0.1, "repetition_penalty": 1.2, "seed": 4, "max_bytes": 1}
    flags = [word for name, value in numbers.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    assert main(["generate", str(run), *flags]) == 0
    assert stub.calls[1] == ("stream", ("the model", b""), {**numbers, "stop": None, "utf8": False})


def test_generate_reads_and_writes_files(stub: Stub, run: Path, tmp_path: Path, capfdbinary: pytest.CaptureFixture[bytes]) -> None:
    prompt, out = tmp_path / "prompt", tmp_path / "out"
    prompt.write_bytes(b"\x00\xff")
    assert main(["generate", str(run), "--prompt-file", str(prompt), "--out", str(out)]) == 0
    assert stub.calls[1][1] == ("the model", b"\x00\xff")
    assert out.read_bytes() == b"one \xff\x00two"
    assert capfdbinary.readouterr().out == b""


def test_generate_reads_stdin(stub: Stub, run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"from a pipe")))
    assert main(["generate", str(run), "--prompt-file", "-", "--out", "-"]) == 0
    assert stub.calls[1][1] == ("the model", b"from a pipe")


def test_a_failed_generation_leaves_the_old_file(stub: Stub, run: Path, tmp_path: Path) -> None:
    def break_off() -> Iterator[bytes]:
        yield b"half"
        raise RunError("no finite logit")

    stub.pieces = break_off()
    out = tmp_path / "out"
    out.write_bytes(b"old")
    assert main(["generate", str(run), "--out", str(out)]) == 1
    assert out.read_bytes() == b"old"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "run"]


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["generate", "nowhere"], 2, "there is no folder 'nowhere'"),
        (["generate"], 2, "RUN is missing: name a run folder"),
        (["generate", "RUN", "--prompt", "a", "--prompt-file", "b"], 2, "--prompt and --prompt-file are both given"),
        (["generate", "RUN", "--prompt-file", "nowhere"], 2, "there is no file 'nowhere'"),
        (["generate", "RUN", "--prompt-file", "RUN"], 2, "got the folder"),
        (["generate", "RUN", "--temperature", "hot"], 2, "expected a number, got 'hot'"),
        (["generate", "RUN", "--out", "nowhere/out"], 2, "there is no folder 'nowhere' to write 'out' in"),
        (["score", "RUN"], 2, "at least one file"),
        (["score", "RUN", "nowhere"], 2, "'nowhere' does not exist"),
        (["score", "nowhere", "-"], 2, "there is no folder 'nowhere'"),
        (["info", "nowhere"], 2, "there is no folder 'nowhere'"),
        (["models", "--jsn"], 2, "unknown option --jsn: did you mean '--json'? (see subquad models --help)"),
        (["convert", "a", "--padding", "x"], 2, "argument --padding: invalid choice: 'x'"),
        (["embed", "RUN", "a"], 2, "--out is missing"),
        (["trian"], 2, "unknown verb 'trian': did you mean 'train'?"),
    ],
)
def test_wrong_requests(stub: Stub, run: Path, arguments: list[str], status: int, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(run) if word == "RUN" else word for word in arguments]) == status
    assert words in sentence(capsys)


def test_a_repo_id_reaches_load(stub: Stub) -> None:
    assert main(["generate", "somebody/some-model"]) == 0
    assert stub.calls[0][1] == ("somebody/some-model", "auto")


# score


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    for name, size in (("a", 3), ("b", 0), ("c", 5)):
        (tmp_path / name).write_bytes(b"x" * size)
    return [str(tmp_path / name) for name in "abc"]


def test_score_as_json(stub: Stub, run: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(run), *files, "--overlap", "4", "--strided", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert [file["bits_per_byte"] for file in figures["files"]] == [2.0, None, 2.0]
    assert figures["files"][0] == {"file": files[0], "bytes": 3, "bits_per_byte": 2.0, "word_perplexity": None}
    assert figures["total"] == {"file": "all", "bytes": 8, "bits_per_byte": 2.0, "word_perplexity": None}
    assert stub.calls[0] == ("read_documents", (files, run, {}), {})
    assert [call[0] for call in stub.calls[1:]] == ["load", *["score"] * 4, "total"]
    assert stub.calls[3][1][1].name == files[0] and stub.calls[3][2].items() >= {"overlap": 4, "strided": True, "sliding": False}.items()


def test_score_as_a_table(stub: Stub, run: Path, files: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["score", str(run), *files]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [line[1:] for line in lines[1:]] == [["3", "2.0000", "-"], ["0", "-", "-"], ["5", "2.0000", "-"], ["8", "2.0000", "-"]]


def test_score_reads_stdin_and_writes_bits(
    stub: Stub, run: Path, files: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(b"12")))
    out = tmp_path / "bits.npy"
    assert main(["score", str(run), files[0], "-", "--bits-out", str(out)]) == 0
    assert [call[1][1].name for call in stub.calls if call[0] == "score" and call[1][1]] == [files[0], "-"]
    assert np.load(out).tolist() == [2.0] * 5


# info and models


def test_info(stub: Stub, run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["model"]["parameters"] == 1234567
    assert main(["info", str(run)]) == 0
    assert capsys.readouterr().out.splitlines() == [
        f"run: {run}",
        "model:",
        "  parameters: 1,234,567",
        "  patch_size: 4",
        "bits_per_byte: -",
    ]


def test_models(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    assert capsys.readouterr().out.splitlines()[1].split() == ["megabyte-tiny", "3.46M", "2.50M", "1,024"]
    assert main(["models", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["max_len"] == 1024


# ways to end


@pytest.mark.parametrize(
    ("failure", "status", "line"),
    [
        (RunError("the checkpoint is damaged"), 1, "subquad: the checkpoint is damaged"),
        (ValueError("expected two\n  lines"), 2, "subquad: expected two lines"),
        (OSError(28, "No space left on device", "f"), 1, "subquad: f: No space left on device"),
        (KeyError("x"), 1, "subquad: internal error: KeyError: 'x' (set SUBQUAD_DEBUG=1 for the traceback)"),
        (SystemExit("stop"), 1, "subquad: stop"),
        (MemoryError(), 1, f"subquad: out of memory (MemoryError): {MEMORY_ADVICE}"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: not enough memory: you tried 9 bytes\nframes"),
            1,
            f"subquad: out of memory ([enforce fail] DefaultCPUAllocator: not enough memory: you tried 9 bytes): {MEMORY_ADVICE}",
        ),
    ],
)
def test_every_failure_is_one_line(stub: Stub, failure: BaseException, status: int, line: str, capsys: pytest.CaptureFixture[str]) -> None:
    stub.failure = failure
    assert main(["models"]) == status
    assert capsys.readouterr() == ("", f"{line}\n")


def test_an_interrupt_is_quiet(stub: Stub, capsys: pytest.CaptureFixture[str]) -> None:
    stub.failure = KeyboardInterrupt()
    assert main(["models"]) == 130
    assert capsys.readouterr() == ("", "")


def test_debug_shows_the_traceback(stub: Stub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    stub.failure = KeyError("x")
    monkeypatch.setenv("SUBQUAD_DEBUG", "1")
    assert main(["models"]) == 1
    assert "Traceback" in capsys.readouterr().err


# help


@pytest.mark.parametrize("verb", VERBS)
def test_help_has_an_example_and_every_option(verb: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([verb, "--help"]) == 0
    help, error = capsys.readouterr()
    usage, rest = help.split("\n\n", 1)
    assert error == "" and usage.startswith(f"usage: subquad {verb} ")
    assert f"Example:\n  subquad {verb} " in rest
    listed = set(re.findall(r"^  (?:-\w(?: [\w.]+)?, )?(--[\w-]+)", rest, re.MULTILINE))
    assert listed >= {"--help", *re.findall(r"--[\w-]+", usage)}


def test_help_lists_the_verbs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    assert set(re.findall(r"^  (\w+)  ", capsys.readouterr().out, re.MULTILINE)) == set(VERBS)
    assert main([]) == 2
    assert "usage: subquad VERB" in capsys.readouterr().err
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"subquad {subquad.__version__}\n"


# the program itself


def program(*command: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, *command], stderr=subprocess.PIPE, text=True, timeout=60, check=False, **options)


def test_help_comes_at_once() -> None:
    """Neither torch nor pydantic, which take most of a second, are imported for it."""
    code = "; ".join(
        [
            "import sys",
            "from subquad.cli import VERBS, main",
            "statuses = [main(['--help']), *(main([verb, '--help']) for verb in VERBS)]",
            "assert not any(statuses)",
            "assert not {'torch', 'numpy', 'pydantic', 'yaml'} & set(sys.modules)",
        ]
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    done = program("-c", code, stdout=subprocess.DEVNULL)
    assert (done.returncode, done.stderr) == (0, "")
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before < 0.5  # 0.1 on an idle core


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_a_full_disk_is_one_line(arguments: list[str]) -> None:
    if not Path("/dev/full").exists():
        pytest.skip("needs /dev/full")
    with open("/dev/full", "w", encoding="utf-8") as full:
        done = program("-m", "subquad", *arguments, stdout=full)
    assert (done.returncode, done.stderr) == (1, "subquad: [Errno 28] No space left on device\n")


@pytest.mark.parametrize("arguments", [["--help"], ["train", "--help"]])
def test_a_reader_that_leaves_is_no_error(arguments: list[str]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    done = program("-m", "subquad", *arguments, stdout=writing)
    os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")
