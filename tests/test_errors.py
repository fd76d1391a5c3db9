"""The sentences that errors share."""

import pytest

from salhub.errors import MissingExtraError, did_you_mean, require_extra


def test_near_names_are_suggested_and_far_ones_are_not():
    assert did_you_mean("norm_gard", ["norm_grad", "cam"]) == " Did you mean 'norm_grad'?"
    assert did_you_mean("zzz", ["norm_grad", "cam"]) == ""


def test_a_missing_extra_names_its_install_line():
    with pytest.raises(MissingExtraError, match=r"pip install 'salhub\[demo\]'"):
        require_extra("no_such_module_anywhere", "demo")


def test_an_installed_extra_is_returned():
    assert require_extra("json", "demo").dumps([]) == "[]"
