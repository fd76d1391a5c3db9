import pytest

from tests.models.slim_llm import compressing


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """A model and a text."""
    return compressing.save_sources(tmp_path_factory.mktemp("slim"))
