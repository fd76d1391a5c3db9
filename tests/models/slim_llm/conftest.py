import pytest

from tests.models.slim_llm import compressing


@pytest.fixture(autouse=True)
def known(monkeypatch):
    """The lines that `salhub.auto` gets with the first model that ships."""
    compressing.make_known(monkeypatch)


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, str]:
    """A model and a text."""
    return compressing.save_sources(tmp_path_factory.mktemp("slim"))
