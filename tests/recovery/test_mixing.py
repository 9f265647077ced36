"""How much of each domain is read."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from optipfair.recovery.mixing import OFTEN, mixed


def test_shares_are_those_of_the_bundled_text_and_strangers_have_a_middle_one() -> None:
    sizes = dict.fromkeys(("prose", "fiction", "recipes"), 1000)
    assert mixed(260, sizes) == {"prose": 80, "fiction": 120, "recipes": 60}


def test_text_without_domains_is_read_whole() -> None:
    assert mixed(7, {"": 1}) == {"": 7}


@given(
    st.integers(0, 3000),
    st.dictionaries(
        st.sampled_from(["prose", "fiction", "math", "x", "y"]), st.integers(1, 300), min_size=1
    ),
)
def test_they_are_as_many_as_wanted_and_none_is_read_too_often(
    wanted: int, sizes: dict[str, int]
) -> None:
    found = mixed(wanted, sizes)
    assert sum(found.values()) == wanted and found.keys() == sizes.keys()
    if wanted <= OFTEN * sum(sizes.values()):
        assert all(found[name] <= OFTEN * size for name, size in sizes.items())
