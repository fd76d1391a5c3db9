"""What the results of pipelines on texts have in common: they are text, and can be a page."""

from abc import abstractmethod
from html import escape
from typing import ClassVar

from salhub.pipelines.result import PICTURE_SUFFIXES, PipelineResult

_PAGE = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>body {{ font: 1rem/1.6 system-ui, sans-serif; margin: 2rem auto; max-width: 45rem; \
padding: 0 1rem }}</style>
{body}
</html>
"""


class TextResult(PipelineResult):
    """Base of what a pipeline says of a text."""

    suffixes: ClassVar[tuple[str, ...]] = (".txt", ".html", *PICTURE_SUFFIXES, ".json")

    @property
    @abstractmethod
    def text(self) -> str:
        """What was said."""

    @abstractmethod
    def html(self) -> str:
        """Return the result as HTML; nothing in the text becomes markup."""

    def summary(self) -> str:
        """Return what was said."""
        return self.text

    def _encode(self, suffix: str, view: str) -> bytes:
        if suffix == ".txt":
            return f"{self.text}\n".encode()
        if suffix == ".html":
            return _PAGE.format(title=escape(type(self).__name__), body=self.html()).encode()
        return super()._encode(suffix, view)

    def _repr_html_(self) -> str:
        return self.html()
