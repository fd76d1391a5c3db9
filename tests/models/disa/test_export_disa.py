"""Prompts as a plain classifier, and as an ONNX file that another runtime reads."""

import pytest
import torch

from salhub.models.disa.modeling_disa import DiSaForImageClassification
from tests import small_clip
from tests.models.disa.small_disa import NAMES, pixels, small_model


@torch.no_grad()
def test_a_plain_classifier_gives_the_same_scores():
    model = small_model()
    classifier = model.export_classifier()
    torch.testing.assert_close(classifier(pixels()), model(pixels()).logits, atol=1e-5, rtol=1e-5)
    assert classifier.class_names == NAMES and classifier.image_size == 16
    assert not any("text" in name for name, _ in classifier.named_parameters())
    other = model.export_classifier(["red car", "cat"])
    expected = model(pixels(), class_names=["red car", "cat"]).logits
    torch.testing.assert_close(other(pixels()), expected, atol=1e-5, rtol=1e-5)
    frozen = small_model("zero_shot")
    torch.testing.assert_close(frozen.export_classifier()(pixels()), frozen(pixels()).logits)


def test_an_onnx_file_gives_the_same_scores(tmp_path):
    onnx_reference = pytest.importorskip("onnx.reference")
    pytest.importorskip("onnxscript")
    model = DiSaForImageClassification.from_base(
        small_clip.network(layers=2), tokenizer=small_clip.tokenizer(), class_names=NAMES
    )
    path = model.export_classifier().export_onnx(tmp_path / "classifier.onnx")
    session = onnx_reference.ReferenceEvaluator(str(path))
    for count in (1, 5):
        [found] = session.run(None, {"pixel_values": pixels(count).numpy()})
        with torch.no_grad():
            expected = model(pixels(count)).logits
        torch.testing.assert_close(torch.from_numpy(found), expected, atol=1e-4, rtol=1e-4)
