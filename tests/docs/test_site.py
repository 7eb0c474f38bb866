"""The manual as a whole: the API page is that of today's code, every model is named, every page is in the menu, links lead somewhere."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from subquad.layers.registry import MIXERS
from subquad.models import MODELS, PRESETS
from subquad.objectives import OBJECTIVES
from tests.docs import api_page
from tests.docs.pages import PAGES, ROOT

DOCS = ROOT / "docs"


def test_the_api_page_is_that_of_the_code() -> None:
    assert api_page.PAGE.read_text(encoding="utf-8") == api_page.page(), "python -m tests.docs.api_page"


def test_the_index_names_every_model_mixer_objective_and_family_of_presets() -> None:
    index = (DOCS / "index.md").read_text(encoding="utf-8")
    families = {re.sub(r"-(tiny|small|base|\d.*|arxiv.*|image.*|audio.*)$", "", name) for name in PRESETS}
    assert [name for name in [*MODELS, *MIXERS, *OBJECTIVES, *families] if f"`{name}" not in index] == []


def test_every_page_is_in_the_menu() -> None:
    class Loader(yaml.SafeLoader):
        pass

    menu = yaml.load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"), Loader)["nav"]
    assert {page for entry in menu for page in entry.values()} == {path.name for path in DOCS.glob("*.md")}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if target.startswith(("http:", "https:", "mailto:")):
            continue
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.exists(), target
        if anchor:
            headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
            assert anchor in {slug for heading in headings for slug in slugs(heading)}, target


def slugs(heading: str) -> tuple[str, str]:
    """The anchors that GitHub and Python-Markdown give to a heading: the second joins spaces."""
    text = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading)
    bare = re.sub(r"[^\w\s-]", "", text.lower()).strip()
    return bare.replace(" ", "-"), re.sub(r"[-\s]+", "-", bare)
