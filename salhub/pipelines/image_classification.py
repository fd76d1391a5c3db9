"""The pipeline of the models that say what is in a picture."""

from typing import Any

from salhub.modeling import refuse_broken_weights
from salhub.ops.class_scores import apply_score_function, score_function, without_positions
from salhub.pipelines.base import PicturePipeline, whole_number
from salhub.pipelines.doubts import doubts_of_picture, doubts_of_scores
from salhub.pipelines.image_classification_result import ImageClassificationResult

_TOP_CLASSES = 5


class ImageClassificationPipeline(PicturePipeline):
    """Classify pictures.

    It is what `salhub.pipeline` gives for such models; `transformers.pipeline` gives its own
    pipeline of this task, which works with them too.

    Example:
        >>> import salhub
        >>> classify = salhub.pipeline("salhub/salun-resnet8-cifar10-original")
        >>> result = classify("sample:cat")
        >>> result.label
        'cat'
    """

    result_class = ImageClassificationResult
    call_settings = ("top_k",)
    example = """
import salhub

# a sample photo; you can also give a path, a URL, a PIL image or an array
result = salhub.pipeline("{model}")("{sample}")
print(result.label, result.score)
result.save("classified.png")
"""

    def __call__(
        self, images: Any, **kwargs: Any
    ) -> ImageClassificationResult | list[ImageClassificationResult]:
        """Classify one picture or several.

        Args:
            images: What `salhub.load_image` takes, or a list, generator or dataset of it.
            **kwargs: `top_k`, how many of the likeliest classes a result names, 5 by default; and
                as in transformers, such as `batch_size`.

        Returns:
            One result a picture.

        Raises:
            ValueError: A picture cannot be read, or `top_k` is less than 1.
            TypeError: An object that cannot be a picture, or `top_k` is no whole number.
        """
        return super().__call__(images, **kwargs)

    def _sanitize_parameters(self, top_k=None, **unknown):
        self._refuse_unknown(unknown)
        if top_k is None:
            return {}, {}, {}
        return {}, {}, {"top_k": whole_number("top_k", top_k)}

    def _forward(self, model_inputs):
        logits = self.model(pixel_values=model_inputs["pixel_values"]).logits
        refuse_broken_weights(self.model, logits)
        return {"logits": logits, "pictures": model_inputs["pictures"]}

    def postprocess(self, model_outputs, top_k: int = _TOP_CLASSES) -> ImageClassificationResult:
        [logits] = without_positions(model_outputs["logits"])
        function = score_function(self.model.config, len(logits))
        # Whether an answer is in doubt takes two classes, however few are shown.
        top = apply_score_function(logits, function).topk(min(max(2, top_k), len(logits)))
        names = [self.class_name(index) for index in top.indices.tolist()]
        found = list(zip(names, top.indices.tolist(), top.values.tolist(), strict=True))
        labels, indices, scores = map(list, zip(*found[:top_k], strict=True))
        picture = model_outputs["pictures"][0]
        return ImageClassificationResult(
            image=picture,
            labels=labels,
            scores=scores,
            class_labels=indices,
            model_name=self._model_name(),
            score_function=function,
            num_classes=len(logits),
            notes=[
                *(getattr(self.model.config, "answer_notes", None) or ()),
                *doubts_of_picture(picture),
                *doubts_of_scores(found, function),
            ],
        )
