"""`RepMTLForMultiTask`: one encoder, a head for each task, and what each task reads in it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn
from transformers import AutoConfig, PreTrainedModel
from transformers import initialization as init
from transformers.models.auto.modeling_auto import AutoModelForImageClassification

from salhub.hub import load
from salhub.modeling import SaliencyPreTrainedModel, attribution_scope, refuse_broken_weights
from salhub.models.rep_mtl.configuration_rep_mtl import RepMTLConfig
from salhub.models.rep_mtl.loss_weighting import LossWeighting
from salhub.models.rep_mtl.rep_mtl_regularizer import RepMTLRegularizer
from salhub.models.rep_mtl.rep_mtl_terms import log_of, position_shares, task_saliency
from salhub.models.rep_mtl.shared_encoder import SharedEncoder
from salhub.models.rep_mtl.task_heads import TaskHead
from salhub.models.rep_mtl.task_losses import mean_loss, own_losses, sample_losses
from salhub.outputs import SaliencyOutput

_STAGE_NORMS = "hidden_states_norms."


@dataclass
class RepMTLOutput(SaliencyOutput):
    """What `RepMTLForMultiTask` returns; T tasks, in the order of the configuration.

    Args:
        predictions: Task -> what its head gives. "segmentation": class scores (B, K, H, W).
            "depth": (B, H, W), in the unit of the labels. "normals": unit vectors (B, 3, H, W), or
            0 where a head gives exactly 0. "edge": logits (B, H, W). "classification": class scores
            (B, K). "regression": (B, K), or (B, K, H, W) of a dense one.
        loss: What is minimised, with weights, logarithms and terms, (); with labels.
        task_losses: Task -> its plain loss, (); without tasks that have no label here.
        tsr_loss: Entropy over tasks, detached, () in [0, ln T]; in training, where it was computed.
        csa_loss: Alignment across tasks, detached, (); the same.
        alignment: Mean cosine that `csa_loss` raises, (); the same.
        task_affinity: Cosines between the tasks' saliencies, (B, T, T) in [-1, 1]: below 0 two
            tasks pull the shared map of a picture in opposite directions. In training where terms
            were computed, and with `output_saliency`.
        saliency: |mean over channels| of each task's saliency, float32 (B, T, h, w), h and w those
            of the shared map; with `output_saliency`.
        task_saliency: The saliency itself, float32 (B, T, C, h, w); with `output_saliency`.
        saliency_target: What it was taken of: "labels", or "predictions", the answers of the
            network itself, where no labels were given.
        shared_features: The map that all heads were given, (B, C, h, w); with `output_saliency`.
    """

    predictions: dict[str, Tensor] | None = None
    loss: Tensor | None = None
    task_losses: dict[str, Tensor] | None = None
    tsr_loss: Tensor | None = None
    csa_loss: Tensor | None = None
    alignment: Tensor | None = None
    task_affinity: Tensor | None = None
    task_saliency: Tensor | None = None
    saliency_target: str | None = None
    shared_features: Tensor | None = None

    @property
    def shares(self) -> Tensor:
        """How the tasks share each position, (B, T, h, w), P of equation 5; 0 where all are silent.

        Raises:
            ValueError: There is no saliency.
        """
        if self.task_saliency is None:
            raise ValueError("There is no saliency; call the model with output_saliency=True.")
        flat = self.task_saliency.transpose(0, 1).flatten(3)
        return position_shares(flat).transpose(0, 1).unflatten(2, self.task_saliency.shape[3:])

    @property
    def dominance(self) -> Tensor:
        """The task that rules each position, int64 (B, h, w); -1 where all are silent."""
        shares = self.shares
        return torch.where(shares.sum(1) > 0, shares.argmax(1), -1)

    @property
    def entropy(self) -> Tensor:
        """How evenly tasks share each position, (B, h, w) in [0, ln T]; 0 where one rules alone."""
        shares = self.shares
        return -torch.xlogy(shares, shares).sum(1)


class RepMTLForMultiTask(SaliencyPreTrainedModel):
    """A network that does several tasks at once, trained with Rep-MTL.

    In training mode, with labels, the loss has both terms of Rep-MTL in it. In evaluation mode, or
    without labels, nothing is differentiated. It works inside DDP and autocast: terms are computed
    in float32 and each process compares the pictures that it has.

    Example:
        >>> from transformers import ResNetConfig
        >>> small = ResNetConfig(embedding_size=8, hidden_sizes=[16], depths=[1])
        >>> model = RepMTLForMultiTask(RepMTLConfig(backbone_config=small)).eval()
        >>> output = model(torch.zeros(1, 3, 32, 32), output_saliency=True)
        >>> output.predictions["depth"].shape, output.saliency.shape, output.saliency_target
        (torch.Size([1, 32, 32]), torch.Size([1, 3, 8, 8]), 'predictions')

    Source: arXiv 2507.21049.
    """

    config: RepMTLConfig
    base_model_prefix = "rep_mtl"
    main_input_name = "pixel_values"
    input_modalities = ["image"]

    def __init__(self, config: RepMTLConfig) -> None:
        super().__init__(config)
        self.tasks = config.task_list
        self.encoder = SharedEncoder(config.backbone_config, config.out_feature)
        channels = self.encoder.num_channels
        self.heads = nn.ModuleDict({t.name: TaskHead(t, channels, config) for t in self.tasks})
        self.weighting = LossWeighting(
            [task.name for task in self.tasks],
            config.weighting,
            config.dwa_temperature,
            {task.name: task.loss_weight for task in self.tasks if task.loss_weight != 1},
        )
        self.regularizer = _regularizer_of(config)
        self.post_init()

    @classmethod
    def from_backbone(
        cls, name: str | os.PathLike, tasks: list[dict[str, Any]], **settings: Any
    ) -> Self:
        """A network with a trained encoder and new heads.

        Args:
            name: A backbone of transformers, or a classifier of ours such as
                "salhub/efficientnet-lite0": a folder, a shipped name or a Hub repository.
            tasks: A mapping for each task, see `Task`.
            **settings: Fields of `RepMTLConfig`.

        Raises:
            ValueError: A network without feature maps, tasks that break a rule, or bad settings.
            ModelNotFoundError: Nothing of that name was found.

        Example:
            >>> tasks = [{"name": name, "type": "edge"} for name in ("left", "right")]
            >>> model = RepMTLForMultiTask.from_backbone("salhub/efficientnet-lite0", tasks)
            >>> model.encoder.num_channels
            1280
        """
        backbone_config = load(AutoConfig, name)
        model = cls(RepMTLConfig(backbone_config=backbone_config, tasks=tasks, **settings))
        network: Any = model.encoder.network
        is_ours = hasattr(network, "feature_map")
        # Not AutoBackbone, which asks the Hub for every name, that of a folder among them.
        kind = AutoModelForImageClassification if is_ours else type(network)
        more = {} if is_ours else {"config": network.config}
        trained, report = load(kind, name, output_loading_info=True, **more)
        own = network.state_dict()
        # Norms behind the stages are none of a classifier's, and start as they are.
        missing = sorted(
            key for key in own.keys() & report["missing_keys"] if not key.startswith(_STAGE_NORMS)
        )
        if missing:
            raise ValueError(
                f"'{os.fspath(name)}' lacks weights of the encoder: {', '.join(missing[:3])}."
            )
        weights = trained.state_dict()
        network.load_state_dict({key: weights[key] for key in own})
        return model

    def with_settings(self, **settings: Any) -> Self:
        twin = super().with_settings(**settings)
        twin.regularizer = _regularizer_of(twin.config).train(self.training)
        return twin

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        # He et al., 2015 (arXiv 1502.01852), equation 14; the encoder has rules of its own.
        if isinstance(module, nn.Conv2d):
            init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                init.zeros_(module.bias)
        elif isinstance(module, LossWeighting):
            for tensor in (*module.parameters(), *module.buffers()):
                init.zeros_(tensor)
        else:
            PreTrainedModel._init_weights(self, module)

    def forward(
        self,
        pixel_values: Tensor | Mapping[str, Tensor],
        labels: Mapping[str, Tensor] | None = None,
        output_saliency: bool = False,
        step: int | None = None,
    ) -> RepMTLOutput:
        """Do all tasks.

        Args:
            pixel_values: Pictures of all tasks, (B, 3, H, W); or name of a task -> its own
                pictures, B of each and all of one size.
            labels: Task -> its labels, see `sample_losses`. Tasks may be missing.
            output_saliency: Say what each task reads in the shared map, for each picture as if it
                was alone, of the labels or else of the network's own answers. The network is held
                in evaluation mode and nothing is left behind to train by.
            step: Number of the optimizer step, for `start_step` and `apply_every`.

        Raises:
            TypeError: Pixels that are not floating point, classes that are not int64, or labels
                that are no tensors.
            ValueError: Other shapes, NaN, labels out of range, or a task that there is not.
        """
        self._check(pixel_values, labels)
        if output_saliency:
            return self._explained(pixel_values, labels)
        shared = self.encoder(self._joined(pixel_values))
        wants_terms = labels is not None and self.training and torch.is_grad_enabled()
        if wants_terms and not shared.requires_grad:
            shared.requires_grad_()  # of an encoder that does not learn
        of_tasks = self._parted(shared, pixel_values)
        has_terms = wants_terms and self.regularizer.is_due(step)
        predictions = self._predictions(of_tasks, pixel_values, has_terms)
        if labels is None:
            return RepMTLOutput(predictions=predictions)
        losses = {
            task.name: loss
            for task in self.tasks
            if task.name in labels
            and (loss := mean_loss(task, predictions[task.name], labels[task.name])) is not None
        }
        used = [of_tasks[name] for name in losses]
        found = self.regularizer(
            used if isinstance(pixel_values, Mapping) else shared,
            losses,
            weighting=self.weighting,
            step=step,
        )
        loss = found.loss
        if wants_terms and torch.distributed.is_available() and torch.distributed.is_initialized():
            # Every process has to have a gradient of every head.
            for name in predictions.keys() - losses.keys():
                loss = loss + 0 * predictions[name].sum()
        return RepMTLOutput(
            predictions=predictions,
            loss=loss,
            task_losses=losses,
            tsr_loss=_detached(found.tsr),
            csa_loss=_detached(found.csa),
            alignment=found.similarity,
            task_affinity=(
                None if found.saliency is None else _affinity(found.saliency.transpose(0, 1))
            ),
        )

    def _explained(
        self, pixel_values: Tensor | Mapping[str, Tensor], labels: Mapping[str, Tensor] | None
    ) -> RepMTLOutput:
        with attribution_scope(self):
            pixels = self._joined(pixel_values).detach().clone()
            with torch.no_grad():
                shared = self.encoder(pixels)
            shared = shared.requires_grad_()
            of_tasks = self._parted(shared, pixel_values)
            predictions = self._predictions(of_tasks, pixel_values)
            for prediction in predictions.values():
                refuse_broken_weights(self, prediction)
            sums, task_losses = {}, {}
            for task in self.tasks:
                prediction = predictions[task.name]
                if labels is None:
                    values = own_losses(task, prediction)
                elif task.name in labels:
                    target = labels[task.name].detach().clone()
                    values, has_labels = sample_losses(task, prediction, target)
                    if bool(has_labels.any()):
                        number = has_labels.sum()
                        task_losses[task.name] = (values.detach().sum() / number).clone()
                else:
                    values = 0 * prediction.float().flatten(1).sum(1)  # silent
                # A sum of what each picture has, as if it was alone.
                values = log_of(values) if self.config.log_transform else values
                sums[task.name] = task.loss_weight * values.sum()
            parts = [of_tasks[task.name] for task in self.tasks]
            found = task_saliency(
                parts if isinstance(pixel_values, Mapping) else shared, sums, create_graph=False
            )
            flat = found.float().transpose(0, 1)  # (B, T, C, N)
            maps = flat.unflatten(3, shared.shape[2:])
            return RepMTLOutput(
                saliency=maps.mean(2).abs(),
                predictions={name: one.detach() for name, one in predictions.items()},
                task_losses=task_losses or None,
                task_affinity=_affinity(flat),
                task_saliency=maps,
                saliency_target="predictions" if labels is None else "labels",
                shared_features=(None if isinstance(pixel_values, Mapping) else shared.detach()),
            )

    def _joined(self, pixel_values: Tensor | Mapping[str, Tensor]) -> Tensor:
        if isinstance(pixel_values, Tensor):
            return pixel_values
        return torch.cat([pixel_values[task.name] for task in self.tasks])

    def _parted(
        self, shared: Tensor, pixel_values: Tensor | Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """The map of each task; with pictures of their own, a part of what went through at once."""
        if isinstance(pixel_values, Tensor):
            return {task.name: shared for task in self.tasks}
        parts = shared.chunk(len(self.tasks))
        return {task.name: part for task, part in zip(self.tasks, parts, strict=True)}

    def _predictions(
        self,
        of_tasks: Mapping[str, Tensor],
        pixel_values: Tensor | Mapping[str, Tensor],
        has_terms: bool = False,
    ) -> dict[str, Tensor]:
        size = tuple(self._joined(pixel_values).shape[-2:])
        return {name: head(of_tasks[name], size, has_terms) for name, head in self.heads.items()}

    def _check(
        self,
        pixel_values: Tensor | Mapping[str, Tensor],
        labels: Mapping[str, Tensor] | None,
    ) -> None:
        names = [task.name for task in self.tasks]
        if isinstance(pixel_values, Mapping):
            if sorted(pixel_values) != sorted(names):
                raise ValueError(
                    f"pixel_values must have pictures for each task ({', '.join(names)}), "
                    f"got pictures for {', '.join(pixel_values)}."
                )
            if len(shapes := {tuple(one.shape) for one in pixel_values.values()}) != 1:
                raise ValueError(
                    "All tasks need the same number of pictures of the same size, got "
                    f"{sorted(shapes)}."
                )
        pixels = pixel_values if isinstance(pixel_values, Tensor) else pixel_values[names[0]]
        if pixels.ndim != 4:
            raise ValueError(
                f"pixel_values must have shape (B, 3, H, W), got {tuple(pixels.shape)}; prepare "
                "pictures with RepMTLImageProcessor."
            )
        if not pixels.is_floating_point():
            raise TypeError(
                f"pixel_values must be floating point, got {pixels.dtype}; prepare pictures with "
                "RepMTLImageProcessor."
            )
        # Before anything keeps a mean of them: the running statistics of a norm would be lost.
        for one in pixel_values.values() if isinstance(pixel_values, Mapping) else [pixels]:
            if not bool(one.isfinite().all()):
                raise ValueError(
                    "pixel_values contain NaN or infinite values; check how the pictures "
                    "were prepared."
                )
        if labels is None:
            return
        if not isinstance(labels, Mapping):
            raise TypeError(
                f"labels must map tasks to their labels, got {type(labels).__name__}; give "
                f"labels={{'{names[0]}': ...}}."
            )
        for name, one in labels.items():
            if not isinstance(one, Tensor):
                raise TypeError(
                    f"Labels of task '{name}' must be a tensor, got {type(one).__name__}."
                )
        if unknown := sorted(labels.keys() - set(names)):
            raise ValueError(
                f"There is no task '{unknown[0]}'; labels can be given for {', '.join(names)}."
            )
        if not labels:
            raise ValueError(f"labels is empty; give labels for {', '.join(names)}, or None.")


def _regularizer_of(config: RepMTLConfig) -> RepMTLRegularizer:
    return RepMTLRegularizer(
        config.lambda_tsr,
        config.lambda_csa,
        csa_temperature=config.csa_temperature,
        csa_reduction=config.csa_reduction,
        csa_denominator=config.csa_denominator,
        log_transform=config.log_transform,
        multi_input=config.multi_input,
        start_step=config.start_step,
        apply_every=config.apply_every,
    )


def _detached(value: Tensor | None) -> Tensor | None:
    return None if value is None else value.detach()


def _affinity(saliency: Tensor) -> Tensor:
    """Cosines between tasks of (B, T, C, N), (B, T, T); 0 with a silent one."""
    flat = saliency.flatten(2)
    largest = flat.abs().amax((1, 2), keepdim=True)
    flat = flat / torch.where(largest > 0, largest, 1)
    norms = flat.norm(dim=2, keepdim=True)
    flat = flat / torch.where(norms > 0, norms, 1)
    return flat @ flat.transpose(1, 2)
