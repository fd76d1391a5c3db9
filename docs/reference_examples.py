"""Docstrings have one "Example" each; griffe shows a section of code where it says "Examples"."""

from typing import Any

import griffe


class Examples(griffe.Extension):
    """Renames the section while docstrings are collected."""

    def on_instance(self, *, obj: griffe.Object, **unused: Any) -> None:
        """Change the docstring of an object where it has one."""
        if obj.docstring is not None:
            obj.docstring.value = obj.docstring.value.replace("\nExample:\n", "\nExamples:\n")
