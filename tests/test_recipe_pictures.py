"""Each recipe's page in the docs has its question and its expected picture, and the pictures are small."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from PIL import Image

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
RECIPES = sorted(path.stem for path in (ROOT / "recipes").glob("[!_]*.py"))
ELSEWHERE = ("explainer", "input_resampling", "multi_scale", "part_filters")
"""Recipes whose pictures are on the page of their metric."""


@pytest.mark.parametrize("recipe", RECIPES)
def test_a_recipe_has_a_question(recipe: str) -> None:
    assert re.search(
        rf"^\| .*`{recipe}`.* \| .+\? \| .+ \|$|^\| .*`{recipe}`.* \| the same for .+ \|$", PAGE, re.MULTILINE
    )


@pytest.mark.parametrize("recipe", [recipe for recipe in RECIPES if recipe not in ELSEWHERE])
def test_a_recipe_has_a_picture(recipe: str) -> None:
    name = f"images/recipes/{recipe.replace('_', '-')}.png"
    assert f"]({name})" in PAGE
    path = ROOT / "docs" / name
    assert path.stat().st_size < 60_000
    with Image.open(path) as picture:
        assert 500 <= picture.width <= 800


@pytest.mark.parametrize("recipe", ELSEWHERE)
def test_the_other_pictures_are_linked(recipe: str) -> None:
    row = re.search(rf"^\| `{recipe}` \| .+ \| \[.+\]\((\S+)#\S+\) \|$", PAGE, re.MULTILINE)
    assert row is not None
    assert "![" in (ROOT / "docs" / row[1]).read_text(encoding="utf-8")
