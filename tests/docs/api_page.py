"""docs/api.md, made from the signatures and docstrings of the public names: ``python -m tests.docs.api_page`` writes it."""

from __future__ import annotations

import inspect
import re
from typing import Any

import subquad
from subquad.evaluation import ranking
from subquad.models.base import CausalModel, Model
from subquad.models.classifier import Classifier
from subquad.models.encoder import Encoder
from tests.docs.pages import ROOT

PAGE = ROOT / "docs" / "api.md"
MODELS: dict[type, tuple[str, ...]] = {
    Model: ("embeddings", "training_spans"),
    CausalModel: ("forward", "init_state", "prefill", "step"),
    Encoder: ("forward", "prepare"),
    Classifier: ("forward",),
}
RANKING = ("by_embedding", "by_score", "fused", "evaluate")
HEAD = """# API

The public names of `subquad`, from their docstrings. Everything else may change between versions. Errors: `ValueError` for a wrong request,
`RunError` (`subquad.errors`) for a run or a file that fails.
"""


def page() -> str:
    """The content of the page."""
    parts = [HEAD, "## Functions and results\n"]
    parts += [entry(f"subquad.{name}", getattr(subquad, name)) for name in sorted(subquad.__all__, key=str.lower) if name != "__version__"]
    parts.append("## Models\n\nWhat `build` and `load` return: an `nn.Module` with these methods.\n")
    for model, methods in MODELS.items():
        parts += [entry(model.__name__, model, bare=True), *(entry(f"{model.__name__}.{name}", getattr(model, name)) for name in methods)]
    parts.append("## Ranking\n\n`subquad.evaluation.ranking`, see [Retrieval](retrieval.md).\n")
    parts += [entry(f"ranking.{name}", getattr(ranking, name)) for name in RANKING]
    return "\n".join(parts)


def entry(name: str, value: Any, bare: bool = False) -> str:
    """A heading with the signature and the docstring; of a class also its properties."""
    text = [f"### `{name}`\n"]
    if not bare and callable(value):
        text.append(f"```text\n{name}{signature(value)}\n```\n")
    text.append(described(value))
    if isinstance(value, type) and not bare:
        properties = [(key, one) for key, one in vars(value).items() if isinstance(one, property) or hasattr(one, "func")]
        text += [f"- `{key}`: {described(one.fget if isinstance(one, property) else one.func)}" for key, one in properties]
    return "\n".join(text) + "\n"


def signature(value: Any) -> str:
    """As it is written in the source, one parameter a line where it is long."""
    found = inspect.signature(value)
    parameters = [parameter for parameter in found.parameters.values() if parameter.name != "self"]
    plain = str(found.replace(parameters=parameters)).replace("b''", '""').replace("'", "")
    plain = re.sub(r"ForwardRef\((.*?)\)", r"\1", re.sub(r"<function .*?>(?: at 0x\w+>)?", "...", plain))
    if len(plain) < 100:
        return plain
    inside, _, returned = plain.rpartition(")")
    return "(\n    " + re.sub(r", (?=\*|\w+: |\w+=)", ",\n    ", inside[1:]) + f",\n){returned}"


def described(value: Any) -> str:
    """A docstring as Markdown; roles and double backticks of reStructuredText become code."""
    text = inspect.getdoc(value) or ""
    text = re.sub(r":\w+:`~?([^`]+)`", lambda match: f"`{match[1].rpartition('.')[2]}`", text)
    return text.replace("``", "`")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
