"""The pipeline of the models that find the likeliest of any classes that a person types."""

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
import torch
from transformers import CLIPModel

from salhub.errors import NoImageProcessorError
from salhub.modeling import refuse_broken_weights
from salhub.models.disa.class_texts import checked_names
from salhub.models.disa.modeling_disa import DiSaForImageClassification
from salhub.models.disa.result_disa import ZeroShotImageClassificationResult
from salhub.models.disa.saliency_masking import kept_patches
from salhub.pipelines.base import PicturePipeline, load_image_processor, whole_number
from salhub.pipelines.doubts import doubts_of_picture, doubts_of_scores
from salhub.processing import viewed_box

# Classes that a note tells by name.
_MOST_NAMED = 10


class ZeroShotImageClassificationPipeline(PicturePipeline):
    """Say which of some classes is in a picture; the classes are any words.

    It is what `salhub.pipeline` gives for such models; `transformers.pipeline` gives its own
    pipeline of this task, for CLIP models without prompts.

    Example:
        >>> import salhub
        >>> classify = salhub.pipeline("salhub/disa-tiny-clip-cifar10")  # doctest: +SKIP
        >>> result = classify("photo.jpg", candidate_labels=["cat", "dog"])  # doctest: +SKIP
        >>> result.label, result.frozen_label  # doctest: +SKIP
        ('cat', 'dog')
    """

    result_class = ZeroShotImageClassificationResult
    call_settings = ("candidate_labels", "explain", "top_k", "compare_frozen")
    hub_task = "zero-shot-image-classification"
    example = """
import salhub

classify = salhub.pipeline("{model}")
result = classify("{sample}", candidate_labels=["cat", "dog", "rocket"])
print(result.summary())
result.save("classified.png")
"""

    @classmethod
    def from_model(cls, model: Any, **settings: Any) -> Self:
        """Make a pipeline of a model that is already loaded; see `PicturePipeline.from_model`.

        A CLIP without prompts is taken too, and answers as it is.
        """
        if isinstance(model, CLIPModel):
            plain = DiSaForImageClassification.from_base(model, "zero_shot")
            plain.config.name_or_path = model.config.name_or_path
            model = plain
        return super().from_model(model, **settings)

    @classmethod
    def _image_processor_of(cls, model: Any, name: Any, **where: Any) -> Any:
        """That of the prompts, or else that of the CLIP that they are for."""
        try:
            return super()._image_processor_of(model, name, **where)
        except NoImageProcessorError:
            place = getattr(model, "_base_place", None)
            if place is None:
                raise
            return load_image_processor(place.name, **place.where)

    def __call__(
        self, images: Any, **kwargs: Any
    ) -> ZeroShotImageClassificationResult | list[ZeroShotImageClassificationResult]:
        """Classify one picture or several.

        Args:
            images: What `salhub.load_image` takes, or a list, generator or dataset of it.
            **kwargs: `candidate_labels`, the classes: a list; a text with commas; or a mapping from
                what the result is to say, in any language, to what CLIP, which has learned English,
                is to read; those of the model by default. `explain`, the words whose map is made,
                or one of the classes; the likeliest class by default. `top_k`, how many classes a
                result names, all by default. `compare_frozen`, whether the CLIP without prompts is
                asked as well, True. Settings of the model for this call, such as `saliency` and
                `mask_ratio`; and as in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: No classes, one twice, one that is too long, or a picture that cannot be
                read.
            TypeError: A setting of another kind.
        """
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(
        self,
        candidate_labels=None,
        explain=None,
        top_k=None,
        compare_frozen=None,
        **settings,
    ):
        model = self._model_with(settings)
        asked: dict[str, Any] = {"settings": settings}
        if candidate_labels is not None:
            asked["classes"] = _classes(candidate_labels)
            # Names that CLIP cannot read are refused before any picture is.
            model.check_classes(list(asked["classes"].values()), frozen=True)
        if explain is not None:
            if not isinstance(explain, str) or not explain.strip():
                raise ValueError(f"explain must be a text, got {explain!r}.")
            asked["explain"] = explain
        if compare_frozen is not None:
            if not isinstance(compare_frozen, bool):
                raise TypeError(f"compare_frozen must be True or False, got {compare_frozen!r}.")
            asked["compare_frozen"] = compare_frozen
        finishing = {} if top_k is None else {"top_k": whole_number("top_k", top_k)}
        return {}, asked, finishing

    def _forward(
        self,
        model_inputs,
        settings: Mapping[str, Any],
        classes: Mapping[str, str] | None = None,
        explain: str | None = None,
        compare_frozen: bool = True,
    ):
        model, pixels = self._model_with(settings), model_inputs["pixel_values"]
        is_default = classes is None
        if is_default:
            own = model.config.class_names
            if own is None:
                raise ValueError(
                    "This model has no classes of its own; give some, such as "
                    'candidate_labels=["cat", "dog"].'
                )
            classes = {name: name for name in own}
        names, texts = list(classes), list(classes.values())
        output = model(pixels, class_names=texts)
        refuse_broken_weights(model.base_model_of_prompts, output.logits)
        scores = output.logits.softmax(-1)
        likeliest = [texts[place] for place in scores.argmax(-1).tolist()]
        # One of the classes may be asked for by its own word, whatever CLIP reads for it.
        query = None if explain is None else classes.get(explain, explain)
        queries = likeliest if query is None else [query] * len(pixels)
        maps = model.saliency_map(pixels, queries, class_names=texts)
        shown = dict(zip(texts, names, strict=True))
        kept = torch.zeros_like(maps.flatten(1), dtype=torch.bool)
        kept = kept.scatter(1, kept_patches(maps.flatten(1), model.config.mask_ratio), value=True)
        is_compared = compare_frozen and model.config.method_preset != "zero_shot"
        frozen = model.zero_shot_logits(pixels, texts).softmax(-1) if is_compared else None
        return {
            "scores": scores,
            "frozen": frozen,
            "maps": maps,
            "kept": kept.view_as(maps),
            "queries": _each([shown.get(one, one) for one in queries]),
            "names": _each([names] * len(pixels)),
            "texts": _each([texts] * len(pixels)),
            "is_default": _each([is_default] * len(pixels)),
            "pictures": model_inputs["pictures"],
        }

    def postprocess(
        self, model_outputs, top_k: int | None = None
    ) -> ZeroShotImageClassificationResult:
        [scores], [names], [texts] = (model_outputs[one] for one in ("scores", "names", "texts"))
        [query], frozen = model_outputs["queries"], model_outputs["frozen"]
        picture = model_outputs["pictures"][0]
        order = scores.argsort(descending=True, stable=True).tolist()
        found = [(names[place], place, float(scores[place])) for place in order]
        shown = order[:top_k]
        frozen_place = None if frozen is None else int(frozen[0].argmax())
        notes = [*doubts_of_picture(picture), *doubts_of_scores(found, "softmax")]
        if model_outputs["is_default"][0]:
            more = f" and {len(names) - _MOST_NAMED} others" if len(names) > _MOST_NAMED else ""
            notes.append(
                f"You named no classes, so those of the model were compared: "
                f"{', '.join(names[:_MOST_NAMED])}{more}. Name yours with candidate_labels."
            )
        if len(order) == 1:
            notes.append("You gave only one class, so it has all of the probability.")
        if len(shown) < len(order):
            left = len(order) - len(shown)
            notes.append(f"{left} of the {len(order)} classes are not shown.")
        return ZeroShotImageClassificationResult(
            image=picture,
            labels=[names[place] for place in shown],
            scores=[float(scores[place]) for place in shown],
            frozen_scores=None if frozen is None else [float(frozen[0][place]) for place in shown],
            frozen_label=None if frozen_place is None else names[frozen_place],
            frozen_score=None if frozen_place is None else float(frozen[0][frozen_place]),
            num_classes=len(order),
            saliency=np.asarray(model_outputs["maps"][0].float().cpu()),
            kept=np.asarray(model_outputs["kept"][0].cpu()),
            explained=query,
            texts=[texts[place] for place in shown],
            viewed_box=viewed_box(self.image_processor, (picture.height, picture.width)),
            model_name=self._model_name(),
            method=self.model.config.method_preset,
            notes=notes,
        )


def _each(values: list[Any]) -> list[Any]:
    """One value a picture, as transformers takes batches of several pictures apart."""
    return values if len(values) == 1 else [[one] for one in values]


def _classes(given: Any) -> dict[str, str]:
    """What results say -> what CLIP reads."""
    if isinstance(given, str):
        given = [part.strip() for part in given.split(",")]
    what = "candidate_labels"
    if isinstance(given, Mapping):
        texts = checked_names(list(given.values()), what)
        return dict(zip(checked_names(list(given), what), texts, strict=True))
    return {name: name for name in checked_names(given, what)}
