"""What a network takes a picture for, asked once a picture."""

import threading

import torch
from torch import Tensor

from salhub.pipelines.image_saliency import ImageSaliencyPipeline
from salhub.ui.query import Query

_REMEMBERED_PICTURES = 16
_GUESSES = 5


class RememberedClasses:
    """The classes of a picture from a forward pass alone; those of the last pictures are kept.

    Args:
        pipeline: Holds the network.
        lock: Held while the network runs.
    """

    def __init__(self, pipeline: ImageSaliencyPipeline, lock: threading.Lock) -> None:
        self.pipeline = pipeline
        self.lock = lock
        self._by_picture: dict[str, Tensor] = {}

    def probabilities(self, query: Query) -> Tensor:
        """Return the probability of every class, (C,)."""
        key = query.fingerprint
        if key not in self._by_picture:
            while len(self._by_picture) >= _REMEMBERED_PICTURES:
                self._by_picture.pop(next(iter(self._by_picture)))
            self._by_picture[key] = self._classify(query)
        return self._by_picture[key]

    def guesses(self, query: Query) -> list[tuple[str, int, float]]:
        """Return the likeliest classes: (name, index, probability), most likely first."""
        probabilities = self.probabilities(query)
        top = probabilities.topk(min(_GUESSES, len(probabilities)))
        names = self.pipeline.model.id2label
        return [
            (names.get(int(index), f"class {int(index)}"), int(index), float(share))
            for share, index in zip(*top, strict=True)
        ]

    def least_likely(self, query: Query) -> int:
        """Return the class the network believes in least."""
        return int(self.probabilities(query).argmin())

    def _classify(self, query: Query) -> Tensor:
        with self.lock, torch.no_grad():
            pixels = self.pipeline.preprocess(query.image)["pixel_values"]
            logits = self.pipeline.model.classify(pixels.to(self.pipeline.device))
        return logits[0].float().softmax(-1).cpu()
