"""A vision transformer written with the rules of lxt, which our relevance is compared with."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from transformers import ViTConfig, ViTForImageClassification

LXT = "lxt.explicit.functional"  # the half of lxt that does not ask for an older transformers


def seeded_vit(**settings: int) -> nn.Module:
    """A ViT of the size of DeiT-Ti with random weights: 12 layers, 3 heads of 64, 16 px patches."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 192, "num_attention_heads": 3, "intermediate_size": 768}
    network = ViTForImageClassification(ViTConfig(**{**sizes, **settings}, num_labels=1000))
    for parameter in network.parameters():
        if parameter.dim() == 1:  # biases that are zero would hide what becomes of them
            parameter.data += torch.randn(parameter.shape) * 0.1
    return network.eval().requires_grad_(False)


def lxt_relevance(
    network: nn.Module, pixels: Tensor, label: int, epsilon: float = 1e-6
) -> Callable[[], Tensor]:
    """Relevance of a class at the pixels of a ViT by lxt's functions; it starts with the score.

    Args:
        network: A ViT of transformers.
        pixels: (1, 3, H, W).
        label: The class.
        epsilon: Of all rules that have one.
    """
    from lxt.explicit import functional as rules
    from lxt.explicit.rules import epsilon_lrp, identity

    def linear(layer: nn.Linear, x: Tensor) -> Tensor:
        return rules.linear_epsilon(x, layer.weight, layer.bias, epsilon)

    def norm(layer: nn.LayerNorm, x: Tensor) -> Tensor:
        return rules.layer_norm_grad_fn.apply(x, layer.weight, layer.bias, layer.eps, epsilon)

    def attend(layer: nn.Module, x: Tensor) -> Tensor:
        projections = (layer.q_proj, layer.k_proj, layer.v_proj)
        query, key, value = (
            linear(one, x).unflatten(-1, (layer.num_attention_heads, -1)).transpose(1, 2)
            for one in projections
        )
        scores = rules.matmul(query, key.transpose(-2, -1), epsilon=epsilon)
        weights = rules.softmax(scores, -1, temperature=1 / layer.scaling)
        mixed = rules.matmul(weights, value, epsilon=epsilon).transpose(1, 2).flatten(2)
        return linear(layer.o_proj, mixed)

    def perceive(layer: nn.Module, x: Tensor) -> Tensor:
        return linear(layer.fc2, identity(layer.activation_fn, linear(layer.fc1, x)))

    def classify(x: Tensor) -> Tensor:
        body, first = network.vit, network.vit.embeddings
        patches = epsilon_lrp(first.patch_embeddings.projection, epsilon, x)
        tokens = torch.cat((first.cls_token, patches.flatten(2).transpose(1, 2)), dim=1)
        tokens = rules.add2(tokens, first.position_embeddings, epsilon=epsilon)
        for layer in body.layers:
            mixed = attend(layer.attention, norm(layer.layernorm_before, tokens))
            tokens = rules.add2(mixed, tokens, epsilon=epsilon)
            seen = perceive(layer.mlp, norm(layer.layernorm_after, tokens))
            tokens = rules.add2(seen, tokens, epsilon=epsilon)
        return linear(network.classifier, norm(body.layernorm, tokens)[:, 0])

    def run() -> Tensor:
        photo = pixels.clone().requires_grad_()
        score = classify(photo)[0, label]
        return torch.autograd.grad(score, photo, score.detach())[0]

    return run
