"""How fast a model learns again what it was made to forget: a sign of what was only hidden."""

import copy

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from salhub.data.picture_preparation import PicturePreparation

_BATCH = 64
_LEARNING_RATE = 0.01


def pictures_to_relearn(
    network: nn.Module,
    preparation: PicturePreparation,
    images: Tensor,
    labels: Tensor,
    *,
    wanted_accuracy: float,
    most: int = 6400,
    seed: int = 0,
) -> int | None:
    """Fine-tune a copy of a model on forgotten pictures until it knows them again.

    Half of the pictures are learned, 64 a step, by plain SGD; the other half is what is measured.

    Args:
        network: The model; it is not changed.
        preparation: Of its pictures.
        images: Forgotten pictures, uint8 (n, C, H, W), n at least 2.
        labels: Their classes, int64 (n,).
        wanted_accuracy: Accuracy on the half that is measured, in [0, 1].
        most: Pictures after which to give up.
        seed: Of the halves and the order.

    Returns:
        Pictures that were learned until then; 0 where the model knows them already, None where it
        was given up.
    """
    generator = torch.Generator().manual_seed(seed)
    order = torch.randperm(len(labels), generator=generator)
    learned, measured = order.tensor_split(2)
    device = next(network.parameters()).device
    student = copy.deepcopy(network).requires_grad_(True)
    optimizer = torch.optim.SGD(student.parameters(), lr=_LEARNING_RATE, momentum=0.9)
    for seen in range(0, most + 1, _BATCH):
        verdicts = preparation.logits(student.eval(), images[measured]).argmax(-1)
        if float((verdicts == labels[measured]).double().mean()) >= wanted_accuracy:
            return seen
        rows = learned[torch.randint(len(learned), (_BATCH,), generator=generator)]
        logits = student.train()(preparation(images[rows].to(device))).logits
        F.cross_entropy(logits, labels[rows].to(device)).backward()
        optimizer.step()
        optimizer.zero_grad()
    return None
