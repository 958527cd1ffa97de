"""That «make mutants» can take each wall out: what it replaces is in the source, and once."""

import tomllib

import pytest
from support.session import CHECKOUT

MUTATIONS = tomllib.loads((CHECKOUT / "tests/mutations/containment.toml").read_text())["mutation"]


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation["wall"] for mutation in MUTATIONS])
def test_a_wall_is_where_it_is_taken_out(mutation):
    for change in [mutation, *mutation.get("also", [])]:
        assert (CHECKOUT / change["file"]).read_text().count(change["old"]) == 1, change
