"""`salhub compress apiq-saliency`: few bits a weight, with adapters that make up for them."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from transformers import AutoModelForCausalLM

from salhub.hub import load
from salhub.models.apiq_saliency.arguments_apiq_saliency import ApiQSaliencyArguments
from salhub.models.apiq_saliency.block_report import BlockReport, CompressionReport
from salhub.models.apiq_saliency.block_training import (
    TrainedWeight,
    TrainingHistory,
    TrainingSettings,
    normalized,
    train_weights,
)
from salhub.models.apiq_saliency.quantization_apiq_saliency import ApiQSaliencyQuantizationConfig
from salhub.models.apiq_saliency.saliency import (
    SaliencyFile,
    SaliencyFolder,
    check_saliency,
    estimate_saliency,
)
from salhub.quantization.adapted_linear import (
    AdaptedPackedLinear,
    adapted_layers,
    has_adapter,
    mean_adapter_bits,
)
from salhub.quantization.decoder_blocks import (
    StepwisePass,
    autocast,
    block_outputs,
    in_full_precision,
    linear_layers,
)
from salhub.quantization.learned_clipping import LearnedClipping
from salhub.quantization.packed_linear import PackedLinear
from salhub.quantization.quantized_weight import QuantizedWeight
from salhub.quantization.quantizer import packed_layers
from salhub.results import Results
from salhub.runner.blocks import CompressedBlock
from salhub.runner.language_model_compression import CompressionRecipe, mean_bits
from salhub.runner.run import DivergedError
from salhub.runner.run_folder import prepared_path
from salhub.runner.sources import MODEL

logger = logging.getLogger(__name__)

_PUBLISHED_RANK = 64
# Adapters that take more are said to: another bit for each weight would cost as much.
_MANY_BITS = 1.0
# What a block keeps beside its weights: the losses and regularizers of each training.
_TRAINING = "training/"


class ApiQSaliencyRecipe(CompressionRecipe):
    """Trains the ranges of the weights and low-rank adapters, block by block.

    Two inputs travel through the model: that of the full blocks and that of the quantized ones. A
    regularizer keeps weights near to what they were where the loss of the model depends on them.
    Beside the model it leaves blocks.json with the losses and the error of each block.

    Example:
        >>> arguments = ApiQSaliencyArguments(output_dir="out", model="m", calibration="text.txt")
        >>> [stage.name for stage in ApiQSaliencyRecipe(arguments).arguments.stages]
        ['weights', 'joint', 'outputs']

    Source: Cao and Aref 2025 (arXiv 2504.13932); Liao et al. 2024 (arXiv 2402.05147).
    """

    name = "apiq-saliency"
    arguments_class = ApiQSaliencyArguments
    metric_words = {
        **CompressionRecipe.metric_words,
        "bits_with_adapters": "With the adapters it takes {}",
        "error": "The outputs of the blocks differ by {} of their size on the calibration text",
    }
    sources = {
        **CompressionRecipe.sources,
        "saliency_file": "*.safetensors",
        "quantized_base": MODEL,
    }

    def _check_layers(self, model: nn.Module) -> Any:
        found = super()._check_layers(model)
        layers = {
            f"{block_name}.{name}": layer
            for block_name, block in self.blocks.items()
            for name, layer in linear_layers(block).items()
        }
        self._choose_rank(layers)
        self._warn_of_no_training()
        options = self.arguments
        self.saliency: Mapping[str, Tensor] | None = None
        if options.uses_saliency and options.saliency_file is not None:
            self.saliency = SaliencyFile(options.saliency_file)
            check_saliency(self.saliency, layers)
        self.base_weights = self._read_base(layers)
        return found

    def _warn_of_no_training(self) -> None:
        options = self.arguments
        if not any(stage.epochs for stage in options.stages):
            logger.warning(
                "weight_epochs, joint_epochs and output_epochs are 0, so nothing is trained: the "
                "weights are only rounded, and the adapters have no effect; give joint_epochs."
            )
        elif not options.joint_epochs and not options.output_epochs:
            logger.warning(
                "joint_epochs and output_epochs are 0, so the adapters are not trained and have "
                "no effect; give one of them."
            )

    def _choose_rank(self, layers: Mapping[str, nn.Linear]) -> None:
        options, targets = self.arguments, self.arguments.targets
        adapted = {name: one for name, one in layers.items() if has_adapter(name, targets)}
        unknown = set(targets or ()) - {name.rpartition(".")[2] for name in layers}
        if unknown:
            known = sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(
                f"target_modules names {min(unknown)}, but there is no such layer; give all, "
                f"qkv-up-down, or some of {', '.join(known)}."
            )
        weights = sum(one.weight.numel() for one in layers.values())
        bits_of_rank = 16 * sum(sum(one.weight.shape) for one in adapted.values()) / weights
        self.lora_r = options.lora_r or _PUBLISHED_RANK
        if options.adapter_bits is not None:
            self.lora_r = int(options.adapter_bits / bits_of_rank)
            if self.lora_r < 1:
                raise ValueError(
                    f"adapter_bits is {options.adapter_bits}, but even adapters of rank 1 "
                    f"take {bits_of_rank:.3g} bits per weight; give at least that."
                )
        name, smallest = min(adapted.items(), key=lambda one: min(one[1].weight.shape))
        if self.lora_r >= min(smallest.weight.shape):
            raise ValueError(
                f"lora_r is {self.lora_r}, but {name} has a weight of shape "
                f"{tuple(smallest.weight.shape)}; give a rank below "
                f"{min(smallest.weight.shape)}."
            )
        added = self.lora_r * bits_of_rank
        if added > _MANY_BITS:
            logger.warning(
                "Adapters of rank %d take %.2f bits per weight in addition to the %g bits "
                "of the weights; compare with other models of %.2f bits, or give a smaller "
                "lora_r.",
                self.lora_r,
                added,
                options.bits,
                options.bits + added,
            )

    def _read_base(self, layers: Mapping[str, nn.Linear]) -> dict[str, QuantizedWeight] | None:
        """What the layers are to hold where that is decided already."""
        options = self.arguments
        if options.quantized_base is None:
            return None
        base = load(AutoModelForCausalLM, options.quantized_base)
        found = {name: one.to_quantized() for name, one in packed_layers(base).items()}
        unlike = next(
            (
                name
                for name, layer in layers.items()
                if name not in found or found[name].codes.shape != layer.weight.shape
            ),
            None,
        )
        if unlike is not None or adapted_layers(base):
            what = "already has adapters" if unlike is None else f"has no matching {unlike}"
            raise ValueError(
                f"quantized_base {options.quantized_base} {what}; give a model with the same "
                f"layers as {options.model}, packed by salhub and without adapters."
            )
        sizes = {one.group_size for one in found.values()}
        if sizes != {options.group_size}:
            raise ValueError(
                f"quantized_base has groups of {min(sizes)}, but group_size is "
                f"{options.group_size}; give group_size={min(sizes)}."
            )
        bits = mean_bits(base, with_scales=False)
        if abs(bits - options.bits) > 0.5:
            raise ValueError(
                f"quantized_base has {bits:.3g} bits per weight, but bits is {options.bits}; give "
                f"bits={round(bits)}."
            )
        return found

    def prepare(self, model: nn.Module, accelerator: Any) -> None:
        super().prepare(model, accelerator)
        inputs, options = self.inputs, self.arguments
        if inputs.batch_size < options.batch_size:
            raise ValueError(
                f"{type(model).__name__} takes one window at a time, but batch_size is "
                f"{options.batch_size}; give batch_size=1."
            )
        self.full_inputs = replace(inputs)
        self._targets: dict[str, Tensor] = {}
        self.histories: dict[str, list[TrainingHistory]] = {}
        if not options.uses_saliency or self.saliency is not None:
            return
        run = getattr(self, "run", None)
        settings = {"batch_size": options.batch_size, "dtype": options.training_dtype}
        if run is None:
            self.saliency = estimate_saliency(model, self.windows, **settings)
            return
        folder = prepared_path(run.folder, "saliency")
        self.saliency = SaliencyFolder(folder, model)
        self.saliency.fill(model, self.windows, **settings)
        run.remove_when_finished(folder)

    def quantize(
        self, block: nn.Module, name: str
    ) -> tuple[Mapping[str, QuantizedWeight], dict[str, Tensor], dict[str, float]]:
        options = self.arguments
        block.requires_grad_(False)
        with self.timed("ranges"):
            layers = {
                layer: self._trained(linear.weight, f"{name}.{layer}")
                for layer, linear in linear_layers(block).items()
            }
        self._targets = {name: block_outputs(block, self.full_inputs)}
        train = self._train_layers if options.mode == "layer" else self._train_block
        with self.timed("training"):
            histories = train(block, layers, name)
        tensors: dict[str, Tensor] = {}
        with torch.no_grad():
            for layer, trained in layers.items():
                for key, values in (("lora_A", trained.lora_A), ("lora_B", trained.lora_B)):
                    if values is not None:
                        dtype = self.blocks[name].get_parameter(f"{layer}.weight").dtype
                        # 16 bits are enough, and in float32 they are saved as such.
                        short = dtype if dtype == torch.bfloat16 else torch.float16
                        tensors[f"{layer}.{key}"] = values.detach().to(short).to(dtype)
            found = {layer: trained.quantized() for layer, trained in layers.items()}
            measures = {"error/outputs": self._error(block, layers, name)}
        measures["regularizer"] = sum(float(one.relative_error()) for one in layers.values())
        for key, place in (("loss/first", 0), ("loss/last", -1)):
            if all(one.losses for one in histories):
                measures[key] = sum(one.losses[place] for one in histories)
        for place, one in enumerate(histories):
            tensors[f"{_TRAINING}{place}"] = torch.tensor(
                [one.losses, one.regularizers], dtype=torch.float64
            )
        return found, tensors, measures

    def _trained(self, weight: Tensor, name: str) -> TrainedWeight:
        options = self.arguments
        importance = None
        if self.saliency is not None:
            importance = self.saliency[name].to(weight.device)
            if not importance.any() or not importance.isfinite().all():
                self._fail(
                    f"the saliency of {name} is 0 or not finite; check the calibration text, or "
                    "give saliency=none."
                )
            importance = normalized(importance) if options.normalize_saliency else importance
        size, bits = options.group_size, options.bits
        if self.base_weights is None:
            rounded = LearnedClipping(weight, size, int(bits), symmetric=options.symmetric)
            if options.initial_ranges == "search":
                rounded.search(importance)
        else:
            rounded = self.base_weights[name]
        rank = self.lora_r if has_adapter(name, options.targets) else None
        return TrainedWeight(weight, rounded, rank, options.lora_alpha, importance)

    def _train_block(
        self, block: nn.Module, layers: Mapping[str, TrainedWeight], name: str
    ) -> list[TrainingHistory]:
        def outputs_of(weights: Mapping[str, Tensor], hidden: Tensor) -> list[Tensor]:
            return [_passed(block, weights, hidden, self.inputs.keywords)]

        targets = [[self._targets[name]]]
        if self.arguments.aug_loss:
            targets.append([block_outputs(block, self.inputs)])
        return [self._train(layers, outputs_of, self.inputs.hidden, targets, name)]

    def _train_layers(
        self, block: nn.Module, layers: Mapping[str, TrainedWeight], name: str
    ) -> list[TrainingHistory]:
        """One set of layers that read the same after another."""
        working = in_full_precision(block)
        full = linear_layers(block)
        steps = StepwisePass(working, self.inputs, with_outputs=False)
        full_steps = StepwisePass(block, self.full_inputs, with_outputs=False)
        histories = []

        def outputs_of(weights: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
            return [functional.linear(rows, one) for one in weights.values()]

        for together in steps.groups:
            inputs, before = (
                torch.cat([*one.layer_inputs(together[0])]) for one in (steps, full_steps)
            )
            targets = [
                [functional.linear(rows, full[layer].weight) for layer in together]
                for rows in ([before, inputs] if self.arguments.aug_loss else [before])
            ]
            chosen = {layer: layers[layer] for layer in together}
            histories.append(self._train(chosen, outputs_of, inputs, targets, name))
            with torch.no_grad():
                for layer, trained in chosen.items():
                    working.get_submodule(layer).weight.data = trained.effective()[0]
        return histories

    def _train(
        self,
        layers: Mapping[str, TrainedWeight],
        outputs_of: Any,
        inputs: Tensor,
        targets: Sequence[Sequence[Tensor]],
        name: str,
    ) -> TrainingHistory:
        options = self.arguments
        place = list(self.blocks).index(name)
        settings = TrainingSettings(
            stages=options.stages,
            batch_size=options.batch_size,
            lora_learning_rate=options.lora_learning_rate,
            clip_learning_rate=options.clip_learning_rate,
            weight_decay=options.weight_decay,
            lr_scheduler=options.lr_scheduler,
            regularized=options.reg_target,
            normalize_saliency=options.normalize_saliency,
        )
        factor = options.reg_lambda * options.reg_layer_multiplier**place

        def outputs_in_precision(weights: Mapping[str, Tensor], rows: Tensor) -> list[Tensor]:
            with autocast(rows, options.training_dtype):
                return [one.float() for one in outputs_of(weights, rows)]

        return train_weights(
            layers,
            outputs_in_precision,
            inputs,
            targets,
            settings,
            factor=factor,
            name=name,
            fail=self._fail,
        )

    def _fail(self, sentence: str) -> NoReturn:
        if getattr(self, "run", None) is None:
            raise DivergedError(sentence)
        self.run.fail(sentence)

    def _error(self, block: nn.Module, layers: Mapping[str, TrainedWeight], name: str) -> float:
        """How far the outputs are from those of the full path, as a share of their size."""
        weights = {layer: one.effective()[0] for layer, one in layers.items()}
        wanted = self._targets[name]
        pairs = zip(self.inputs.batches(), wanted.split(self.inputs.batch_size), strict=True)
        away = sum(
            float((_passed(block, weights, hidden, self.inputs.keywords) - part).square().sum())
            for hidden, part in pairs
        )
        return (away / float(wanted.square().sum())) ** 0.5

    @torch.no_grad()
    def take_block(self, model: nn.Module, name: str, block: CompressedBlock) -> None:
        wanted = self._targets.pop(name, None)
        if wanted is None:
            wanted = block_outputs(in_full_precision(self.blocks[name]), self.full_inputs)
        super().take_block(model, name, block)
        self.full_inputs.move_on(wanted)
        num_trainings = sum(key.startswith(_TRAINING) for key in block.tensors)
        self.histories[name] = [
            TrainingHistory(*block.tensors[f"{_TRAINING}{place}"].tolist())
            for place in range(num_trainings)
        ]

    def packed_layer(
        self, plain: nn.Module, weight: QuantizedWeight, block: CompressedBlock, name: str
    ) -> PackedLinear:
        if f"{name}.lora_A" not in block.tensors:
            return super().packed_layer(plain, weight, block, name)
        factors = (block.tensors[f"{name}.{key}"] for key in ("lora_A", "lora_B"))
        alpha = self.arguments.lora_alpha
        return AdaptedPackedLinear.from_parts(weight, *factors, alpha, plain.bias)

    def finish(self, model: Any) -> nn.Module:
        del self.full_inputs
        return super().finish(model)

    def quantization_config(self) -> ApiQSaliencyQuantizationConfig:
        options = self.arguments
        return ApiQSaliencyQuantizationConfig(
            bits=options.bits,
            group_size=options.group_size,
            lora_r=self.lora_r,
            lora_alpha=options.lora_alpha,
            target_modules=options.targets,
        )

    def export(self, model: Any, folder: Path) -> None:
        super().export(model, folder)
        blocks = {
            name: BlockReport(self.measures[name]["error/outputs"], trainings)
            for name, trainings in self.histories.items()
        }
        CompressionReport(self.base_model, self.bits_reached, blocks).save(folder)

    @torch.no_grad()
    def evaluate(self, model: Any, accelerator: Any, results: Results) -> None:
        super().evaluate(model, accelerator, results)
        results.add_metric(
            "bits_with_adapters",
            results.metric("bits_with_scales").value + mean_adapter_bits(model),
            n=len(adapted_layers(model)),
            unit="bits",
        )


def _passed(
    block: nn.Module, weights: Mapping[str, Tensor], hidden: Tensor, keywords: Mapping[str, Any]
) -> Tensor:
    """Pass hidden states through a block with other weights, (B, L, d)."""
    named = {f"{layer}.weight": weight for layer, weight in weights.items()}
    outputs = functional_call(block, named, (hidden,), dict(keywords))
    # Before transformers 5 it was the first of several.
    return outputs if isinstance(outputs, Tensor) else outputs[0]
