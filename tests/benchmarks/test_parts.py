"""Planted parts: detectors of parts score nearer to the bound than textures, and no maps beat the parts' own places."""

from __future__ import annotations

import pytest

from benchmarks.parts import loss_of, planted


@pytest.mark.parametrize("seed", range(3))
def test_part_detectors_are_told_from_textures(seed: int) -> None:
    images, detectors, textures, best = planted(seed)
    lowest, parts, texture = (loss_of(maps) for maps in (best, detectors(images), textures(images)))
    assert lowest <= parts < texture - 0.5
