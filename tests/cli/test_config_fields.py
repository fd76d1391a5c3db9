"""Help of settings is the docstring of the configuration."""

import re

from salhub.cli.config_fields import config_fields, docstring_arguments
from salhub.entries import MODELS

from .conftest import LettersConfig


def test_help_is_read_from_the_docstring_over_several_lines():
    fields = {field.name: field for field in config_fields(LettersConfig(steps=[0.5]))}
    assert list(fields) == ["keep", "steps"]
    assert fields["keep"].help == "Which letters are kept, over two lines."
    assert (fields["keep"].kind, fields["keep"].value) == ("str", "vowels")
    assert fields["steps"].value == [0.5]


def test_fields_of_transformers_and_nested_configurations_are_left_out():
    assert LettersConfig.field_names() == {"keep", "steps"}
    for method in (entry for entry in MODELS.values() if entry.is_ours):
        assert {"backbone_config", "num_labels", "dtype"}.isdisjoint(
            method.config_class.field_names()
        )


def test_every_setting_of_every_method_has_help():
    for method in (entry for entry in MODELS.values() if entry.is_ours):
        for field in config_fields(method.config_class()):
            assert len(field.help) > 10, (method.name, field.name)
            assert not re.search(r"\[[A-Z][]:; ]", field.help), (method.name, field.name)


def test_a_docstring_without_arguments_has_none():
    assert docstring_arguments(test_a_docstring_without_arguments_has_none) == {}
