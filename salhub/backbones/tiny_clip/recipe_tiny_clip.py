"""`salhub train tiny-clip`: a small CLIP with its own tokenizer, from scratch."""

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from salhub.backbones.text_classifier.recipe_text_classifier import save_in_half_precision
from salhub.backbones.tiny_clip.captions import Captions, imagenet_names
from salhub.backbones.tiny_clip.teaching import Embeddings, TaughtCLIP
from salhub.backbones.tiny_clip.tokenizer_tiny_clip import make_processor, train_tokenizer
from salhub.data.class_names import first_name
from salhub.data.labelled_pictures import PictureData
from salhub.data.picture_archive import PictureArchive, as_rgb, resize_bytes
from salhub.evaluation.zero_shot_image_classification import (
    add_accuracies,
    image_features,
    spoken_names,
    text_features,
)
from salhub.model_card import Facts
from salhub.results import Results
from salhub.runner.arguments import Scheduler, TrainingArguments, check_count, check_share
from salhub.runner.batches import Batch, generator_of
from salhub.runner.fine_tuning import data_name
from salhub.runner.image_classification import PictureArguments, augmented, draw_split
from salhub.runner.plan import count_steps
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe
from salhub.sentence_encoder import SentenceEncoder

USAGE = """
from transformers import CLIPModel, CLIPProcessor

model = CLIPModel.from_pretrained("{model}")
processor = CLIPProcessor.from_pretrained("{model}")
"""
# Draws of one step, beside those of `augmented`.
_KEEP, _CAPTIONS = 10, 11
# Weights of the losses beside that of the names.
_MEANING, _HYPERNYM, _WORDS = 0.5, 1 / 3, 1.0
_MOST_SCALE = 100.0
_TO_VALIDATE, _ROWS_TO_EVALUATE = 2000, 512


@dataclass(kw_only=True)
class TinyClipArguments(PictureArguments, TrainingArguments):
    """Options of `TinyClipRecipe`.

    Args:
        held_out_classes_every: Hold out one in every so many classes: neither its pictures nor
            captions with its names are used for training. 0 for none.
        num_train_images: Number of training pictures, the same for each class, drawn with the
            seed; None for all.
        num_test_images: Number of test pictures, drawn in the same way; None for all.
        train_val_split: Share of each class to hold out if the data have no validation or test
            part; 0 for none.
        text_teacher: A sentence encoder, as a folder or a name on the Hub, that teaches the
            meaning of names; None to train without. Only needed for training.
        words_per_step: With a teacher, number of ImageNet class names learned in a step without
            pictures.
        image_size: Side of the pictures, in pixels; the central square of other pictures is
            resized.
        patch_size: Side of a patch.
        hidden_size: Width of the image encoder.
        num_hidden_layers: Number of layers of the image encoder.
        num_attention_heads: Number of attention heads per layer of the image encoder.
        text_hidden_size: Width of the text encoder.
        text_num_hidden_layers: Number of layers of the text encoder.
        text_num_attention_heads: Number of attention heads per layer of the text encoder.
        projection_dim: Size of an embedding.
        vocab_size: Maximum number of tokens in the vocabulary.
        max_position_embeddings: Maximum number of tokens of a text.
        patch_dropout: Share of the patches dropped from each training picture.
        whole_share: Share of the steps, at the end, that use all patches.
        label_smoothing: Share of each label that is spread over all classes.
        weight_decay: Weight decay of the matrices.
    """

    held_out_classes_every: int = 10
    num_train_images: int | None = None
    num_test_images: int | None = None
    train_val_split: float = 0.15
    text_teacher: str | None = None
    words_per_step: int = 64
    image_size: int = 32
    patch_size: int = 4
    hidden_size: int = 128
    num_hidden_layers: int = 4
    num_attention_heads: int = 4
    text_hidden_size: int = 80
    text_num_hidden_layers: int = 2
    text_num_attention_heads: int = 4
    projection_dim: int = 96
    vocab_size: int = 1024
    max_position_embeddings: int = 32
    patch_dropout: float = 0.5
    whole_share: float = 0.1
    label_smoothing: float = 0.1
    weight_decay: float = 0.05
    batch_size: int = 256
    num_train_epochs: int = 12
    learning_rate: float = 1.5e-3
    lr_scheduler: Scheduler = "cosine"
    lr_warmup_steps: int = 200
    max_grad_norm: float | None = 1.0

    def validate(self) -> None:
        """Check the options of the network, and those of every run."""
        super().validate()
        sizes = (
            "image_size", "patch_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
            "text_hidden_size", "text_num_hidden_layers", "text_num_attention_heads",
            "projection_dim", "max_position_embeddings",
        )  # fmt: skip
        for name in sizes:
            check_count(name, getattr(self, name))
        check_count("words_per_step", self.words_per_step, 0)
        check_count("held_out_classes_every", self.held_out_classes_every, 0)
        if self.held_out_classes_every == 1:
            raise ValueError("held_out_classes_every must be 0, or 2 or more, got 1.")
        for name in ("patch_dropout", "whole_share", "label_smoothing", "train_val_split"):
            check_share(name, getattr(self, name))
        for name, parts in (
            ("image_size", "patch_size"),
            ("hidden_size", "num_attention_heads"),
            ("text_hidden_size", "text_num_attention_heads"),
        ):
            if getattr(self, name) % getattr(self, parts):
                raise ValueError(
                    f"{name} must be a multiple of {parts}, got {getattr(self, name)} and "
                    f"{getattr(self, parts)}."
                )
        if self.weight_decay < 0:
            raise ValueError(f"weight_decay must be 0 or more, got {self.weight_decay}.")


class TinyClipRecipe(TrainingRecipe):
    """Trains a small CLIP on labelled pictures with descriptive class names.

    Every step compares its pictures with one caption of every class. So no caption of another
    picture of the class counts as a wrong answer, as it does when the pairs of a batch are compared
    with each other. With a teacher, pictures are also compared with what the teacher makes of the
    names, and the tower for texts learns to say the same of names without pictures. The finished
    weights are rounded to the half precision that they are kept in.

    Example:
        >>> arguments = TinyClipArguments(output_dir="out", data="pictures")
        >>> TinyClipRecipe(arguments).arguments.patch_dropout
        0.5

    Source: Radford et al. 2021 (arXiv 2103.00020) for the model; Li et al. 2023 (arXiv 2212.00794)
    for leaving patches out. The losses are our own.
    """

    name = "tiny-clip"
    arguments_class = TinyClipArguments
    larger_is_better = True
    sources = {"data": "**", "text_teacher": "*.safetensors"}
    metric_words = {
        "accuracy/learned": "Accuracy on new pictures of learned classes: {}",
        "accuracy/unseen": "Accuracy on classes that it has never seen: {}",
    }

    def learned_options(self) -> dict[str, Any]:
        # Where files are does not matter, and what is in them does, see `sources`.
        options, teacher = super().learned_options(), self.arguments.text_teacher
        own = {"data": data_name(self.arguments.data)}
        return {**options, **own, "text_teacher": teacher and Path(teacher).name}

    def build_model(self) -> nn.Module:
        options = self.arguments
        data = options.read_pictures()
        self._choose(data)
        # Place of a class among those that are learned.
        self.places = torch.full((len(data.class_names),), -1)
        self.places[self.learned_classes] = torch.arange(len(self.learned_classes))
        learned = [data.class_names[index] for index in self.learned_classes.tolist()]
        has_words = options.text_teacher is not None and options.words_per_step > 0
        words = imagenet_names() if has_words else ()
        self.captions = Captions(learned, words)
        tokenizer = train_tokenizer(
            self.captions.texts(),
            options.vocab_size,
            model_max_length=options.max_position_embeddings,
        )
        self.captions.encode(tokenizer)
        self.processor = make_processor(tokenizer, options.image_size)
        preparation = self.processor.image_processor
        parts = {"train": self.split.train, "test": self.split.test}
        if len(self.split.validation):
            parts["validation"] = self.split.validation
        self.images = {name: _squares(data, at, preparation) for name, at in parts.items()}
        self.labels = {name: data.labels[places] for name, places in parts.items()}
        meanings = None
        if options.text_teacher is not None:
            teacher = SentenceEncoder(options.text_teacher, option="text_teacher")
            found = torch.from_numpy(teacher(self.captions.names))
            # What all names have in common says nothing.
            meanings = F.normalize(found - found.mean(0), dim=-1).float()
        return TaughtCLIP(self._network(tokenizer), meanings)

    def _choose(self, data: PictureData) -> None:
        """Which pictures and classes are learned."""
        self.class_names = data.class_names
        every, count = self.arguments.held_out_classes_every, len(data.class_names)
        is_unseen = torch.zeros(count, dtype=torch.bool)
        if every:
            is_unseen[every - 1 :: every] = True
        self.learned_classes = (~is_unseen).nonzero()[:, 0]
        self.unseen_classes = is_unseen.nonzero()[:, 0]
        if len(self.learned_classes) < 2:
            raise ValueError(f"{data.name} has {count} classes; at least 2 must be learned.")
        spoken_names(data.class_names)  # no two alike
        split = draw_split(data, self.arguments)
        kept = split.train[~is_unseen[data.labels[split.train]]]
        self.split = dataclasses.replace(split, train=kept)

    def _network(self, tokenizer: Any) -> CLIPModel:
        options = self.arguments
        ends = {
            "bos_token_id": tokenizer.bos_token_id,
            "eos_token_id": tokenizer.eos_token_id,
            "pad_token_id": tokenizer.pad_token_id,
        }
        text = {
            "vocab_size": len(tokenizer),
            "hidden_size": options.text_hidden_size,
            "intermediate_size": 4 * options.text_hidden_size,
            "num_hidden_layers": options.text_num_hidden_layers,
            "num_attention_heads": options.text_num_attention_heads,
            "max_position_embeddings": options.max_position_embeddings,
            "hidden_act": "gelu",
        }
        vision = {
            "image_size": options.image_size,
            "patch_size": options.patch_size,
            "hidden_size": options.hidden_size,
            "intermediate_size": 4 * options.hidden_size,
            "num_hidden_layers": options.num_hidden_layers,
            "num_attention_heads": options.num_attention_heads,
            "hidden_act": "gelu",
        }
        config = CLIPConfig(
            text_config={**text, **ends},
            vision_config=vision,
            projection_dim=options.projection_dim,
        )
        clip = CLIPModel(config)
        if options.mixed_precision != "no":
            # The gradient of torch's fused attention takes ten times as long in bfloat16 on a CPU.
            clip.set_attn_implementation("eager")
        return clip

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        options = self.arguments
        parameters = list(model.parameters())
        groups = [
            {"params": [p for p in parameters if p.ndim > 1], "weight_decay": options.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=options.learning_rate, betas=(0.9, 0.98), fused=True)

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.labels["train"]), self._fetch)]

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        options = self.arguments
        found = {
            "pixel_values": self._prepared(augmented(self.images["train"][batch.rows], batch)),
            "labels": self.places[self.labels["train"][batch.rows]],
        }
        patches = (options.image_size // options.patch_size) ** 2
        count = max(1, round((1 - options.patch_dropout) * patches))
        if count < patches and batch.step < self._first_whole_step:
            found["keep"] = batch.draw(
                lambda n, generator: (
                    torch.rand(n, patches, generator=generator).argsort(1)[:, :count].sort(1).values
                ),
                _KEEP,
            )
        # The same for all passes and processes of a step.
        generator = generator_of(batch.seed, batch.step, _CAPTIONS)
        captions = self.captions.draw(generator, options.words_per_step)
        sizes = torch.tensor(captions.sizes)
        return {**found, "input_ids": captions.input_ids, "names": captions.names, "sizes": sizes}

    @cached_property
    def _first_whole_step(self) -> int:
        return math.ceil((1 - self.arguments.whole_share) * count_steps(self))

    def _prepared(self, images: Tensor) -> Tensor:
        """Pictures of bytes (B, 3, H, W) as the processor prepares them."""
        preparation = self.processor.image_processor
        mean, std = (
            torch.tensor(values, device=images.device).view(-1, 1, 1)
            for values in (preparation.image_mean, preparation.image_std)
        )
        return (images.float() / 255 - mean) / std

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        found: Embeddings = model(
            inputs["pixel_values"], inputs.get("keep"), inputs["input_ids"], inputs["names"]
        )
        labels, smoothing = inputs["labels"], self.arguments.label_smoothing
        classes, coarse, words = inputs["sizes"].tolist()
        images = found.scale * found.images

        def of(targets: Tensor, answers: Tensor) -> Tensor:
            logits = images @ targets.T
            return F.cross_entropy(logits, answers, reduction="none", label_smoothing=smoothing)

        samples = of(found.texts[:classes], labels)
        if coarse:
            kinds = self.captions.hypernym_of.to(labels.device)[labels]
            own = of(found.texts[classes : classes + coarse], kinds.clamp(min=0))
            samples = samples + _HYPERNYM * own * (kinds >= 0)
        penalty = None
        if found.meanings is not None:
            samples = samples + _MEANING * of(found.meanings[:classes], labels)
            if words:
                target = found.meanings[-words:].detach()
                penalty = _WORDS * (1 - (found.texts[-words:] * target).sum(-1)).mean()
        is_right = ((images @ found.texts[:classes].T).argmax(-1) == labels).float()
        return StepLoss(samples, penalty, {"accuracy": is_right})

    @torch.no_grad()
    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        model.get_submodule("clip").logit_scale.clamp_(max=math.log(_MOST_SCALE))

    def can_validate(self) -> bool:
        return len(self.split.test) + len(self.split.validation) > 0

    def validate(self, model: nn.Module, accelerator: Any) -> dict[str, float]:
        """Accuracy among the learned classes, on some of the pictures that are not learned."""
        clip: Any = model.get_submodule("clip")
        # Where the best model is chosen, not by the test pictures.
        part = "validation" if "validation" in self.images else "test"
        rows = torch.isin(self.labels[part], self.learned_classes).nonzero()[:, 0]
        rows = rows[:: max(1, len(rows) // _TO_VALIDATE)]
        images = self._image_features(clip, part, rows, accelerator)
        logits = images @ self._class_features(clip)[self.learned_classes].T
        is_right = self.learned_classes[logits.argmax(-1)] == self.labels[part][rows]
        return {"accuracy": float(is_right.float().mean())}

    def _class_features(self, clip: Any) -> Tensor:
        names = spoken_names(self.class_names)
        return text_features(clip, self.processor.tokenizer, names).cpu()

    def _image_features(self, clip: Any, part: str, rows: Tensor, accelerator: Any) -> Tensor:
        """Of some pictures, (n, D) on the CPU, shared among the processes."""
        with accelerator.split_between_processes(rows, apply_padding=True) as own:
            parts = [
                image_features(clip, self._prepared(self.images[part][some].to(accelerator.device)))
                for some in own.split(_ROWS_TO_EVALUATE)
            ]
        return accelerator.gather(torch.cat(parts))[: len(rows)].cpu()

    def finish(self, model: nn.Module) -> nn.Module:
        clip: Any = model.get_submodule("clip")
        clip.set_attn_implementation("sdpa")
        # Measured as it is kept.
        return clip.half().float()

    def evaluate(self, model: nn.Module, accelerator: Any, results: Results) -> None:
        results.data = {
            **self.split.data,
            "split": self.split.digest[:16],
            "num_learned_classes": len(self.learned_classes),
            "unseen_classes": [first_name(self.class_names[i]) for i in self.unseen_classes],
        }
        if not len(self.split.test):
            return
        every = torch.arange(len(self.split.test))
        images = self._image_features(model, "test", every, accelerator)
        groups = {"learned": self.learned_classes, "unseen": self.unseen_classes}
        groups = {name: classes for name, classes in groups.items() if len(classes)}
        logits = images @ self._class_features(model).T
        add_accuracies(results, logits, self.labels["test"], groups)

    def export(self, model: Any, folder: Path) -> None:
        save_in_half_precision(model, folder)
        self.processor.save_pretrained(folder)
        self.split.save(folder)

    def card_facts(self) -> Facts:
        weights = sum(parameter.numel() for parameter in self.run.model.parameters())
        count, classes = len(self.split.train), len(self.learned_classes)
        return Facts(
            summary=f"A CLIP of {weights / 1e6:.1f} million weights, trained from scratch on "
            f"{count:,} pictures of {classes} classes of {self.split.data['name']}.",
            example=USAGE,
            pipeline_tag="zero-shot-image-classification",
        )


def _squares(data: PictureData, places: Tensor, image_processor: Any) -> Tensor:
    """Pictures as the processor cuts and resizes them, uint8 (n, 3, size, size), in memory."""
    size = image_processor.crop_size.height
    if isinstance(data, PictureArchive):
        return resize_bytes(as_rgb(data.images(places)), size)
    if not len(places):
        return torch.zeros(0, 3, size, size, dtype=torch.uint8)
    plain = {"do_rescale": False, "do_normalize": False, "return_tensors": "pt"}
    found = [
        image_processor(data.picture(place), **plain)["pixel_values"][0].byte()
        for place in places.tolist()
    ]
    return torch.stack(found)
