"""The pipeline of the models that draw pictures of a class."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from salhub.modeling import refuse_broken_weights
from salhub.models.salun.result_salun_diffusion import ImageGenerationResult
from salhub.pipelines.base import TaskPipeline, number, whole_number

# In place of a class: one result with pictures of each of them.
EVERY_CLASS = "all"

_NUM_IMAGES = 8
# Pictures of one class that are drawn together unless told otherwise.
_MOST_TOGETHER = 64
# Short enough to be copied from a figure by hand.
_NUM_SEEDS = 2**31
_SEED_LIMIT = 2**63


class ImageGenerationPipeline(TaskPipeline):
    """Draw pictures of a class.

    The model has a method `generate(class_labels, num_steps, guidance_scale, eta, generator)` that
    returns pictures in [-1, 1], (B, C, H, W), C being 1 or 3, and its configuration has `id2label`.

    Every class begins with the noise of its seed alone. So a result follows from its class, its
    settings and its seed, which it names, whatever is drawn beside it; and the same seed shows how
    two classes, or two models, differ.

    Example:
        >>> import salhub
        >>> draw = salhub.pipeline("salhub/salun-ddpm-mnist")  # doctest: +SKIP
        >>> result = draw(3, num_images=4, seed=0)  # doctest: +SKIP
        >>> result.images[0].size  # doctest: +SKIP
        (16, 16)
    """

    input_type = "class"
    result_class = ImageGenerationResult
    call_settings = ("num_images", "num_steps", "guidance_scale", "eta", "seed")
    # Two models, or a card made twice, are shown with the same noise.
    fixed_settings = {"seed": 0}
    sample = EVERY_CLASS
    example = """
import salhub

# a class, by index or name
result = salhub.pipeline("{model}")(0, num_images=4)
result.save("generated.png")
"""
    hub_task = "unconditional-image-generation"

    @staticmethod
    def read(source: str | bytes) -> str:
        """Return the class that a person typed, or piped into the command."""
        text = (source.decode(errors="replace") if isinstance(source, bytes) else source).strip()
        if not text:
            raise ValueError("No class given; give its index or name.")
        return text

    def __call__(
        self, class_labels: Any, *, batch_size: int | None = None, **kwargs: Any
    ) -> ImageGenerationResult | list[ImageGenerationResult]:
        """Draw pictures of one class, or of several.

        Args:
            class_labels: A class, by index or name; "all" for every class in one result; or a
                list, tuple, range, array or generator of classes.
            batch_size: Pictures of a class that are drawn together; all by default, but no more
                than 64. It does not change what is drawn.
            **kwargs: `num_images`, pictures of each class, 8 by default; `num_steps`, from noise to
                picture, 50; `guidance_scale`, how far to go beyond the class's own prediction, at
                least 0, 2; `eta`, 0 for DDIM to 1 for the full noise of DDPM, 0; and `seed`, of the
                noise, drawn from torch's default generator for every class asked for.

        Returns:
            One result a class.

        Raises:
            ValueError: There is no such class, a setting is out of its range, or weights are no
                numbers, naming the first.
            TypeError: A class that is neither an integer nor a name, or a setting that is no
                number.
        """
        if isinstance(class_labels, tuple | range):
            class_labels = list(class_labels)
        elif getattr(class_labels, "ndim", 0) == 1:
            class_labels = class_labels.tolist()
        together = self._batch_size if batch_size is None else batch_size
        if together is not None:
            kwargs["together"] = whole_number("batch_size", together)
        # Pictures pass together, classes one after the other.
        return super().__call__(class_labels, batch_size=1, **kwargs)

    def _sanitize_parameters(self, **settings):
        self._refuse_unknown(settings.keys() - _CHECKS.keys())
        given = {name: value for name, value in settings.items() if value is not None}
        return {}, {name: _CHECKS[name](name, value) for name, value in given.items()}, {}

    def choices(self) -> dict[str, list[str]]:
        """Return the classes that can be asked for, for `salhub info`."""
        return {"class_labels": [f"{index} {name}" for index, name in self.class_names.items()]}

    def prepare(self, class_label: int | str) -> dict[str, Any]:
        # A class that is really called so comes first.
        if class_label == EVERY_CLASS and EVERY_CLASS not in self.class_names.values():
            return {"class_labels": sorted(self.class_names)}
        return {"class_labels": [self.class_index(class_label)]}

    def _forward(
        self,
        model_inputs,
        num_images: int = _NUM_IMAGES,
        num_steps: int = 50,
        guidance_scale: float = 2.0,
        eta: float = 0.0,
        seed: int | None = None,
        together: int = _MOST_TOGETHER,
    ):
        if seed is None:
            seed = int(torch.randint(_NUM_SEEDS, ()))
        settings = {"num_steps": num_steps, "guidance_scale": guidance_scale, "eta": eta}
        counts = [min(together, num_images - done) for done in range(0, num_images, together)]
        classes = model_inputs["class_labels"]
        pixels = torch.cat([self._draw(one, counts, seed, settings) for one in classes])
        refuse_broken_weights(self.model, pixels)
        return {
            "pixels": pixels,
            "class_labels": [one for one in classes for _ in range(num_images)],
            "settings": {**settings, "seed": seed},
        }

    def _draw(
        self, class_label: int, counts: Sequence[int], seed: int, settings: dict[str, Any]
    ) -> Tensor:
        generator = torch.Generator().manual_seed(seed)
        parts = [
            self.model.generate(torch.full((count,), class_label), generator=generator, **settings)
            for count in counts
        ]
        return torch.cat(parts)

    def postprocess(self, model_outputs) -> ImageGenerationResult:
        class_labels = model_outputs["class_labels"]
        labels = [self.class_name(index) for index in class_labels]
        config = self.model.config
        notes = []
        if set(config.forgotten_classes) & set(labels):
            what = config.forgotten_words
            notes.append(f"This model was {what}: its pictures should not show it.")
        return ImageGenerationResult(
            pixels=model_outputs["pixels"].float().numpy(),
            labels=labels,
            class_labels=class_labels,
            model_name=self._model_name(),
            notes=notes,
            **model_outputs["settings"],
        )


def _seed(name: str, value: Any) -> int:
    return whole_number(name, value, low=0, limit=_SEED_LIMIT)


_CHECKS = {
    "num_images": whole_number,
    "num_steps": whole_number,
    "guidance_scale": number,
    "eta": number,
    "seed": _seed,
    "together": whole_number,
}
