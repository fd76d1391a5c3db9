"""Ranges of all groups of a block, trained so that it gives what it gave: SliM-LLM+."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from salhub.quantization.decoder_blocks import BlockInputs, pass_block
from salhub.quantization.learned_clipping import LearnedClipping

# The gradients of the logits are often smaller than the usual 1e-8, which would hold them back.
_EPSILON = 1e-16


def train_clipping(
    block: nn.Module,
    layers: Mapping[str, LearnedClipping],
    inputs: BlockInputs,
    targets: Sequence[Tensor],
    *,
    epochs: int,
    learning_rate: float,
) -> list[float]:
    """Train the ranges of the layers of a block together.

    The loss of a batch is the mean squared error of the outputs to each of the targets, added up.
    Windows are drawn in another order in every epoch.

    Args:
        block: In float32; it is left as it is.
        layers: Name of a linear layer of the block -> its ranges, which are changed.
        inputs: What the compressed blocks before it give.
        targets: What the outputs are to be, float32 (S, L, d) each.
        epochs: Passes over the windows.
        learning_rate: Of AdamW, without weight decay.

    Returns:
        The mean loss of each epoch, while it changed.

    Source: Huang et al. 2024 (arXiv 2405.14917), SliM-LLM+; Shao et al. 2024 (arXiv 2308.13137),
        eq. 1 and 2. The released code passes one window at a time.
    """
    parameters = [one for layer in layers.values() for one in layer.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate, weight_decay=0, eps=_EPSILON)
    losses = []
    with torch.enable_grad():
        for _ in range(epochs):
            total = 0.0
            for rows in torch.randperm(len(inputs.hidden)).split(inputs.batch_size):
                weights = {f"{name}.weight": layer() for name, layer in layers.items()}
                outputs = pass_block(
                    # A block with other weights in the place of its own.
                    lambda *args, weights=weights, **kwargs: functional_call(
                        block, weights, args, kwargs
                    ),
                    inputs.hidden[rows],
                    inputs.keywords,
                )
                loss = torch.stack(
                    [functional.mse_loss(outputs, wanted[rows]) for wanted in targets]
                ).sum()
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                total += float(loss.detach()) * len(rows)
            losses.append(total / len(inputs.hidden))
    return losses
