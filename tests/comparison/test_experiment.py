"""Experiment files: errors, names of earlier versions, paths, other data, the quick version."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from subquad.comparison.experiment import Experiment, expand_paths, quick_version, read_experiment, with_data
from subquad.config import parse
from subquad.data.sets import data_sets


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"budget": {"bytes": 640, "flops": 1e9}}, "exactly one of them"),
        ({"budget": None}, "give all of them"),
        ({"data": {}}, "give all of them"),
        ({"score": ["sliding"]}, "must include 'basic'"),
        ({"rates": {"among": [0.1], "data": "txt"}}, "did you mean 'text'"),
        ({"models": {"a": {"preset": "megabyte-tiny", "config": {}}}}, "a preset or by a config"),
        ({"models": {"a": {"preset": "megabyte-tiny", "solve": {"like": "b", "among": {"max_len": [1]}}}}}, "is not one of the models"),
        ({"models": {"a": {"preset": "transformer-tiny", "tokens": 300}}}, "a budget of bytes does not apply"),
        ({"models": {}}, "models to train, or costs to count"),
        ({"sedes": [1]}, "did you mean 'seeds'"),
        ({"seeds": [1, 1]}, "seeds has a value twice"),
        ({"reference": "gpt"}, "reference names 'gpt', which is not one of the models"),
    ],
)
def test_a_wrong_experiment_is_an_error_that_says_what_to_do(values: dict[str, Any], change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        parse(Experiment, values | change)


@pytest.mark.parametrize("content", ["", "- a\n", "a: [", "title: x\n"])
def test_a_file_that_is_not_an_experiment_is_an_error(tmp_path: Path, content: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(content)
    with pytest.raises(ValueError, match="expected a mapping|cannot be read as YAML|is missing"):
        read_experiment(path)
    with pytest.raises(ValueError, match="there is no file"):
        read_experiment(tmp_path / "none.yaml")


def test_the_standard_library_and_data_sets_are_found_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SUBQUAD_DATA", str(tmp_path))
    assert Path(expand_paths(["{stdlib}/ast.py"])[0]).is_file()
    with pytest.raises(ValueError, match=r"the data set 'text/pg_books' is not in .*: fetch it with subquad data fetch text/pg_books"):
        expand_paths(["text/pg_books:*.xz"])
    (tmp_path / "text/pg_books").mkdir(parents=True)
    name = data_sets()["text/pg_books"]["files"][0]["name"]
    (tmp_path / "text/pg_books" / name).write_bytes(b"x")
    assert expand_paths(["text/pg_books:"]) == [str(tmp_path / "text/pg_books" / name)]
    assert expand_paths(["text/pg_books:*.xz"]) == [f"{tmp_path}/text/pg_books/*.xz"]


def test_other_data_and_the_quick_version_keep_the_rest(experiment: Experiment) -> None:
    other = with_data(experiment, {"text": ["a", "b"]})
    assert other.data["text"].paths == ("a", "b")
    assert other.data["text"].score_bytes == experiment.data["text"].score_bytes
    with pytest.raises(ValueError, match="did you mean 'text'"):
        with_data(experiment, {"texts": ["a"]})
    quick = quick_version(experiment)
    assert quick.models == experiment.models
    assert quick.seeds == (0,)
    assert quick.budget is not None and quick.budget.bytes == quick.quick.bytes


def test_keys_of_earlier_versions_are_read(values: dict[str, Any]) -> None:
    values["data"]["moods"] = {"paths": "moods.tsv", "labels": {"steps": 1, "begin": "text"}}
    labels = parse(Experiment, values).data["moods"].labels
    assert labels is not None and labels.init == "text"
