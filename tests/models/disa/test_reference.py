"""The encoders against hooks on an untouched CLIP, and every loss against slow arithmetic."""

import math
from contextlib import ExitStack, contextmanager

import pytest
import torch
import torch.nn.functional as F

from salhub.models.disa.class_texts import prompted_texts, tokens_of
from salhub.models.disa.losses import class_prototypes, directional
from salhub.models.disa.prompt_averaging import gaussian_weights
from salhub.models.disa.prompted_clip import encode_image, encode_text
from salhub.models.disa.saliency_masking import kept_patches, patch_scores
from tests import small_clip
from tests.models.disa.small_disa import NAMES, pixels, small_model, with_prototypes


@contextmanager
def hooked(clip, text_prompts, vision_prompts):
    """Prompts put into a CLIP by hooks, as the published code of the relatives puts them."""
    text, vision = clip.text_model, clip.vision_model

    def replace_input(module, inputs, keywords, output):
        count = text_prompts.shape[1]
        places = module.position_embedding.weight[1 : 1 + count]
        own = (text_prompts[0] + places).expand(len(output), -1, -1)
        return torch.cat([output[:, :1], own, output[:, 1 + count :]], 1)

    def append_input(module, inputs, keywords, output):
        return torch.cat([output, vision_prompts[0].expand(len(output), -1, -1)], 1)

    def replace_text(index):
        def hook(module, inputs, keywords):
            hidden, count = inputs[0].clone(), text_prompts.shape[1]
            hidden[:, 1 : 1 + count] = text_prompts[index]
            return (hidden, *inputs[1:]), keywords

        return hook

    def replace_vision(index):
        def hook(module, inputs, keywords):
            hidden, count = inputs[0].clone(), vision_prompts.shape[1]
            hidden[:, -count:] = vision_prompts[index]
            return (hidden, *inputs[1:]), keywords

        return hook

    handles = [
        text.embeddings.register_forward_hook(replace_input, with_kwargs=True),
        vision.embeddings.register_forward_hook(append_input, with_kwargs=True),
    ]
    for tower, prompts, make in (
        (text, text_prompts, replace_text),
        (vision, vision_prompts, replace_vision),
    ):
        for index in range(1, len(prompts)):
            layer = tower.encoder.layers[index]
            handles.append(layer.register_forward_pre_hook(make(index), with_kwargs=True))
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield clip


def class_ids(names=NAMES, length=None):
    model = small_model()
    ids = tokens_of(model.tokenizer, prompted_texts(names, model.config), names, 24)
    if length is None:
        return ids
    padding = model.tokenizer.pad_token_id
    return F.pad(ids, (0, length - ids.shape[1]), value=padding)


@pytest.mark.parametrize("depths", [(1, 1), (2, 3), (3, 2)])
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@torch.no_grad()
def test_prompted_encoders_are_those_of_hooks(depths, attention):
    clip = small_clip.network()
    clip.set_attn_implementation(attention)
    generator = torch.Generator().manual_seed(3)
    text = torch.randn(depths[0], 4, 24, generator=generator)
    vision = torch.randn(depths[1], 5, 32, generator=generator)
    ids, pictures = class_ids(length=24), pixels()
    with hooked(clip, text, vision):
        texts = clip.get_text_features(ids).pooler_output
        images = clip.get_image_features(pictures).pooler_output
    torch.testing.assert_close(encode_text(clip, ids, text), texts, atol=1e-6, rtol=1e-6)
    found = encode_image(clip, pictures, vision).image_embeds
    torch.testing.assert_close(found, images, atol=1e-6, rtol=1e-6)
    # And the prompts do something.
    assert float((clip.get_image_features(pictures).pooler_output - images).abs().max()) > 0.01


@torch.no_grad()
def test_without_prompts_the_encoders_are_those_of_transformers():
    clip, ids, pictures = small_clip.network(), class_ids(length=24), pixels()
    found = encode_text(clip, ids)
    torch.testing.assert_close(
        found, clip.get_text_features(ids).pooler_output, atol=1e-6, rtol=1e-6
    )
    found = encode_image(clip, pictures).image_embeds
    expected = clip.get_image_features(pictures).pooler_output
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_pictures_of_other_sizes_have_interpolated_positions():
    clip, pictures = small_clip.network(), pixels(2, (24, 12))
    expected = clip.get_image_features(pictures, interpolate_pos_encoding=True).pooler_output
    found = encode_image(clip, pictures)
    assert found.grid == (6, 3)
    torch.testing.assert_close(found.image_embeds, expected, atol=1e-6, rtol=1e-6)


@torch.no_grad()
def test_the_former_end_of_text_is_the_largest_token():
    clip, ids = small_clip.network(), class_ids(length=24)
    expected = encode_text(clip, ids)
    clip.text_model.eos_token_id = 2  # as the configuration of the published checkpoints has it
    torch.testing.assert_close(encode_text(clip, ids), expected)
    torch.testing.assert_close(
        clip.get_text_features(ids).pooler_output, expected, atol=1e-6, rtol=1e-6
    )


@torch.no_grad()
def test_trimmed_texts_are_those_of_full_length():
    model = small_model()
    short, full = class_ids(), class_ids(length=24)
    assert short.shape[1] < full.shape[1]
    clip, prompts = model.clip, model.text_prompts
    ends = (full == clip.text_model.eos_token_id).int().argmax(-1)
    tokens = clip.text_model.embeddings.token_embedding(full)
    tokens[:, 1:5] = prompts[0]
    hidden = clip.text_model.embeddings(inputs_embeds=tokens)
    for index, layer in enumerate(clip.text_model.encoder.layers):
        if 0 < index < len(prompts):
            hidden[:, 1:5] = prompts[index]
        hidden = layer(hidden, None, is_causal=True)
    hidden = clip.text_model.final_layer_norm(hidden)[torch.arange(len(full)), ends]
    expected = clip.text_projection(hidden)
    torch.testing.assert_close(encode_text(clip, short, prompts), expected, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_many_classes_pass_in_parts():
    model = small_model()
    ids = class_ids().repeat(70, 1)  # 280
    found = encode_text(model.clip, ids, model.text_prompts)
    torch.testing.assert_close(found[:4], encode_text(model.clip, ids[:4], model.text_prompts))
    torch.testing.assert_close(found[-4:], found[:4])


@pytest.mark.parametrize("ratio", [0.1, 0.5, 0.9])
@torch.no_grad()
def test_leaving_tokens_out_is_an_additive_mask(ratio):
    model, pictures = small_model(), pixels()
    scores = torch.rand(4, 16, generator=torch.Generator().manual_seed(2))
    keep = kept_patches(scores, ratio)
    dropped = encode_image(model.clip, pictures, model.vision_prompts, keep=keep).image_embeds
    ours = encode_image(
        model.clip, pictures, model.vision_prompts, keep=keep, mask_mode="attention"
    ).image_embeds
    # The same by transformers itself, with prompts by hooks.
    mask = torch.full((4, 1, 21, 21), -torch.inf)
    for row in range(4):
        mask[row, :, :, [0, *(keep[row] + 1).tolist(), 17, 18, 19, 20]] = 0
    with hooked(model.clip, model.text_prompts, model.vision_prompts) as clip:
        states = clip.vision_model(pictures, attention_mask=mask).pooler_output
        expected = clip.visual_projection(states)
    torch.testing.assert_close(dropped, expected, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(ours, expected, atol=1e-5, rtol=1e-5)
    full = encode_image(model.clip, pictures, model.vision_prompts).image_embeds
    assert float((dropped - full).abs().max()) > 0.01


@torch.no_grad()
def test_patches_without_content_keep_their_positions():
    model, pictures = small_model(), pixels(2)
    keep = torch.tensor([[0, 5], [3, 15]])
    emptied = (
        pictures.unflatten(2, (4, 4)).unflatten(4, (4, 4)).clone()
    )  # (B, 3, row, y, column, x)
    for row in range(2):
        for patch in range(16):
            if patch not in keep[row]:
                emptied[row, :, patch // 4, :, patch % 4] = 0
    blank = emptied.flatten(4, 5).flatten(2, 3)
    found = encode_image(model.clip, pictures, model.vision_prompts, keep=keep, mask_mode="zero")
    expected = encode_image(model.clip, blank, model.vision_prompts)
    torch.testing.assert_close(found.image_embeds, expected.image_embeds, atol=1e-5, rtol=1e-5)


@torch.no_grad()
def test_dense_features_and_attention_are_those_of_the_last_layer():
    clip, pictures = small_clip.network(), pixels(2)
    clip.set_attn_implementation("eager")
    output = clip.vision_model(pictures, output_attentions=True, output_hidden_states=True)
    found = encode_image(clip, pictures, with_patches=True, with_attention=True)
    attention = output.attentions[-1].mean(1)[:, 0, 1:]
    torch.testing.assert_close(found.cls_attention, attention, atol=1e-6, rtol=1e-5)
    layer = clip.vision_model.encoder.layers[-1]
    values = layer.self_attn.v_proj(layer.layer_norm1(output.hidden_states[-2]))
    states = clip.vision_model.post_layernorm(layer.self_attn.out_proj(values))
    expected = clip.visual_projection(states)[:, 1:]
    torch.testing.assert_close(found.patch_embeds, expected, atol=1e-6, rtol=1e-5)


@torch.no_grad()
def test_the_map_is_a_softmax_of_cosines_over_patches():
    clip = small_clip.network()
    features = encode_image(clip, pixels(2), with_patches=True, with_attention=True)
    texts = torch.randn(2, 16, generator=torch.Generator().manual_seed(1))
    found = patch_scores("text", features, texts, 0.07)
    for row in range(2):
        patches = features.patch_embeds[row]
        cosines = [
            float(patch @ texts[row] / patch.norm() / texts[row].norm()) for patch in patches
        ]
        powers = [math.exp(one / 0.07) for one in cosines]
        expected = torch.tensor([one / sum(powers) for one in powers])
        torch.testing.assert_close(found[row], expected, atol=1e-6, rtol=1e-4)
    torch.testing.assert_close(patch_scores("inverse", features, texts, 0.07), -found)
    product = patch_scores("text*cls", features, texts, 0.07)
    torch.testing.assert_close(product, found * features.cls_attention)


def test_equal_patches_are_kept_from_the_first_on():
    assert kept_patches(torch.ones(1, 8), 0.5).tolist() == [[0, 1, 2, 3]]
    assert kept_patches(torch.tensor([[0.0, 2.0, 1.0]]), 0.95).tolist() == [[1]]


# --- losses ---------------------------------------------------------------------------------------


def slow_terms(model, pictures, labels, names):
    """Every term by loops over pictures and classes, from features alone."""
    config, clip = model.config, model.clip
    scale = float(clip.logit_scale.exp())
    count, classes = len(pictures), len(names)
    G_p = [row / row.norm() for row in encode_text(clip, class_ids(names), model.text_prompts)]
    G_o = list(model.encode_classes(names, prompted=False))
    frozen = encode_image(clip, pictures, with_patches=True)
    f_o = [row / row.norm() for row in frozen.image_embeds]
    keep = kept_patches(
        patch_scores("text", frozen, torch.stack(G_o)[labels], config.saliency_temperature),
        config.mask_ratio,
    )
    full = encode_image(clip, pictures, model.vision_prompts).image_embeds
    part = encode_image(clip, pictures, model.vision_prompts, keep=keep).image_embeds
    f_p, f_m = ([row / row.norm() for row in one] for one in (full, part))

    def shares(feature, texts):
        powers = [math.exp(scale * float(feature @ text)) for text in texts]
        return [one / sum(powers) for one in powers]

    def kl(one, two):
        return sum(p * (math.log(p) - math.log(q)) for p, q in zip(one, two, strict=True))

    names_of_terms = ("score_regularisation", "cross_interactive", "directional", "image_l1")
    terms = dict.fromkeys(("cross_entropy", *names_of_terms), 0.0)
    for row in range(count):
        label, prototype = int(labels[row]), model.prototypes[int(labels[row])]
        terms["cross_entropy"] -= math.log(shares(f_p[row], G_p)[label]) / count
        terms["score_regularisation"] += kl(shares(f_o[row], G_o), shares(f_p[row], G_p)) / count
        terms["cross_interactive"] += kl(shares(f_m[row], G_o), shares(f_o[row], G_p)) / count
        cosine = float(f_p[row] @ prototype / prototype.norm())
        terms["directional"] += (1 - cosine) / count
        terms["image_l1"] += float((f_p[row] - f_o[row]).abs().mean()) / count
    terms["text_l1"] = (
        sum(float((a - b).abs().mean()) for a, b in zip(G_p, G_o, strict=True)) / classes
    )
    return terms


@torch.no_grad()
def test_every_loss_is_that_of_slow_arithmetic():
    model = with_prototypes(small_model(text_l1_weight=25.0, image_l1_weight=10.0))
    pictures, labels = pixels(), torch.tensor([0, 3, 1, 1])
    expected = slow_terms(model, pictures, labels, NAMES)
    output = model(pictures, labels=labels)
    assert output.losses.keys() == expected.keys()
    for name, value in expected.items():
        assert float(output.losses[name]) == pytest.approx(value, rel=2e-4, abs=1e-6), name
    weights = {"directional": 1.0, "text_l1": 25.0, "image_l1": 10.0}
    total = sum(weights.get(name, 1.0) * value for name, value in expected.items())
    assert float(output.loss) == pytest.approx(total, rel=2e-4)


@torch.no_grad()
def test_by_the_other_reduction_divergences_are_smaller_by_the_number_of_classes():
    inputs = {"pixel_values": pixels(), "labels": torch.tensor([0, 3, 1, 1])}
    whole, mean = (
        with_prototypes(small_model(kl_reduction=one))(**inputs).losses
        for one in ("batchmean", "numel")
    )
    for name in ("score_regularisation", "cross_interactive"):
        torch.testing.assert_close(mean[name] * len(NAMES), whole[name])
    torch.testing.assert_close(mean["cross_entropy"], whole["cross_entropy"])


def test_directions_have_no_length():
    features = F.normalize(torch.randn(3, 8, generator=torch.Generator().manual_seed(0)), dim=-1)
    own, center = 2 * features.roll(1, 0), torch.full((8,), 0.1)
    for row in range(3):
        one, two = features[row], own[row]
        cosine = float(one @ two / one.norm() / two.norm())
        assert float(directional(features, own, center, "origin")[row]) == pytest.approx(1 - cosine)
        one, two = one - center, two - center
        cosine = float(one @ two / one.norm() / two.norm())
        found = float(directional(features, own, center, "centered")[row])
        assert found == pytest.approx(1 - cosine, rel=1e-4)
        distance = float((features[row] - own[row]).abs().mean())
        found = float(directional(features, own, center, "l1")[row])
        assert found == pytest.approx(distance, rel=1e-5)
    scaled = directional(features, 5 * own, center, "origin")
    torch.testing.assert_close(scaled, directional(features, own, center, "origin"))


def gradients_of(term, **settings):
    model = with_prototypes(small_model(**settings))
    model.train()
    output = model(pixels(), labels=torch.tensor([0, 3, 1, 1]))
    output.losses[term].backward()
    return tuple(
        0.0 if prompts.grad is None else float(prompts.grad.abs().sum())
        for prompts in (model.text_prompts, model.vision_prompts)
    )


def test_each_side_of_the_crossed_pair_can_be_held_still():
    text, vision = gradients_of("cross_interactive")
    assert text > 0 and vision > 0
    assert gradients_of("cross_interactive", cir_stop_grad="left")[1] == 0
    assert gradients_of("cross_interactive", cir_stop_grad="right")[0] == 0
    text, vision = gradients_of("cross_interactive", cir_stop_grad="symmetric")
    assert text > 0 and vision > 0


def test_directions_teach_the_pictures_alone():
    text, vision = gradients_of("directional")
    assert text == 0 and vision > 0


def test_gradients_reach_only_prompts():
    model = with_prototypes(small_model(text_l1_weight=1.0, image_l1_weight=1.0)).train()
    before = {name: value.clone() for name, value in model.clip.state_dict().items()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    model(pixels(), labels=torch.tensor([0, 3, 1, 1])).loss.backward()
    optimizer.step()
    learned = {name for name, p in model.named_parameters() if p.grad is not None}
    assert learned == {"text_prompts", "vision_prompts"}
    # Of every layer.
    assert all(float(one.grad.abs().sum(dim=(1, 2)).min()) > 0
               for one in (model.text_prompts, model.vision_prompts))  # fmt: skip
    assert all(torch.equal(value, before[name]) for name, value in model.clip.state_dict().items())


def test_prototypes_are_means_of_each_class():
    features = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([1, 0, 1, 1, 0])
    found = class_prototypes(features, labels, 2)
    torch.testing.assert_close(found[0], (features[1] + features[4]) / 2)
    torch.testing.assert_close(found[1], (features[0] + features[2] + features[3]) / 3)
    with pytest.raises(ValueError, match="1 of 3 classes have no picture"):
        class_prototypes(features, labels, 3)


def test_epochs_weigh_as_a_gaussian_does():
    found = gaussian_weights(4, mean=3, std=1.0)
    powers = [math.exp(-((epoch - 3) ** 2) / 2) for epoch in (1, 2, 3, 4)]
    assert found == pytest.approx([one / sum(powers) for one in powers])
