"""What the tests of unlearning share: one archive and one classifier a session."""

import pytest

from tests.models.salun.small_archive import Small, make_small


@pytest.fixture(scope="session")
def small(tmp_path_factory) -> Small:
    return make_small(tmp_path_factory.mktemp("small"))
