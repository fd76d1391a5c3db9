"""`salhub train cifar-resnet`: a residual network for small pictures, from scratch."""

from dataclasses import dataclass

from transformers import PreTrainedModel

from salhub.backbones.cifar_resnet.configuration_cifar_resnet import CifarResNetConfig
from salhub.backbones.cifar_resnet.image_processing_cifar_resnet import CifarResNetImageProcessor
from salhub.backbones.cifar_resnet.modeling_cifar_resnet import CifarResNetForImageClassification
from salhub.runner.image_classification import (
    PictureTrainingArguments,
    PictureTrainingRecipe,
)


@dataclass(kw_only=True)
class CifarResNetArguments(PictureTrainingArguments):
    """Options of `CifarResNetRecipe`; the size of the pictures is that of the data.

    Args:
        depth: Layers with weights, 6n + 2.
        width: Channels of the first stage.
        stem_stride: Stride of the first convolution, 1 or 2.
    """

    depth: int = 8
    width: int = 32
    stem_stride: int = 2


class CifarResNetRecipe(PictureTrainingRecipe):
    """Trains a residual network on an archive of small labelled pictures.

    Example:
        >>> arguments = CifarResNetArguments(output_dir="out", data="cifar10.npz")
        >>> CifarResNetRecipe(arguments).arguments.depth
        8

    Source: He et al. 2016 (arXiv 1512.03385), section 4.2, for the network and the augmentation.
    """

    name = "cifar-resnet"
    arguments_class = CifarResNetArguments

    def build_classifier(self, class_names: list[str]) -> PreTrainedModel:
        config = CifarResNetConfig(
            depth=self.arguments.depth,
            width=self.arguments.width,
            stem_stride=self.arguments.stem_stride,
            image_size=self.images["train"].shape[2],
            id2label=dict(enumerate(class_names)),
            label2id={name: index for index, name in enumerate(class_names)},
        )
        return CifarResNetForImageClassification(config)

    def build_image_processor(self, model: PreTrainedModel) -> CifarResNetImageProcessor:
        return CifarResNetImageProcessor.for_image_size(self.images["train"].shape[2])
