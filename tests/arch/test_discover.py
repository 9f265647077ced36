"""What the structure of a model says agrees with what the table says."""

from __future__ import annotations

import pytest

from optipfair.arch.discover import discover
from optipfair.arch.families import FAMILIES
from optipfair.arch.view import describe
from optipfair.testing import TINY_FAMILIES, tiny_model
from support.walk import MODEL_TYPES


@pytest.mark.parametrize("family", TINY_FAMILIES)
def test_structure_finds_what_the_table_says(family: str) -> None:
    model = tiny_model(family)
    found = discover(model)
    assert found is not None
    assert found.layers == describe(model).layers_path
    assert found.layers_key == FAMILIES[family].layers_key
    listed = {mlp.spec.slots: mlp.spec.width_key for mlp in describe(model).mlps}
    assert {spec.slots: spec.width_key for spec in found.mlps} == listed


def test_a_width_that_is_a_multiple_of_its_field_follows_it() -> None:
    factors = {mlp.spec.width_factor for mlp in describe(tiny_model("recurrent_gemma")).mlps}
    assert {float(factor) for factor in factors} == {0.5}


@pytest.mark.skipif("zaya" not in MODEL_TYPES, reason="this transformers has no zaya")
def test_routers_and_norms_are_no_mlps() -> None:
    names = {mlp.spec.name for mlp in describe(tiny_model("zaya")).mlps}
    assert names == {"mlp.experts"}
