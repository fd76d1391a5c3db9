"""The sentences that errors share."""

import pytest

from salhub.errors import MissingExtraError, did_you_mean, require_extra


def test_near_names_are_suggested_and_far_ones_are_not():
    assert did_you_mean("norm_gard", ["norm_grad", "cam"]) == " Did you mean 'norm_grad'?"
    assert did_you_mean("zzz", ["norm_grad", "cam"]) == ""
    assert did_you_mean("text", ["date", "stars"]) == ""


def test_a_missing_extra_names_its_install_line():
    with pytest.raises(MissingExtraError, match=r"pip install 'salhub\[demo\]'"):
        require_extra("no_such_module_anywhere", "demo")


def test_an_installed_extra_is_returned():
    assert require_extra("json", "demo").dumps([]) == "[]"


@pytest.mark.parametrize(
    ("written", "options", "meant"),
    [
        ("lr", ["seed", "learning_rate", "lambda"], ["learning_rate"]),
        ("wd", ["num_workers", "weight_decay"], ["weight_decay"]),
        ("cat", ["crate", "oxcart", "tiger cat", "catamaran"], ["tiger cat"]),
        ("gradcam", ["normgrad", "gradcam-efficientnet-lite0"], ["gradcam-efficientnet-lite0"]),
        ("gradcam", ["cam", "grad_cam", "grad_cam_signed"], ["grad_cam"]),
        ("GradCam", ["grad_cam"], ["grad_cam"]),
        ("epochs", ["num_train_epochs", "epsilon"], ["num_train_epochs"]),
        ("persian", ["Persian cat", "siren"], ["Persian cat"]),
        ("resume", ["resume_from_checkpoint", "seed"], ["resume_from_checkpoint"]),
        ("mehtod", ["method", "meta_step"], ["method"]),
        ("method", ["method"], []),
        ("--", ["a"], []),
    ],
)
def test_what_is_meant_comes_before_what_is_spelled_alike(written, options, meant):
    hint = did_you_mean(written, options)
    assert hint.startswith(f" Did you mean '{meant[0]}'" if meant else "")
    assert [one for one in options if f"'{one}'" in hint] == sorted(meant, key=options.index)
