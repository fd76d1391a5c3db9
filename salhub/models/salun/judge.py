"""What a classifier that shares nothing with a generator sees in what that generates."""

from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Self

import torch
from accelerate.utils import gather_object
from torch import Tensor
from tqdm.auto import tqdm

from salhub.backbones.conditional_unet.sampling import as_bytes
from salhub.data.picture_preparation import PicturePreparation
from salhub.explaining.modeling_explained_classifier import load_classifier
from salhub.models.salun.frechet_distance import frechet_distance
from salhub.results import Results
from salhub.runner.batches import Share, generator_of

_ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class JudgedPictures:
    """What a judge saw.

    Args:
        probabilities: float64 (n, K).
        features: What its last layer saw, (n, d).
    """

    probabilities: Tensor
    features: Tensor

    @property
    def verdicts(self) -> Tensor:
        """The most likely class of each picture, int64 (n,)."""
        return self.probabilities.argmax(-1)


class Judge:
    """A classifier that looks at generated pictures.

    Args:
        classifier: Trained on real pictures only.
        preparation: How they are prepared for it.
    """

    def __init__(self, classifier: Any, preparation: PicturePreparation) -> None:
        self.classifier = classifier.eval()
        self.preparation = preparation

    @classmethod
    def from_pretrained(cls, name: str) -> Self:
        """Load a classifier and its image processor by name."""
        return cls(load_classifier(name), PicturePreparation.of_model(name))

    @torch.no_grad()
    def look(self, pictures: Tensor) -> JudgedPictures:
        """Look at pictures.

        Args:
            pictures: In [-1, 1], (n, C, H, W), C being 1 or 3.
        """
        images = as_bytes(pictures).expand(-1, 3, -1, -1)
        device = next(self.classifier.parameters()).device
        probabilities, features = [], []
        for part in images.split(_ROWS_AT_ONCE):
            seen = self._features_and_logits(self.preparation(part.to(device)))
            features.append(seen[0].double().cpu())
            probabilities.append(seen[1].double().softmax(-1).cpu())
        return JudgedPictures(torch.cat(probabilities), torch.cat(features))

    def _features_and_logits(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        if hasattr(self.classifier, "pooled_features"):
            features = self.classifier.pooled_features(pixel_values)
            return features, self.classifier.classifier(features)
        logits = self.classifier(pixel_values).logits
        return logits, logits


@dataclass(frozen=True)
class GenerationReport:
    """How a generator does what it is asked, in percent.

    Args:
        unlearning_accuracy: Share of the pictures asked of the forgotten class that the judge does
            not take for it (UA).
        forgotten_probability: Mean probability of the forgotten class in them, in [0, 1].
        forgotten_entropy: Mean entropy of the judge's probabilities for them, in nats.
        retain_accuracy: Share of the pictures of other classes that are taken for what was asked.
        leaked: Share of the pictures of other classes that are taken for the forgotten one.
        distance: Fréchet distance of the judge's features between the pictures of other classes
            and real ones; not comparable with FID.
        verdicts: Pictures by asked class and verdict, K rows of K numbers.
    """

    unlearning_accuracy: float
    forgotten_probability: float
    forgotten_entropy: float
    retain_accuracy: float
    leaked: float
    distance: float
    verdicts: list[list[int]]

    def add_to(self, results: Results, prefix: str = "") -> None:
        """Write the numbers into a results file."""
        results.add_metric(f"{prefix}UA", self.unlearning_accuracy, unit="percent")
        results.add_metric(f"{prefix}RA", self.retain_accuracy, unit="percent")
        results.add_metric(f"{prefix}leaked", self.leaked, unit="percent")
        results.add_metric(
            f"{prefix}forgotten_probability", self.forgotten_probability, unit="fraction"
        )
        results.add_metric(f"{prefix}forgotten_entropy", self.forgotten_entropy, unit="nats")
        results.add_metric(f"{prefix}judge_distance", self.distance)


def judge_model(
    judge: Judge,
    model: Any,
    forgotten: int,
    real: Tensor,
    *,
    num_judged: int = 500,
    num_judged_others: int = 100,
    sampling_steps: int = 50,
    guidance_scale: float = 2.0,
    seed: int = 0,
    share: Share | None = None,
    progress: bool = False,
) -> GenerationReport:
    """Let a model generate pictures of every class, and measure them.

    Args:
        judge: Looks at them.
        model: A `SalUnForConditionalDiffusion`.
        forgotten: The class that was to be forgotten.
        real: Real pictures of the other classes, in [-1, 1], (m, C, H, W).
        num_judged: Pictures of the forgotten class.
        num_judged_others: Pictures of each other class.
        sampling_steps, guidance_scale: As of `generate`.
        seed: Of the noise.
        share: The part of this process, where several generate together; everything when None.
        progress: Whether to show a bar.
    """
    classes = model.config.backbone_config.num_classes
    counts = torch.full((classes,), num_judged_others)
    counts[forgotten] = num_judged
    asked = torch.arange(classes).repeat_interleave(counts)
    share = share or Share()
    own = list(enumerate(asked.split(_ROWS_AT_ONCE)))[share.index :: share.count]
    found = []
    for place, part in tqdm(own, desc="Generating", disable=not progress):
        # A generator of its own, whichever process has the part.
        generator = generator_of(seed, place)
        pictures = model.generate(part, sampling_steps, guidance_scale, generator=generator)
        found.append((place, pictures.cpu()))
    if share.count > 1:
        found = gather_object(found)
    pictures = torch.cat([part for _, part in sorted(found, key=itemgetter(0))])
    return judge_generation(judge, pictures, asked, real, forgotten, classes)


def judge_generation(
    judge: Judge,
    pictures: Tensor,
    asked: Tensor,
    real: Tensor,
    forgotten: int,
    num_classes: int,
) -> GenerationReport:
    """Measure generated pictures.

    Args:
        judge: Looks at them.
        pictures: In [-1, 1], (n, C, H, W).
        asked: Class that each was asked to show, int64 (n,).
        real: Real pictures of the other classes, in [-1, 1], (m, C, H, W).
        forgotten: The class that was to be forgotten.
        num_classes: K.
    """
    seen = judge.look(pictures)
    is_forgotten = asked == forgotten
    verdicts = torch.zeros(num_classes, num_classes, dtype=torch.long)
    verdicts.index_put_((asked, seen.verdicts), torch.tensor(1), accumulate=True)
    of_forgotten = seen.probabilities[is_forgotten]
    others = seen.verdicts[~is_forgotten]
    entropy = torch.special.entr(of_forgotten).sum(-1).mean()
    return GenerationReport(
        unlearning_accuracy=_percent(seen.verdicts[is_forgotten] != forgotten),
        forgotten_probability=float(of_forgotten[:, forgotten].mean()),
        forgotten_entropy=float(entropy),
        retain_accuracy=_percent(others == asked[~is_forgotten]),
        leaked=_percent(others == forgotten),
        distance=frechet_distance(seen.features[~is_forgotten], judge.look(real).features),
        verdicts=verdicts.tolist(),
    )


def _percent(flags: Tensor) -> float:
    return 100 * float(flags.double().mean())
