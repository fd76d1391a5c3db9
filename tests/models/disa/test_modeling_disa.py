"""Saving, loading and calling prompts; which bad input is refused, and how."""

import json
import logging

import pytest
import torch
from safetensors.torch import load_file
from transformers import CLIPModel, SiglipConfig, SiglipModel

from salhub.models.disa.configuration_disa import DiSaConfig
from salhub.models.disa.modeling_disa import DiSaForImageClassification
from tests import small_clip
from tests.models.disa.small_disa import (
    NAMES,
    base_folder,
    pixels,
    small_model,
    with_prototypes,
)
from tests.testers import BatchTester, SavingTester
from tests.testers.state import state_of


class TestDiSa(SavingTester, BatchTester):
    model_class = DiSaForImageClassification
    shipped = ("salhub/disa-tiny-clip-cifar10",)
    half_tolerance = 0.05

    def config(self):
        return small_model().config

    def model(self):
        return small_model()

    def inputs(self):
        return {"pixel_values": pixels(), "return_saliency": True}

    def batch_size(self):
        return 4

    def bad_inputs(self):
        labels = torch.tensor([0, 1, 2, 3])
        return [
            ({"pixel_values": torch.zeros(3, 16, 16)}, ValueError, r"expected \(B, 3, H, W\)"),
            ({"pixel_values": torch.full((1, 3, 16, 16), torch.nan)}, ValueError, "contain NaN"),
            (
                {"labels": labels[:2]},
                ValueError,
                r"labels must be a tensor of one number per picture, \(4,\), got",
            ),
            ({"labels": [0, 1, 2, 3]}, ValueError, r"\(4,\), got list"),
            ({"labels": labels.float()}, TypeError, "labels must be whole numbers"),
            ({"pixel_values": torch.zeros(0, 3, 16, 16)}, ValueError, r"expected \(B, 3, H, W\)"),
            ({"pixel_values": torch.zeros(1, 3, 3, 16)}, ValueError, "has patches of 4 x 4"),
            ({"pixel_values": torch.zeros(1, 3, 16, 16).byte()}, TypeError, "floating point"),
            ({"pixel_values": torch.full((1, 3, 16, 16), -torch.inf)}, ValueError, "infinite"),
            (
                {"class_names": ["Cat", "cat"]},
                ValueError,
                "' apart; give each class a distinct name",
            ),
            ({"labels": labels + 1}, ValueError, r"labels must be in \[0, 4\)"),
            ({"labels": labels}, ValueError, "needs a prototype of each of the 4 classes"),
            ({"class_names": []}, ValueError, "class_names has no name"),
            ({"class_names": ["cat", " "]}, ValueError, "class_names has a blank name"),
            ({"class_names": ["cat", 3]}, ValueError, "class_names must be texts, got 3"),
            ({"class_names": "cat"}, TypeError, "class_names must be a list of texts"),
            ({"class_names": ["sea_bird", "sea bird"]}, ValueError, "has 'sea_bird' twice"),
            ({"class_names": ["cat", "zebra " * 9]}, ValueError, "'zebra zebra.*' is too long"),
        ]

    def test_a_batch_gives_what_its_items_give(self):
        # The features of the classes belong to no picture.
        model = self.model()
        together = model(pixels(), return_saliency=True)
        for row in range(4):
            alone = model(pixels()[row : row + 1], return_saliency=True)
            for name in ("logits", "image_embeds", "saliency"):
                torch.testing.assert_close(
                    alone[name][0], together[name][row], atol=1e-5, rtol=1e-5
                )


# --- files ----------------------------------------------------------------------------------------


def test_only_prompts_are_saved(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path)
    saved = load_file(tmp_path / "model.safetensors")
    assert {name: tuple(value.shape) for name, value in saved.items()} == {
        "text_prompts": (3, 4, 24),
        "vision_prompts": (3, 4, 32),
    }
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["base_model_name_or_path"] == str(base_folder())
    assert model.num_parameters(only_trainable=True) == 3 * 4 * (24 + 32)


def test_prompts_for_vit_b_16_take_less_than_200_kb(tmp_path):
    sizes = {
        "text_hidden_size": 512, "text_layers": 12, "vocab_size": 49408,
        "max_position_embeddings": 77, "vision_hidden_size": 768, "vision_layers": 12,
        "image_size": 224, "patch_size": 16, "projection_dim": 512,
    }  # fmt: skip
    model = DiSaForImageClassification(
        DiSaConfig(base_config=sizes, base_model_name_or_path="openai/clip-vit-base-patch16")
    )
    assert model.num_parameters() == 46_080
    model.save_pretrained(tmp_path)
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) <= 200_000


def test_a_base_beside_the_prompts_needs_no_other_place(tmp_path):
    model = small_model()
    model.save_pretrained(tmp_path / "whole", save_base=True)
    assert model.config.base_model_name_or_path == str(base_folder())
    moved = (tmp_path / "whole").rename(tmp_path / "moved")
    loaded = DiSaForImageClassification.from_pretrained(moved)
    torch.testing.assert_close(loaded(pixels()).logits, model(pixels()).logits)


def test_many_sets_of_prompts_share_one_clip(tmp_path, monkeypatch):
    one, two = small_model(), small_model(seed=4, class_names=["house", "red car"])
    expected = [model(pixels()).logits for model in (one, two)]
    for name, model in (("one", one), ("two", two)):
        model.save_pretrained(tmp_path / name)
    made, build = [], CLIPModel.__init__
    monkeypatch.setattr(CLIPModel, "__init__", lambda *a, **k: made.append(1) or build(*a, **k))
    model = DiSaForImageClassification.from_pretrained(tmp_path / "one")
    model.load_adapter(tmp_path / "two", "cars")
    assert made == [1]
    assert (model.active_adapter, model.adapter_names) == ("default", ["default", "cars"])
    torch.testing.assert_close(model(pixels()).logits, expected[0])
    model.set_adapter("cars")
    torch.testing.assert_close(model(pixels()).logits, expected[1])
    assert model.config.class_names == ["house", "red car"]
    model.set_adapter("default")
    torch.testing.assert_close(model(pixels()).logits, expected[0])
    with pytest.raises(ValueError, match="no prompts called 'bars'; there are default, cars"):
        model.set_adapter("bars")
    with pytest.raises(ValueError, match="called 'cars' already"):
        model.load_adapter(tmp_path / "two", "cars")
    shared = DiSaForImageClassification.from_pretrained(tmp_path / "two", base_model=model.clip)
    assert shared.clip is model.clip


def test_prototypes_are_saved_where_there_are_any(tmp_path):
    model = with_prototypes(small_model())
    model.save_pretrained(tmp_path)
    loaded = DiSaForImageClassification.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded.prototypes, model.prototypes)
    model.set_prototypes(None)
    model.save_pretrained(tmp_path)
    assert DiSaForImageClassification.from_pretrained(tmp_path).prototypes is None


# --- another base ---------------------------------------------------------------------------------


def test_prompts_for_another_base_are_refused(tmp_path):
    small_model().save_pretrained(tmp_path)
    other = small_clip.network(layers=2)
    with pytest.raises(
        ValueError,
        match=r"text_layers 2 instead of 3, vision_layers 2 inst",
    ):
        DiSaForImageClassification.from_pretrained(tmp_path, base_model=other)
    with pytest.raises(TypeError, match="be a loaded CLIPModel, got str; load it with CLIPModel"):
        DiSaForImageClassification.from_pretrained(tmp_path, base_model="clip")


def test_other_weights_of_the_same_sizes_are_said(tmp_path, caplog):
    small_model().save_pretrained(tmp_path)
    DiSaForImageClassification.from_pretrained(tmp_path, base_model=small_clip.network())
    DiSaForImageClassification.from_pretrained(tmp_path, base_model=small_clip.network().bfloat16())
    assert not caplog.records
    DiSaForImageClassification.from_pretrained(tmp_path, base_model=small_clip.network(seed=1))
    assert "was made for other weights, perhaps another revision of" in caplog.text


def test_other_kinds_of_bases_are_refused(tmp_path):
    layer = {"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 1}
    config = SiglipConfig(text_config={**layer, "vocab_size": 9}, vision_config=layer)
    with pytest.raises(ValueError, match="SiglipModel is not a CLIPModel with a"):
        DiSaForImageClassification.from_base(SiglipModel(config))
    config.save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="' is a model of type 'siglip', but prompts need a"):
        DiSaForImageClassification.from_base(tmp_path)


def test_prompts_without_a_base_say_so(tmp_path):
    model = DiSaForImageClassification(small_model().config)
    with pytest.raises(ValueError, match="The prompts have no CLIP yet"):
        model(pixels())
    with pytest.raises(ValueError, match="The configuration does not name its CLIP; start with"):
        DiSaForImageClassification(DiSaConfig())
    unnamed = DiSaForImageClassification.from_base(
        small_clip.network(), tokenizer=small_clip.tokenizer()
    )
    unnamed.save_pretrained(tmp_path)
    with pytest.raises(
        ValueError, match="' do not say which CLIP they belong to; load it and give"
    ):
        DiSaForImageClassification.from_pretrained(tmp_path)


# --- settings -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"mask_ratio": 1.0}, r"mask_ratio must be at least 0 and below 1, got 1.0"),
        ({"mask_ratio": -0.1}, r"mask_ratio must be at least 0"),
        ({"prompt_depth_vision": 4}, "prompt_depth_vision is 4, but the base has 3 layers"),
        ({"ctx_init": "a photo"}, r"ctx_init 'a photo' is 2 tokens, but n_ctx_text is 4"),
        ({"n_ctx_text": 0}, "n_ctx_text is 0 and prompt_depth_text is"),
        ({"templates": ["a photo"]}, "templates must be sentences with one {} for the class"),
        ({"direction": "middle"}, "direction must be one of"),
        ({"lambda_dri": 1.0}, "Did you mean 'lambda_dir'"),
        ({"class_names": ["cat", "cat"]}, "has 'cat' twice"),
    ],
)
def test_bad_settings_are_refused(settings, message):
    with pytest.raises((ValueError, TypeError), match=message):
        DiSaForImageClassification.from_base(base_folder(), **settings)


def test_an_unknown_preset_is_refused():
    with pytest.raises(ValueError, match="Did you mean 'ivlp'"):
        DiSaForImageClassification.from_base(base_folder(), "ivpl")


def test_presets_have_the_terms_of_their_papers():
    labels = torch.tensor([0, 3, 1, 1])
    terms = {
        "disa": {"cross_entropy", "score_regularisation", "cross_interactive", "directional"},
        "promptsrc": {"cross_entropy", "score_regularisation", "image_l1", "text_l1"},
        "ivlp": {"cross_entropy"},
        "coop": {"cross_entropy"},
        "zero_shot": {"cross_entropy"},
    }
    for preset, expected in terms.items():
        model = with_prototypes(small_model(preset))
        assert set(model(pixels(), labels=labels).losses) == expected
    assert small_model("coop").vision_prompts is None
    assert len(small_model("coop").text_prompts) == 1
    frozen = small_model("zero_shot", templates=["a photo of a {}."])
    torch.testing.assert_close(frozen(pixels()).logits, frozen.zero_shot_logits(pixels()))


def test_other_numbers_of_vectors_start_from_noise():
    model = DiSaForImageClassification.from_base(base_folder(), n_ctx_text=6, class_names=["cat"])
    assert model.config.ctx_init is None and model.text_prompts.shape[1] == 6
    assert model(pixels()).logits.shape == (4, 1)


def test_vectors_start_from_words():
    model = DiSaForImageClassification.from_base(base_folder())
    ids = model.tokenizer("a photo of a", add_special_tokens=False)["input_ids"]
    table = model.clip.text_model.embeddings.token_embedding.weight
    torch.testing.assert_close(model.text_prompts[0].detach(), table[ids])


# --- classes --------------------------------------------------------------------------------------


def test_classes_change_at_any_time():
    model = small_model()
    assert model(pixels()).logits.shape == (4, 4)
    two = model(pixels(), class_names=["red car", "old tree"]).logits
    assert model.config.class_names == NAMES
    model.set_classes(["red car", "old tree"])
    torch.testing.assert_close(model(pixels()).logits, two)
    with pytest.raises(ValueError, match="There are no classes to choose from"):
        small_model(class_names=None)(pixels())
    with pytest.raises(
        ValueError, match="labels are class indices, but there are no classes; give"
    ):
        small_model(class_names=None)(pixels(), labels=torch.zeros(4, dtype=torch.long))


def test_underscores_are_spaces():
    model = small_model()
    found = model.encode_classes(["sea_bird", "cat"])
    torch.testing.assert_close(found, model.encode_classes(["sea bird", "cat"]))


@torch.no_grad()
def test_features_of_classes_are_kept_until_something_changes(monkeypatch):
    model, calls = small_model(), []
    from salhub.models.disa import class_features as modeling_disa

    encode = modeling_disa.encode_text
    monkeypatch.setattr(
        modeling_disa, "encode_text", lambda *a, **k: calls.append(1) or encode(*a, **k)
    )
    for _ in range(3):
        before = model(pixels()).text_embeds
    assert len(calls) == 1
    model.text_prompts += 0.1
    assert float((model(pixels()).text_embeds - before).abs().max()) > 0
    assert len(calls) == 2
    model.clip.text_projection.weight *= 1.1
    model(pixels())
    assert len(calls) == 3
    model.zero_shot_logits(pixels())
    other = model.with_settings(templates=["a sketch of a {}."])
    other.zero_shot_logits(pixels())
    assert len(calls) == 5
    other.zero_shot_logits(pixels())
    assert len(calls) == 5


def test_tokens_may_take_the_place_of_names():
    model = small_model("ivlp")
    ids = model._ids_of([f"a photo of a {name}." for name in NAMES], NAMES)
    torch.testing.assert_close(model(pixels(), input_ids=ids).logits, model(pixels()).logits)
    whole = with_prototypes(small_model())
    with pytest.raises(ValueError, match="These losses need frozen texts, which classes given as"):
        whole(pixels(), input_ids=ids, labels=torch.zeros(4, dtype=torch.long))


def test_descriptions_take_the_place_of_templates():
    sentences = {name: [f"a drawing of the {name}.", f"a {name}."] for name in NAMES}
    model = small_model(class_descriptions=sentences)
    features = model.clip.get_text_features(
        model._ids_of(
            [s for own in sentences.values() for s in own], [n for n in NAMES for _ in "ab"]
        )
    ).pooler_output
    expected = torch.nn.functional.normalize(features.unflatten(0, (4, 2)).mean(1), dim=-1)
    torch.testing.assert_close(model.encode_classes(prompted=False), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="class_descriptions lacks 'red car'"):
        model.encode_classes(["cat", "red car"], prompted=False)


# --- training and maps ----------------------------------------------------------------------------


def test_one_class_alone_is_answered_and_not_learned():
    model = with_prototypes(small_model(class_names=["cat"]))
    assert model(pixels()).logits.shape == (4, 1)
    with pytest.raises(ValueError, match="There is only one class; give at least two"):
        model(pixels(), labels=torch.zeros(4, dtype=torch.long))


def test_without_hidden_patches_the_masked_pass_is_left_out():
    labels = torch.tensor([0, 3, 1, 1])
    plain = with_prototypes(small_model(mask_ratio=0.0))(pixels(), labels=labels)
    assert plain.keep_mask is None and plain.saliency is None
    none = with_prototypes(small_model(mask_schedule="none"))(pixels(), labels=labels)
    torch.testing.assert_close(none.loss, plain.loss)
    asked = with_prototypes(small_model())(pixels(), labels=labels, mask_ratio=0.0)
    torch.testing.assert_close(asked.loss, plain.loss)
    masked = with_prototypes(small_model())(pixels(), labels=labels)
    assert masked.keep_mask.sum(1).tolist() == [11] * 4
    changed = masked.losses["cross_interactive"] - plain.losses["cross_interactive"]
    assert float(changed.detach().abs()) > 0


@pytest.mark.parametrize("kind", ["text", "cls", "text*cls", "random", "inverse"])
def test_every_map_makes_a_mask(kind):
    model = with_prototypes(small_model(saliency=kind))
    output = model(pixels(), labels=torch.tensor([0, 3, 1, 1]))
    assert output.keep_mask.sum(1).tolist() == [11] * 4
    assert output.saliency.shape == (4, 4, 4)
    hidden = output.saliency.flatten(1)[~output.keep_mask]
    kept = output.saliency.flatten(1)[output.keep_mask]
    assert float(hidden.mean()) < float(kept.mean())


def test_a_single_pass_sees_masked_pictures_in_all_terms():
    labels = torch.tensor([0, 3, 1, 1])
    one = with_prototypes(small_model(single_pass=True))(pixels(), labels=labels)
    two = with_prototypes(small_model())(pixels(), labels=labels)
    assert float((one.image_embeds - two.image_embeds).detach().abs().max()) > 1e-3
    torch.testing.assert_close(one.losses["cross_interactive"], two.losses["cross_interactive"])


def test_features_that_are_known_save_the_frozen_pass(monkeypatch):
    from salhub.models.disa import loss_terms

    model, labels = with_prototypes(small_model()), torch.tensor([0, 3, 1, 1])
    expected = model(pixels(), labels=labels)
    frozen = model.encode_images(pixels(), prompted=False)
    calls, encode = [], loss_terms.encode_image
    monkeypatch.setattr(
        loss_terms, "encode_image", lambda *a, **k: calls.append(1) or encode(*a, **k)
    )
    found = model(
        pixels(),
        labels=labels,
        frozen_embeds=frozen,
        patch_scores=expected.saliency.flatten(1),
    )
    assert len(calls) == 2
    torch.testing.assert_close(found.loss, expected.loss)


def test_maps_are_of_any_words(caplog):
    model = small_model()
    named = model.saliency_map(pixels(), "cat")
    assert named.shape == (4, 4, 4) and float(named.min()) == 0 and float(named.max()) == 1
    other = model.saliency_map(pixels(), "a red car at sea")
    assert float((named - other).abs().max()) > 0
    each = model.saliency_map(pixels(), ["cat", "cat", "dog", "dog"])
    torch.testing.assert_close(each[:2], named[:2])
    with caplog.at_level(logging.WARNING):
        model.saliency_map(pixels(), "zebra " * 9)
    assert "tokens but this CLIP reads only" in caplog.text
    with pytest.raises(ValueError, match="Got 4 pictures and 2 texts; give one text for"):
        model.saliency_map(pixels(), ["cat", "dog"])
    with pytest.raises(ValueError, match="A map needs a text"):
        model.saliency_map(pixels(), " ")


def test_an_unknown_kind_of_map_is_refused():
    with pytest.raises(ValueError, match="kind must be one of text, cls"):
        small_model().saliency_map(pixels(), "cat", "attention")


def test_features_of_other_pictures_are_refused():
    model, labels = with_prototypes(small_model()), torch.tensor([0, 1, 2, 3])
    for given in ({"frozen_embeds": torch.zeros(3, 16)}, {"patch_scores": torch.zeros(4, 9)}):
        with pytest.raises(ValueError, match=rf"{next(iter(given))} must have shape \(4, 16\)"):
            model(pixels(), labels=labels, **given)


def test_prototypes_of_another_shape_are_refused():
    model = small_model()
    with pytest.raises(ValueError, match=r"must be a tensor \(classes, 16\), got \(4, 7\)"):
        model.set_prototypes(torch.zeros(4, 7))
    with pytest.raises(ValueError, match="no batches of pictures"):
        model.compute_prototypes([])


def test_whole_numbers_may_stand_for_weights():
    assert DiSaConfig(lambda_dir=1, mask_ratio=0, gpa_mean=15).lambda_dir == 1
    with pytest.raises(ValueError, match="mask_ratio must be at least 0 and below 1, got 1"):
        DiSaConfig(mask_ratio=1)
    for wrong in (True, "1"):
        with pytest.raises(TypeError, match="'lambda_dir' expected float"):
            DiSaConfig(lambda_dir=wrong)


def test_tokens_of_the_classes_are_read_once_by_all_steps(monkeypatch):
    model, labels, asked = with_prototypes(small_model()).train(), torch.tensor([0, 1, 2, 3]), []
    read = model._ids_of
    monkeypatch.setattr(model, "_ids_of", lambda *given: asked.append(1) or read(*given))
    for _ in range(3):
        model(pixels(), labels=labels)
    assert len(asked) == 2  # prompted once, and frozen once
    model.set_classes(["cat", "dog"])
    model(pixels())
    assert len(asked) == 4


def test_pixels_that_were_not_normalised_are_said(caplog):
    small_model()(torch.full((1, 3, 16, 16), 255.0))
    assert "pixel_values range from 255 to 255, so they do not look" in caplog.text


def test_the_clip_stays_in_evaluation_mode():
    model = small_model().train()
    assert model.training and not model.clip.training
    before = state_of(model)
    with_prototypes(small_model())
    model(pixels())
    assert state_of(model) == before
