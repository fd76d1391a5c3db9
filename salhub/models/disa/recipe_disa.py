"""`salhub train disa`: prompts of a CLIP from some pictures of each class."""

import logging
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import AutoImageProcessor

from salhub.data.labelled_pictures import (
    PictureData,
    PictureRows,
    pictures_of,
    read_labelled_pictures,
    some_of,
)
from salhub.data.picture_preparation import PicturePreparation
from salhub.hub import canonical_name, load
from salhub.model_card import Facts
from salhub.models.disa.class_texts import checked_names
from salhub.models.disa.configuration_disa import (
    Direction,
    DiSaConfig,
    MaskMode,
    Preset,
    Saliency,
)
from salhub.models.disa.coop_split import read_coop_split
from salhub.models.disa.evaluation_disa import (
    accuracy_table,
    add_answers,
    add_harmonic_means,
    answers_of,
    image_features,
    short_names,
)
from salhub.models.disa.few_shots import Shots, base_classes, draw_shots, rows_of
from salhub.models.disa.loss_terms import picture_loss
from salhub.models.disa.modeling_disa import DiSaForImageClassification
from salhub.models.disa.prompt_averaging import PromptAverage, check_epochs, gaussian_weights
from salhub.models.disa.saliency_masking import scheduled_ratio
from salhub.results import Results
from salhub.runner.arguments import (
    Scheduler,
    TrainingArguments,
    check_count,
    check_not_negative,
    check_share,
)
from salhub.runner.batches import Batch
from salhub.runner.fine_tuning import data_name
from salhub.runner.image_classification import PictureArguments
from salhub.runner.plan import count_steps, share_of, steps_of_epoch
from salhub.runner.prefetching import Prefetcher
from salhub.runner.recipe import Stage, StepLoss, TrainingRecipe
from salhub.runner.sources import MODEL

logger = logging.getLogger(__name__)

# Draws of one step are told apart by these.
_VIEW, _NOISE = 30, 31
_NUMBERS = 5
_VIEW_SHARES = (0.08, 1.0)
_TRANSFER_DEPTH = 3
# Options that are fields of the configuration under the same name; None leaves the preset's.
_OF_CONFIG = (
    "cir_stop_grad", "cir_weight", "ctx_init", "direction", "gpa", "gpa_mean", "gpa_std",
    "image_l1_weight", "kl_reduction", "lambda_dir", "mask_mode", "mask_ratio", "mask_schedule",
    "n_ctx_text", "n_ctx_vision", "prompt_depth_text", "prompt_depth_vision", "saliency",
    "single_pass", "sr_weight", "templates", "text_l1_weight",
)  # fmt: skip
_EXAMPLE = """
import salhub

classify = salhub.pipeline("{model}")
result = classify("photo.jpg", candidate_labels=["one class", "another class"])
print(result.summary())
"""


@dataclass(kw_only=True)
class DiSaArguments(PictureArguments, TrainingArguments):
    """Options of `DiSaRecipe`. Those without a mark are ours.

    Args:
        base: The CLIP: a folder, a shipped name (tiny-clip-32), or a Hub repository such as
            openai/clip-vit-base-patch16.
        base_revision: Revision of the CLIP on the Hub.
        preset: "disa", "promptsrc", "ivlp" or "coop".
        protocol: "few_shot" trains on all classes; "base_to_novel" trains on the first half and
            tests both halves, each among its own names.
        shots: Number of training pictures per class [R: 16]; null for all.
        transfer: Further labelled pictures for testing the prompts, with their own classes: other
            data sets, or the same classes in another domain. Prompts are then 3 layers deep by
            default [R].
        split_file: CoOp's split of these data, split_zhou_NAME.json; `data` is then the folder
            that its paths start from.
        class_names: Names that CLIP reads for the classes, in the order of the classes in the
            data, if their own names are short forms or in another language.
        first_names: Use only the first of several names separated by commas, as in WordNet.
        augment: Use a new random part of each picture in each epoch, from 8 % of its area to all
            of it, mirrored half of the time [R].
        momentum: Momentum of stochastic gradient descent [R].
        weight_decay: Weight decay of the prompts [R].
        warmup_epochs: Epochs over which the learning rate rises from 0; related methods keep it at
            1e-5 for one epoch.
        save_prototypes: Save the class prototypes with the prompts; only further training needs
            them.
        n_ctx_text: Number of learned vectors in the text. This and the following options default
            to the preset, and to the depth of the CLIP.
        n_ctx_vision: Number of learned vectors after the patches.
        prompt_depth_text: Layers of the text encoder that have their own vectors.
        prompt_depth_vision: Layers of the image encoder that have their own vectors.
        ctx_init: Initial words of the text vectors, with as many tokens as there are vectors.
        sr_weight: Weight of the term that keeps scores close to those of the frozen CLIP.
        cir_weight: Weight of the term that makes crossed pairs agree.
        lambda_dir: Weight of the term for the direction to class prototypes.
        text_l1_weight: Weight of PromptSRC's distance from the frozen text features.
        image_l1_weight: Weight of PromptSRC's distance from the frozen picture features.
        kl_reduction: "batchmean", or "numel", which divides divergences by the number of classes.
        cir_stop_grad: Side of the crossed pair without gradients: "none", "left" (prompted
            pictures), "right" (prompted texts), or "symmetric".
        direction: "origin", "centered", or "l1" for a distance instead of a direction.
        saliency: The map of the mask: "text", "cls", "text*cls", or the controls "random" and
            "inverse".
        mask_ratio: Share of the patches hidden in the masked pass, from 0 to below 1.
        mask_schedule: "constant", "linear" from 0 over the first half, or "none".
        mask_mode: Masked patches are removed ("drop"), excluded from the keys ("attention"), or
            emptied ("zero").
        single_pass: Use the masked features in all terms, which saves a pass.
        gpa: Average the prompts over epochs with Gaussian weights.
        gpa_mean: Epoch, from 1, with the largest weight; None for three quarters of all.
        gpa_std: Width of that Gaussian in epochs.
        templates: Sentences with "{}" for the frozen text features; None for 60 of ours.
    """

    base: str
    base_revision: str | None = None
    preset: Preset = "disa"
    protocol: Literal["few_shot", "base_to_novel"] = "few_shot"
    shots: int | None = 16
    transfer: list[str] = field(default_factory=list)
    split_file: str | None = None
    class_names: list[str] = field(default_factory=list)
    first_names: bool = False
    augment: bool = True
    momentum: float = 0.9
    weight_decay: float = 5e-4
    warmup_epochs: int = 1
    save_prototypes: bool = False
    n_ctx_text: int | None = None
    n_ctx_vision: int | None = None
    prompt_depth_text: int | None = None
    prompt_depth_vision: int | None = None
    ctx_init: str | None = None
    sr_weight: float | None = None
    cir_weight: float | None = None
    lambda_dir: float | None = None
    text_l1_weight: float | None = None
    image_l1_weight: float | None = None
    kl_reduction: Literal["batchmean", "numel"] | None = None
    cir_stop_grad: Literal["none", "left", "right", "symmetric"] | None = None
    direction: Direction | None = None
    saliency: Saliency | None = None
    mask_ratio: float | None = None
    mask_schedule: Literal["constant", "linear", "none"] | None = None
    mask_mode: MaskMode | None = None
    single_pass: bool | None = None
    gpa: bool | None = None
    gpa_mean: float | None = None
    gpa_std: float | None = None
    templates: list[str] | None = None
    batch_size: int = 4
    num_train_epochs: int = 20
    learning_rate: float = 2.5e-3
    lr_scheduler: Scheduler = "cosine"
    checkpointing_steps: int | None = 200

    def __post_init__(self) -> None:
        self.base = canonical_name(self.base)
        super().__post_init__()

    def validate(self) -> None:
        """Check the options, and those of every training."""
        super().validate()
        if self.shots is not None:
            check_count("shots", self.shots)
        check_share("momentum", self.momentum)
        check_not_negative("weight_decay", self.weight_decay)
        check_not_negative("warmup_epochs", self.warmup_epochs)
        if self.preset == "zero_shot":
            raise ValueError(
                "preset='zero_shot' has nothing to learn; measure it with salhub evaluate, or give "
                "disa, promptsrc, ivlp or coop."
            )
        if self.push_to_hub and Path(self.base).is_dir():
            raise ValueError(
                f"Others cannot use prompts for a CLIP in a local folder, '{self.base}'; "
                "leave out push_to_hub, or give a base from the Hub."
            )
        # Bad values are named before anything is read.
        config = DiSaConfig.from_preset(self.preset, **self.settings())
        check_epochs(self.num_train_epochs, self.warmup_epochs, config.gpa_mean, gpa=config.gpa)

    def settings(self) -> dict[str, Any]:
        """The fields of the configuration that were given."""
        given = {name: getattr(self, name) for name in _OF_CONFIG}
        found = {name: value for name, value in given.items() if value is not None}
        if self.transfer:
            for kind in () if self.preset == "coop" else ("text", "vision"):
                found.setdefault(f"prompt_depth_{kind}", _TRANSFER_DEPTH)
        return found


class DiSaRecipe(TrainingRecipe):
    """Learns prompts for a frozen CLIP, and compares the accuracy with and without them.

    Example:
        >>> arguments = DiSaArguments(
        ...     output_dir="out", data="my-pictures", base="openai/clip-vit-base-patch16"
        ... )
        >>> DiSaRecipe(arguments).arguments.shots
        16

    Source: Alipour Talemi et al. 2025 (arXiv 2505.19373) for the losses; the training setting is
    that of Khattak et al. 2023 (arXiv 2307.06948).
    """

    name = "disa"
    arguments_class = DiSaArguments
    sources = {
        **TrainingRecipe.sources,
        "base": MODEL,
        "split_file": "*.json",
        "transfer": "*",
    }
    metric_words = {
        "accuracy/test/prompts": "Accuracy on the test pictures with the prompts: {}",
        "accuracy/base/prompts": "Accuracy on the learned classes with the prompts: {}",
        "accuracy/novel/prompts": "Accuracy on the new classes with the prompts: {}",
        "accuracy/transfer/*/prompts": "Accuracy on {1} with the prompts: {0}",
        "accuracy/*/frozen": "With the frozen CLIP: {}",
        "agreement/test": "The prompts and the frozen CLIP give the same answer for {}",
        "agreement/*": "",
        "calibration_error/*": "",
        "harmonic_mean/prompts": "The harmonic mean of learned and new classes is {}",
        "harmonic_mean/frozen": "With the frozen CLIP: {}",
        "change_from_frozen/novel": "Change from the frozen CLIP on new classes: {}",
    }
    _prefetcher: Prefetcher | None = None

    def learned_options(self) -> dict[str, Any]:
        # Places on this machine do not matter, and their content is digested.
        options = super().learned_options()
        for name in ("data", "base", "split_file"):
            if options[name] is not None and (name == "data" or Path(options[name]).exists()):
                options[name] = data_name(options[name])
        return {**options, "transfer": list(map(data_name, options["transfer"]))}

    def build_model(self) -> nn.Module:
        options = self.arguments
        data = self._read(options.data, options.split_file)
        names = self._given_names(data) or self._names(data)
        self.shots: Shots = draw_shots(
            data, options.shots, only_base=options.protocol == "base_to_novel", seed=options.seed
        )
        self.others = {data_name(one): self._read(one) for one in options.transfer}
        if len(self.others) < len(options.transfer):
            raise ValueError("Two data sets in transfer have the same name; rename a folder.")
        for other in self.others.values():
            is_alike = len(other) == len(data) and not bool(other.is_test.any())
            if is_alike and other.describe()["fingerprint"] == data.describe()["fingerprint"]:
                raise ValueError(
                    f"{other.name} in transfer holds the training pictures; the rest of them "
                    "is tested anyway, so leave it out."
                )
        place = {"revision": options.base_revision} if options.base_revision else {}
        model = DiSaForImageClassification.from_base(
            options.base,
            options.preset,
            dtype=torch.float32,
            class_names=names[: self.shots.learned],
            **({"base_model_revision": options.base_revision} if place else {}),
            **self._shallower(options.settings()),
        )
        processor = load(AutoImageProcessor, options.base, backend="pil", **place)
        self.preparation = PicturePreparation(processor, _VIEW_SHARES)
        _ = self.preparation.input_size  # refuses what makes no batches
        model.check_classes(names, frozen=True)
        self.config = model.config
        split = self.shots.split
        self.names, self.labels = names, data.labels
        self.train_labels, self.frozen, self.steps = data.labels[split.train], None, 1
        if model.config.lambda_dir:  # until `prepare` makes them
            size = model.config.base_config["projection_dim"]
            model.set_prototypes(torch.zeros(self.shots.learned, size))
        self.train_images = PictureRows(data, split.train, self.preparation)
        self.test_images = pictures_of(data, split.test, self.preparation)
        model.train()
        return model

    def _shallower(self, settings: dict[str, Any]) -> dict[str, Any]:
        """Depths that were not given are at most the layers that there are."""
        given = {name for name in _OF_CONFIG if getattr(self.arguments, name) is not None}
        if self.arguments.transfer:
            from transformers import AutoConfig

            config = load(AutoConfig, self.arguments.base)
            for kind, part in (("text", "text_config"), ("vision", "vision_config")):
                name = f"prompt_depth_{kind}"
                layers = getattr(getattr(config, part, None), "num_hidden_layers", None)
                if name in settings and name not in given and layers is not None:
                    settings[name] = min(settings[name], layers)
        return settings

    def _read(self, place: str, split_file: str | None = None) -> PictureData:
        options = self.arguments
        if split_file is not None:
            return read_coop_split(place, split_file)
        return read_labelled_pictures(
            place,
            image_column=options.image_column,
            label_column=options.label_column,
            dataset_config_name=options.dataset_config_name,
            to_learn=place == options.data,
        )

    def _given_names(self, data: PictureData) -> list[str]:
        given, own = self.arguments.class_names, list(data.class_names)
        if given and len(given) != len(own):
            raise ValueError(
                f"class_names has {len(given)} names for the {len(own)} classes of {data.name}, "
                f"which are {', '.join(own[:5])}{', …' if len(own) > 5 else ''}; give one for each."
            )
        return checked_names(given) if given else []

    def _names(self, data: PictureData) -> list[str]:
        names = list(data.class_names)
        if self.arguments.first_names:
            return short_names(names)
        if sum("," in name for name in names) * 2 > len(names):
            logger.warning(
                "Most names of %s contain commas, such as '%s', and CLIP reads the whole "
                "name; set first_names=true to use only the first part.", data.name, names[0],
            )  # fmt: skip
        return names

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        """Make the prototypes and, where pictures are always the same, what is frozen of them."""
        plain: Any = model
        _, frozen = image_features(plain, self.preparation, self.train_images,
                                   accelerator=accelerator)  # fmt: skip
        if plain.config.lambda_dir:
            plain.set_prototypes(plain.prototypes_of(frozen, self.train_labels))
        self.frozen = None if self.arguments.augment else frozen
        self.steps = count_steps(self)
        self._prefetcher = Prefetcher(self, share_of(accelerator), self._fetch)

    def stages(self, epoch: int) -> Iterable[Stage]:
        return [Stage("train", len(self.shots.split.train), self.fetch)]

    def build_optimizer(self, model: nn.Module) -> torch.optim.Optimizer:
        options, config = self.arguments, model.config
        self._average = None
        if config.gpa:
            epochs = options.num_train_epochs
            mean = 0.75 * epochs if config.gpa_mean is None else config.gpa_mean
            self._average = PromptAverage(model, gaussian_weights(epochs, mean, config.gpa_std))
        return torch.optim.SGD(
            [p for p in model.parameters() if p.requires_grad],
            lr=options.learning_rate,
            momentum=options.momentum,
            weight_decay=options.weight_decay,
        )

    def warmup_steps(self, total: int) -> int:
        if self.arguments.lr_warmup_steps or self.arguments.lr_scheduler == "constant":
            return self.arguments.lr_warmup_steps
        return min(total // 2, self.arguments.warmup_epochs * steps_of_epoch(self, 0))

    def checkpointed(self) -> Iterable[Any]:
        return [] if self._average is None else [self._average]

    def fetch(self, batch: Batch) -> Mapping[str, Tensor]:
        """Pictures of a pass as CLIP takes them, and their labels."""
        return (self._prefetcher or self._fetch)(batch)

    def _fetch(self, batch: Batch) -> dict[str, Tensor]:
        views = None
        if self.arguments.augment:
            views = batch.draw(lambda n, g: torch.rand(n, _NUMBERS, generator=g), _VIEW)
        found = {
            "pixel_values": self.train_images.read(batch.rows, views),
            "labels": self.train_labels[batch.rows],
        }
        if self.frozen is not None:
            found["frozen_embeds"] = self.frozen[batch.rows]
        return found

    def loss(self, model: nn.Module, inputs: Mapping[str, Tensor], batch: Batch) -> StepLoss:
        plain: Any = getattr(model, "module", model)
        config = plain.config
        given: dict[str, Any] = dict(inputs)
        if config.saliency == "random":
            side = config.base_config["patch_size"]
            height, width = inputs["pixel_values"].shape[2:]
            count = (height // side) * (width // side)
            noise = batch.draw(lambda n, g: torch.rand(n, count, generator=g), _NOISE)
            given["patch_scores"] = noise.to(inputs["pixel_values"].device)
        progress = batch.step / max(1, self.steps - 1)
        given["mask_ratio"] = scheduled_ratio(config.mask_schedule, config.mask_ratio, progress)
        found = model(**given, output_losses="samples")
        terms = {name: value for name, value in found.losses.items() if value.ndim}
        is_right = (found.logits.argmax(-1) == inputs["labels"]).float()
        penalty = None
        if "text_l1" in found.losses:
            penalty = config.text_l1_weight * found.losses["text_l1"]
        measures = {"accuracy": is_right, **{k: v.detach() for k, v in terms.items()}}
        return StepLoss(picture_loss(config, terms), penalty, measures)

    def after_step(self, model: nn.Module, optimizer: torch.optim.Optimizer, step: int) -> None:
        is_end = (step + 1) % steps_of_epoch(self, 0) == 0
        if self._average is not None and is_end:
            self._average.add(model)

    def finish(self, model: nn.Module) -> nn.Module:
        plain: Any = model
        if self._average is not None:
            self._average.put_into(plain)
        if not self.arguments.save_prototypes:
            plain.set_prototypes(None)
        return plain

    def export(self, model: Any, folder: Path) -> None:
        model.save_pretrained(folder)
        self.preparation.image_processor.save_pretrained(folder)
        self.shots.split.save(folder)

    def evaluate(self, model: Any, accelerator: Any, results: Results) -> None:
        split, rows = self.shots.split, []
        results.data = {**split.data, "split": split.digest[:16], "shots": len(split.train)}
        labels = self.labels[split.test]
        parts = {"test": range(len(self.names))}
        if self.arguments.protocol == "base_to_novel":
            middle = base_classes(len(self.names))
            parts = {"base": range(middle), "novel": range(middle, len(self.names))}
        for title, classes in parts.items():
            own = rows_of(labels, classes)
            if not len(own):
                logger.warning(
                    "There are no %s pictures, so the accuracy on them is not measured.", title
                )
                continue
            features = image_features(model, self.preparation, some_of(self.test_images, own),
                                      accelerator=accelerator)  # fmt: skip
            names = self.names[classes.start : classes.stop]
            found = answers_of(model, features, labels[own] - classes.start, names)
            rows.append(add_answers(results, title, found))
        if len(rows) == 2:
            rows.append(add_harmonic_means(results, "base", "novel"))
        for title, data in self.others.items():
            test = data.is_test.nonzero()[:, 0]
            places = test if len(test) else torch.arange(len(data))
            images = pictures_of(data, places, self.preparation)
            features = image_features(model, self.preparation, images, accelerator=accelerator)
            found = answers_of(model, features, data.labels[places], self._names(data))
            rows.append(add_answers(results, f"transfer/{title}", found))
        results.tables.append(accuracy_table(rows))

    def card_facts(self) -> Facts:
        options, split = self.arguments, self.shots.split
        shots = "all" if options.shots is None else options.shots
        words = {name: getattr(self.config, name) for name in _SAID}
        return Facts(
            summary=f"Prompts ({options.preset}) for a frozen CLIP, learned from "
            f"{len(split.train)} pictures of {split.data['name']}, {shots} of each of "
            f"{self.shots.learned} classes.",
            example=_EXAMPLE,
            pipeline_tag="zero-shot-image-classification",
            base_model=None if Path(options.base).exists() else options.base,
            cautions=[
                *self.shots.notes,
                "The paper's full text and code were not available. Losses and prompts are "
                "as stated for it; the closed form of the direction term, its weight, the "
                "map of the mask and the reduction of divergences are our decisions, and "
                "the training setting is that of related methods (" + _listed(words) + ").",
            ],
        )


_SAID = ("sr_weight", "cir_weight", "lambda_dir", "kl_reduction", "direction", "saliency",
         "mask_ratio", "gpa")  # fmt: skip


def _listed(words: Mapping[str, Any]) -> str:
    return ", ".join(f"{name} {value}" for name, value in words.items())
