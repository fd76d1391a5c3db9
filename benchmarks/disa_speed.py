"""How long a step and an answer of DiSa take beside what they cannot do without, and its size."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPConfig, CLIPModel

from benchmarks.interleaved import Contender, median_ratio, race
from benchmarks.report import Requirement
from salhub.models.disa.configuration_disa import DiSaConfig
from salhub.models.disa.modeling_disa import DiSaForImageClassification
from salhub.models.disa.prompted_clip import sizes_of
from salhub.models.disa.saliency_masking import kept_count
from salhub.results import Results, Table

STEP, ANSWER, FILE = 1.1, 1.1, 200_000
_BATCH, _CLASSES, _TOKENS = 8, 20, 10
_WIDTH, _LAYERS, _HEADS = 384, 6, 6


class _WordsOfTen:
    """Stands in for a tokenizer: every text has ten tokens, the last one its end."""

    pad_token_id = 0

    def __call__(self, texts: Any, **_: Any) -> dict[str, Any]:
        """Tokens of texts, or of one."""
        if isinstance(texts, str):
            return {"input_ids": [1, 2, 3, 4]}
        return {"input_ids": [self._ten(text) for text in texts]}

    @staticmethod
    def _ten(text: str) -> list[int]:
        # Classes are told apart by their number.
        tens, ones = divmod(int("".join(filter(str.isdigit, text))), 10)
        return [1, 5 + tens, 5 + ones, 7, 8, 9, 10, 11, 12, 99]


def random_clip() -> CLIPModel:
    """A CLIP of the kind of ViT-B/16, half as wide and half as deep, with random weights."""
    torch.manual_seed(0)
    both = {
        "hidden_size": _WIDTH, "intermediate_size": 4 * _WIDTH, "num_hidden_layers": _LAYERS,
        "num_attention_heads": _HEADS,
    }  # fmt: skip
    text = {**both, "vocab_size": 100, "eos_token_id": 99, "bos_token_id": 1, "pad_token_id": 0}
    vision = {**both, "image_size": 224, "patch_size": 16}
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=256)).eval()


def add_speed(results: Results, rounds: int) -> list[Requirement]:
    """Time a step, its passes, an answer and the plain CLIP in turns, and measure the file."""
    clip = random_clip()
    names = [f"class {number}" for number in range(_CLASSES)]
    model = DiSaForImageClassification.from_base(
        clip, tokenizer=_WordsOfTen(), class_names=names, n_ctx_text=4, ctx_init=None
    )
    generator = torch.Generator().manual_seed(0)
    pixels = torch.randn(_BATCH, 3, 224, 224, generator=generator)
    labels = torch.arange(_BATCH) % _CLASSES
    model.set_prototypes(torch.randn(_CLASSES, 256, generator=generator))

    def step() -> None:
        model.zero_grad()
        model(pixels, labels=labels).loss.backward()

    patches = (224 // 16) ** 2
    passes = {
        "frozen pass": _frozen(clip, pixels),
        "pass over the texts": _layers(clip.text_model, (_CLASSES, _TOKENS), is_causal=True),
        "pass over all patches": _layers(clip.vision_model, (_BATCH, 1 + patches + 4)),
        "pass over the kept patches": _layers(
            clip.vision_model, (_BATCH, 1 + kept_count(patches, 0.3) + 4)
        ),
    }
    with torch.no_grad():
        model.encode_classes(prompted=False)

    def answer() -> Tensor:
        with torch.no_grad():
            return model(pixels).logits

    contenders = [
        Contender("step of DiSa", step),
        *(Contender(name, run) for name, run in passes.items()),
        Contender("answer of DiSa", answer),
        Contender("plain CLIP", _plain(clip, pixels, names)),
    ]
    found = race(contenders, rounds=rounds, title="disa")
    sums = [sum(times) for times in zip(*(found.cpu[name] for name in passes), strict=True)]
    of_step = median_ratio(found.cpu["step of DiSa"], sums)
    of_answer = found.ratio("answer of DiSa", "plain CLIP")
    rows: list[list[Any]] = [[one.name, found.seconds(one.name)] for one in contenders]
    results.tables.append(
        Table(
            "Time",
            f"Median CPU seconds of {rounds} rounds in turns, one thread, {_BATCH} pictures of 224 "
            f"pixels, {_CLASSES} classes of {_TOKENS} tokens, a CLIP of {_LAYERS} layers of "
            f"{_WIDTH} channels with random weights. Passes are the bare layers, forward and, but "
            "for the frozen one, backward to what comes in.",
            ["what", "seconds"],
            rows,
        )
    )
    size = adapter_bytes()
    results.add_metric("speed/step", of_step.value, interval=(of_step.low, of_step.high))
    results.add_metric("speed/answer", of_answer.value, interval=(of_answer.low, of_answer.high))
    results.add_metric("speed/file", size, unit="bytes")
    return [
        Requirement.of_ratio("step / sum of its passes", of_step, STEP),
        Requirement.of_ratio("answer / plain CLIP", of_answer, ANSWER),
        Requirement("bytes of prompts for ViT-B/16", size, FILE),
    ]


def adapter_bytes() -> float:
    """Bytes of the weight file of prompts for a CLIP of the size of ViT-B/16."""
    config = DiSaConfig(base_config=sizes_of(_vit_b16()))
    with tempfile.TemporaryDirectory() as folder:
        DiSaForImageClassification(config).save_pretrained(folder)
        return float(Path(folder, "model.safetensors").stat().st_size)


def _vit_b16() -> CLIPConfig:
    vision = {
        "hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12,
        "num_attention_heads": 12, "image_size": 224, "patch_size": 16,
    }  # fmt: skip
    return CLIPConfig(vision_config=vision, projection_dim=512)


def _frozen(clip: Any, pixels: Tensor) -> Callable[[], None]:
    def run() -> None:
        with torch.no_grad():
            clip.get_image_features(pixels)

    return run


def _layers(tower: Any, shape: tuple[int, int], **keywords: Any) -> Callable[[], None]:
    """The bare layers of an encoder, forward and backward to what comes in."""
    generator = torch.Generator().manual_seed(1)
    start = torch.randn(*shape, _WIDTH, generator=generator)

    def run() -> None:
        hidden = given = start.clone().requires_grad_()
        for layer in tower.encoder.layers:
            hidden = layer(hidden, None, **keywords)
        hidden[:, 0].sum().backward()
        assert given.grad is not None

    return run


def _plain(clip: Any, pixels: Tensor, names: list[str]) -> Callable[[], Tensor]:
    """Plain CLIP with the features of its texts at hand, as it is used for one class list."""
    ids = torch.tensor(_WordsOfTen()(names)["input_ids"])
    with torch.no_grad():
        texts = clip.get_text_features(input_ids=ids).pooler_output
        texts = texts / texts.norm(dim=-1, keepdim=True)

    def run() -> Tensor:
        with torch.no_grad():
            images = clip.get_image_features(pixels).pooler_output
            return clip.logit_scale.exp() * (images / images.norm(dim=-1, keepdim=True)) @ texts.T

    return run
