"""Running a network so that its backward pass hands down relevance.

Every torch function that touches a tensor on the way from the pixels to the logits is seen here,
whatever module or functional call it comes from, and is given its relevance meaning: a rule for
weighted layers, a split for sums, a pass for activations. So residual sums written as `x + y` are
split exactly, without tracing the code and without knowing the architecture. What has no meaning
is refused by name.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch._C._autograd import _top_saved_tensors_default_hooks
from torch.overrides import TorchFunctionMode

from salhub.models.salient_relevance.composed_operations import COMPOSED, is_plain_attention
from salhub.models.salient_relevance.layer_relevance import layer_relevance
from salhub.models.salient_relevance.linear_maps import (
    CONVOLUTION_NAMES,
    LinearMap,
    convolution_arguments,
    convolution_map,
    explicit_padding,
    linear_arguments,
)
from salhub.models.salient_relevance.module_path import ModulePath
from salhub.models.salient_relevance.normalisation import NORMALISATIONS
from salhub.models.salient_relevance.relevance_functions import (
    AffineRelevance,
    AttentionRelevance,
    JoinedRelevance,
    MultilinearRelevance,
    Normaliser,
    PassState,
    PassThrough,
    ProductRelevance,
    SoftmaxRelevance,
    SumRelevance,
)
from salhub.models.salient_relevance.rules import PRESETS, Rule, RuleSet
from salhub.models.salient_relevance.tensor_origin import Origin, common_root
from salhub.models.salient_relevance.torch_operations import (
    ACTIVATIONS,
    ADDITION,
    COPYING,
    EXTREMES,
    GATES,
    JOINING,
    MATRIX_PRODUCT,
    NORMALISERS,
    PADDING,
    POOLING,
    PRODUCT,
    QUESTIONS,
    ROUTING,
    SCALINGS,
    UNMOVED,
    VIEWS,
    as_function_of_signals,
    can_change_input,
    changes_input,
    first_operand,
    follow_replacements,
    operands,
    operation_name,
    share_memory,
    signals_in,
    softmax_axis,
    tensors_in,
)


class UnsupportedLayerError(ValueError):
    """The network does something that relevance has no rule for."""


class RelevanceMode(TorchFunctionMode):
    """Replaces the backward pass of everything that runs inside by relevance rules.

    Args:
        rules: Rule of every layer type.
        state: Settings and caches of the pass.
        path: Follows the running module.
        pixels: The pictures, requiring gradients.
        bounds: Lowest and highest possible pixels, broadcastable to `pixels`, for rule "z_box".
    """

    def __init__(
        self,
        rules: RuleSet,
        state: PassState,
        path: ModulePath,
        pixels: Tensor,
        bounds: tuple[Tensor, Tensor] | None,
    ) -> None:
        super().__init__()
        self.rules = rules
        self.state = state
        self.epsilon_rule = Rule("epsilon", state.epsilon)
        self.path = path
        self.origins: dict[int, Origin] = {}
        self.replacements: dict[int, Tensor] = {}
        self.has_bounds = bounds is not None
        # without bounds the pixels stand in for them: what is still pixels is known by having any
        ends = (pixels.detach(), pixels.detach())
        if bounds is not None:
            # as large as the pixels, since they go through the same reshapes, batch size included
            ends = tuple(bound.expand_as(pixels).contiguous() for bound in bounds)
        self.origins[id(pixels)] = Origin(pixels, bounds=ends)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        if self.replacements:
            args = tuple(follow_replacements(value, self.replacements) for value in args)
            kwargs = {
                key: follow_replacements(value, self.replacements) for key, value in kwargs.items()
            }
        if func in QUESTIONS or not torch.is_grad_enabled():  # as inside a custom function
            return func(*args, **kwargs)
        carriers = signals_in((*args, *kwargs.values()) if kwargs else args)
        if not carriers:
            return func(*args, **kwargs)
        name = operation_name(func)
        if _top_saved_tensors_default_hooks(True) is None:
            result = self._interpret(name, func, args, kwargs, carriers)
        else:  # inside torch.utils.checkpoint, which would run its part again, unwatched
            with torch.autograd.graph.saved_tensors_hooks(Tensor.detach, lambda tensor: tensor):
                result = self._interpret(name, func, args, kwargs, carriers)
        is_suspect = "inplace" in kwargs or can_change_input(func)
        if is_suspect and isinstance(result, Tensor) and changes_input(func, args, kwargs):
            self._take_the_place(args[0], result, name)
        return result

    def _take_the_place(self, changed: Tensor, result: Tensor, name: str) -> None:
        """The new tensor stands for the one that the code believes it has changed."""
        if result is changed:
            return
        self.replacements[id(changed)] = result
        origin = self.origins.setdefault(id(changed), Origin(changed))
        for other in origin.family - {id(changed)}:  # views, and what this is a view of
            self.origins[other].spoilt_by = f"'{name}' in place ({self.path.describe()})"

    def check_seen(self, tensors: list[Tensor]) -> None:
        """Refuse tensors made behind our back, by custom or scripted functions."""
        for tensor in tensors:
            if id(tensor) not in self.origins:
                maker = type(tensor.grad_fn).__name__
                if maker.startswith("CheckpointFunction"):
                    raise self._unsupported(
                        "torch.utils.checkpoint with use_reentrant=True, which hides the "
                        "operations inside it (pass use_reentrant=False, or turn "
                        "checkpointing off)"
                    )
                raise self._unsupported(f"a custom or compiled function ({maker})")
            if self.origins[id(tensor)].spoilt_by is not None:
                raise UnsupportedLayerError(
                    f"{self.path.describe()} reads a tensor that was changed through a view "
                    f"by {self.origins[id(tensor)].spoilt_by}, which relevance cannot trace; "
                    "rewrite that operation so that it does not change its input, or use "
                    "NormGrad."
                )

    def _interpret(
        self, name: str, func: Callable, args: tuple, kwargs: dict, carriers: list[Tensor]
    ) -> Any:
        if name == "setitem":
            raise self._unsupported("an assignment to a part of a tensor")
        handler = _HANDLER_OF.get(name)
        if handler is not None:
            self.check_seen(carriers)
            return self._remember(handler(self, name, func, args, kwargs))
        source = self.origins.get(id(carriers[0])) if name in VIEWS else None
        if source is not None and source.is_simple and len(carriers) == 1:
            result = COPYING.get(name, func)(*args, **kwargs)
            source.hand_on(result, self.origins)
            return result
        if name in COMPOSED:
            with self:
                return COMPOSED[name](*args, **kwargs)
        func = COPYING.get(name, func)
        if name == "where" and len(carriers) > 1:
            self.check_seen(carriers)
            return self._remember(self._choice(name, func, args, kwargs))
        if self._joins_constants(name, args, kwargs, carriers):
            self.check_seen(carriers)
            signals, call = as_function_of_signals(func, args, kwargs)
            result = JoinedRelevance.apply(call, self.state, self._name, *signals)
        else:
            result = func(*args, **kwargs)
        made = signals_in((result,))
        if not made:  # a question about the tensor, such as its shape
            return result
        if name not in ROUTING and name != "get":
            raise self._unsupported(f"the operation '{name}'")
        self.check_seen(carriers)
        new = [tensor for tensor in made if id(tensor) not in self.origins]
        if new:  # not the input itself, as of a dropout that is off
            self._route(name, func, args, kwargs, carriers, new)
        return result

    def _remember(self, result: Tensor) -> Tensor:
        if id(result) not in self.origins:
            self.origins[id(result)] = Origin(result)
        return result

    def _joins_constants(
        self, name: str, args: tuple, kwargs: dict, carriers: list[Tensor]
    ) -> bool:
        if name in PADDING:  # of pixels, padding is known by its support
            return carriers[0] is args[0] and self.origins[id(args[0])].bounds is None
        if name not in JOINING:
            return False
        if name == "where":
            return len((*args, *kwargs)) == 3 and len(carriers) == 1
        return len(tensors_in((*args, *kwargs.values()))) > len(carriers)

    def _route(
        self,
        name: str,
        func: Callable,
        args: tuple,
        kwargs: dict,
        carriers: list[Tensor],
        made: list[Tensor],
    ) -> None:
        """Carry over what is known of the inputs of a copy or arrangement to what it has made."""
        source = self.origins[id(carriers[0])]
        is_gate = all(self.origins[id(t)].is_gate for t in carriers)
        bounds = support = None
        if len(carriers) == len(made) == 1 and args and args[0] is carriers[0]:
            if source.bounds is not None:
                bounds = tuple(func(bound, *args[1:], **kwargs) for bound in source.bounds)
            if name in PADDING:
                support = func(self._support(carriers[0]), *args[1:], **kwargs)
                support = support if support.shape[1] == 1 else None
            elif made[0].shape == carriers[0].shape:
                support = source.support
        for tensor in made:
            shares = name in VIEWS or share_memory(tensor, carriers[0])
            family = source.family if shares else set()
            root = self._common_root(carriers, tensor.shape) if name in UNMOVED else None
            self.origins[id(tensor)] = Origin(tensor, bounds, support, is_gate, root, family)

    @property
    def _name(self) -> str:
        """The running module, which only an audit asks for."""
        return self.path.name if self.state.is_audited else ""

    def _support(self, tensor: Tensor) -> Tensor:
        known = self.origins[id(tensor)].support
        return tensor.new_ones((1, 1, *tensor.shape[2:])) if known is None else known

    def _unsupported(self, what: str) -> UnsupportedLayerError:
        return UnsupportedLayerError(
            f"{self.path.describe()} uses {what}, which has no relevance rule. The presets "
            f"({', '.join(PRESETS)}) cover convolutions, linear layers, normalization, "
            "attention, pooling, residual sums, gates and elementwise activations; for "
            "other networks, such as recurrent ones, use NormGrad."
        )

    # --- one handler for each kind of operation ------------------------------------------------

    def _convolution(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        call = convolution_arguments(name, args, kwargs)
        inputs = call["input"]
        self._check_fixed(call["weight"], name)
        if isinstance(call["padding"], str):
            pads = explicit_padding(call)
            call["padding"] = 0
            if any(pads):
                inputs = self.__torch_function__(F.pad, (), (inputs, pads))
        if inputs.dim() == call["weight"].dim() - 1:
            raise self._unsupported("a convolution without a batch axis")
        return self._layer(convolution_map(name, call, self._name), inputs)

    def _linear(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        inputs, weight, bias = linear_arguments(*args, **kwargs)
        if weight.requires_grad or not inputs.requires_grad:
            with self:
                outputs = torch.matmul(inputs, weight.mT)
                return outputs if bias is None else outputs + bias
        return self._layer(LinearMap(weight, bias, self._name), inputs)

    def _matrix_product(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        if name in ("matmul", "mm", "rmatmul"):
            first, second = (*args, *kwargs.values())[:2]
            first, second = (second, first) if name == "rmatmul" else (first, second)
            if not second.requires_grad and second.dim() == 2:
                return self._layer(LinearMap(second.t(), None, self._name), first)
            if not first.requires_grad and first.dim() == 2 <= second.dim():
                with self:
                    return F.linear(second.mT, first).mT
            if first.requires_grad and second.requires_grad:
                return self._multilinear(torch.matmul, "product", [first, second])
        signals, call = as_function_of_signals(func, args, kwargs)
        return self._multilinear(call, "product", signals)

    def _multilinear(self, call: Callable, layer_type: str, signals: list[Tensor]) -> Tensor:
        return MultilinearRelevance.apply(call, self.state, self._name, layer_type, *signals)

    def _layer(self, layer: Any, inputs: Tensor) -> Tensor:
        origin = self.origins[id(inputs)]
        rule = self.rules.rule_for(layer.layer_type, origin.bounds is not None)
        if rule.name == "z_box" and not self.has_bounds:
            raise ValueError(
                "rule 'z_box' needs the lowest and highest possible pixel value: set "
                "input_low and input_high (one number per channel, from the image "
                "processor's mean and std), or choose a preset without it, such as "
                "'epsilon_plus'."
            )
        return layer_relevance(inputs, layer, rule, self.state, origin.bounds, origin.support)

    def _check_fixed(self, weight: Tensor, name: str) -> None:
        if weight.requires_grad:
            raise self._unsupported(f"a '{name}' whose weights depend on the picture")

    def _batch_norm(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        names = ("input", "running_mean", "running_var", "weight", "bias", "training")
        names += ("momentum", "eps")
        defaults = {"weight": None, "bias": None, "training": False, "eps": 1e-5}
        call = {**defaults, **dict(zip(names, args, strict=False)), **kwargs}
        if call["training"] or call["running_mean"] is None:
            raise self._unsupported("batch statistics instead of running ones")
        inputs, mean = call["input"], call["running_mean"]
        scale = torch.rsqrt(call["running_var"] + call["eps"])
        scale = scale if call["weight"] is None else scale * call["weight"]
        shift = -mean * scale if call["bias"] is None else call["bias"] - mean * scale
        shape = (-1, *(1,) * (inputs.dim() - 2))
        return self._affine(inputs, scale.view(shape), shift.view(shape))

    def _normalisation(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        uses_picture = kwargs.get("use_input_stats", args[5] if len(args) > 5 else True)
        if name == "instance_norm" and not uses_picture:
            return self._batch_norm(name, func, args, kwargs)
        layer = NORMALISATIONS[name](self._name, *args, **kwargs)
        inputs = kwargs.get("input", args[0] if args else None)
        return layer_relevance(inputs, layer, self.epsilon_rule, self.state)

    def _softmax(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        scores, call = first_operand(func, args, kwargs)
        axis = softmax_axis(args, kwargs, scores)
        return SoftmaxRelevance.apply(scores, call, axis, self.state, self._name)

    def _attention(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        if self.state.accounts or not is_plain_attention(args, kwargs):
            with self:
                return COMPOSED[name](*args, **kwargs)
        scale = kwargs.get("scale")
        scale = args[0].shape[-1] ** -0.5 if scale is None else scale
        return AttentionRelevance.apply(*args, scale, self.state)

    def _normaliser(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        inputs, call = first_operand(func, args, kwargs)
        error = self._unsupported(f"the operation '{name}' other than to scale another signal")
        result = self._element_of(inputs, Normaliser.apply(inputs, call, error))
        self.origins[id(result)].is_gate = True
        return result

    def _scaling(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        return PassThrough.apply(*first_operand(func, args, kwargs))

    def _choice(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        signals, call = as_function_of_signals(func, args, kwargs)
        if len(signals) == 1:
            return self._element_of(signals[0], PassThrough.apply(signals[0], call))
        root = self._common_root(signals, signals[0].shape)
        if root is not None:
            return self._activation_in_steps(root, lambda: call(*signals))
        return call(*signals)  # the one that is taken takes all

    def _affine(self, inputs: Tensor, scale: Tensor | None, shift: Tensor) -> Tensor:
        bounds = self.origins[id(inputs)].bounds
        if bounds is None:
            result = AffineRelevance.apply(inputs, scale, shift, self.state, self._name)
            return self._element_of(inputs, result)
        return self._rescale_pixels(inputs, lambda x: (x if scale is None else x * scale) + shift)

    def _rescale_pixels(self, pixels: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        """A change of unit of the pixels: relevance passes, and their bounds change with it."""
        result = PassThrough.apply(pixels, function)
        ends = [function(bound) for bound in self.origins[id(pixels)].bounds]
        bounds = (torch.minimum(*ends), torch.maximum(*ends))
        self.origins[id(result)] = Origin(result, bounds, self.origins[id(pixels)].support)
        return result

    def _activation(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        inputs, call = first_operand(func, args, kwargs)
        if not isinstance(inputs, Tensor) or not inputs.requires_grad:
            raise self._unsupported(f"the operation '{name}' with a signal as its setting")
        if changes_input(func, args, kwargs):
            # the layer before has stored this very tensor and needs its values later
            result = PassThrough.apply(inputs, lambda x: call(x.clone()))
        else:
            result = PassThrough.apply(inputs, call)
        root = self._common_root([inputs], result.shape)
        self.origins[id(result)] = Origin(result, is_gate=name in GATES, root=root)
        return result

    def _common_root(self, inputs: list[Tensor], shape: torch.Size) -> Tensor | None:
        return common_root([self.origins[id(tensor)] for tensor in inputs], shape)

    def _activation_in_steps(self, root: Tensor, call: Callable[[], Tensor]) -> Tensor:
        """What several operations make of each element: relevance passes them in one step."""
        result = PassThrough.apply(root, lambda _: call())
        self.origins[id(result)] = Origin(result, root=root)
        return result

    def _element_of(self, inputs: Tensor, result: Tensor) -> Tensor:
        """Remember a result that differs from the inputs by constants only."""
        root = self._common_root([inputs], result.shape)
        is_gate = self.origins[id(inputs)].is_gate
        self.origins[id(result)] = Origin(result, is_gate=is_gate, root=root)
        return result

    def _pooling(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        inputs, call = first_operand(func, args, kwargs)
        return self._multilinear(call, "pooling", [inputs])

    def _addition(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        alpha = kwargs.get("alpha", 1)
        first, second = operands(args, kwargs)
        weights = (1.0, alpha if name == "add" else -alpha)
        if name == "rsub":
            weights = (-alpha, 1.0)
        carries = [isinstance(term, Tensor) and term.requires_grad for term in (first, second)]
        if all(carries):
            root = self._common_root([first, second], first.shape)
            if root is not None:
                return self._activation_in_steps(
                    root, lambda: weights[0] * first + weights[1] * second
                )
            return SumRelevance.apply(self.state, self._name, weights, first, second)
        (inputs, scale), (constant, factor) = zip((first, second), weights, strict=True)
        if carries[1]:
            (inputs, scale), (constant, factor) = (constant, factor), (inputs, scale)
        shift = torch.as_tensor(constant, dtype=inputs.dtype, device=inputs.device) * factor
        return self._affine(inputs, None if scale == 1 else scale, shift)

    def _product(self, name: str, func: Callable, args: tuple, kwargs: dict) -> Tensor:
        if name in ("neg", "negative"):
            return self._scaled(args[0], torch.neg)
        first, second = operands(args, kwargs)
        first, second = (second, first) if name == "rdiv" else (first, second)
        carries = [isinstance(term, Tensor) and term.requires_grad for term in (first, second)]
        is_product = name in ("mul", "multiply")
        root = self._common_root([first, second], first.shape) if all(carries) else None
        if root is not None:
            call = torch.mul if is_product else torch.div
            return self._activation_in_steps(root, lambda: call(first, second))
        if not is_product:
            return self._quotient(first, second, carries)
        if all(carries):
            signal, gate = self._signal_and_gate(first, second)
            return ProductRelevance.apply(signal, gate)
        inputs, constant = (first, second) if carries[0] else (second, first)
        return self._scaled(inputs, lambda x: x * constant)

    def _quotient(self, first: Any, second: Any, carries: list[bool]) -> Tensor:
        if not carries[0]:
            return self._normaliser("div", lambda x: first / x, (second,), {})
        # what a signal is divided by counts as a constant, as the deviation in a normalisation
        divisor = second.detach() if carries[1] else second
        return self._scaled(first, lambda x: x / divisor)

    def _scaled(self, inputs: Tensor, function: Callable[[Tensor], Tensor]) -> Tensor:
        if self.origins[id(inputs)].bounds is not None:
            return self._rescale_pixels(inputs, function)
        return self._element_of(inputs, PassThrough.apply(inputs, function))

    def _signal_and_gate(self, first: Tensor, second: Tensor) -> tuple[Tensor, Tensor]:
        """What keeps the relevance, and a constant; two signals when neither is a gate."""
        gates = [self.origins[id(tensor)].is_gate for tensor in (first, second)]
        if gates[0] == gates[1]:  # a gate also shows by being one number a channel
            gates = [first.numel() < second.numel(), second.numel() < first.numel()]
        if gates[0] == gates[1]:
            return first, second
        # detached, so that nothing below the gate is run for relevance it never gets
        return (second, first.detach()) if gates[0] else (first, second.detach())


_HANDLERS: tuple[tuple[frozenset[str], Callable], ...] = (
    (ACTIVATIONS, RelevanceMode._activation),
    (CONVOLUTION_NAMES, RelevanceMode._convolution),
    (frozenset({"linear"}), RelevanceMode._linear),
    (ADDITION, RelevanceMode._addition),
    (POOLING, RelevanceMode._pooling),
    (PRODUCT, RelevanceMode._product),
    (frozenset({"batch_norm"}), RelevanceMode._batch_norm),
    (MATRIX_PRODUCT, RelevanceMode._matrix_product),
    (frozenset(NORMALISATIONS), RelevanceMode._normalisation),
    (frozenset({"softmax"}), RelevanceMode._softmax),
    (SCALINGS, RelevanceMode._scaling),
    (frozenset({"scaled_dot_product_attention"}), RelevanceMode._attention),
    (NORMALISERS, RelevanceMode._normaliser),
    (EXTREMES, RelevanceMode._choice),
)
_HANDLER_OF = {name: handler for names, handler in reversed(_HANDLERS) for name in names}
