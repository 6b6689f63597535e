"""Geos: named groups of the vendor's regions."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from keyfold_server.domain.errors import InvalidNameError, UnknownGeoError
from keyfold_server.domain.geos import Geos

NAMES = st.sampled_from(["EU", "US", "AU", "ap-1", "eu-1", "eu-2", "us-1"])


@given(st.dictionaries(NAMES, st.lists(NAMES, max_size=4), max_size=6), st.frozensets(NAMES))
def test_a_geo_has_the_regions_whose_rows_name_it(
    rows: dict[str, list[str]], there: frozenset[str]
) -> None:
    """Each row counts for each geo that it names; no geo is without regions; all are sorted."""
    geos = Geos.of(rows)
    assert list(geos.table) == sorted({geo for named in rows.values() for geo in named})
    for geo in geos.table:
        regions = geos.regions(geo)
        assert regions == tuple(sorted(r for r, named in rows.items() if geo in named))
        assert regions
        lacking = geos.missing(geo, there)
        assert set(lacking).isdisjoint(there)
        assert set(lacking) | (there & set(regions)) == set(regions)


@given(st.frozensets(NAMES))
def test_an_unknown_geo(there: frozenset[str]) -> None:
    """It is an error to name one; a geo that has left the settings lacks nothing."""
    geos = Geos.of({"eu-1": ["EU"]})
    with pytest.raises(UnknownGeoError, match="there is no geo EMEA: the settings have EU") as seen:
        geos.regions("EMEA", "region_specs[0].geo")
    assert seen.value.field == "region_specs[0].geo"
    assert geos.missing("EMEA", there) == ()


def test_the_error_says_what_to_do() -> None:
    """Without any geo the message says where geos come from; with many it stays short."""
    with pytest.raises(UnknownGeoError, match=r"have it added as geo to .* \[regions.NAME\]"):
        Geos().regions("EU")
    many = Geos.of({f"r-{i}": [f"G{i:02}"] for i in range(40)})
    with pytest.raises(UnknownGeoError, match="G09 and 30 more"):
        many.regions("EU")
    with pytest.raises(InvalidNameError):
        many.regions("E U")
