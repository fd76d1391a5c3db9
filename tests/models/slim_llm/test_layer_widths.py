"""One width a layer: the choice beside all choices there are, and grids around zero."""

import itertools
import json
from collections import defaultdict

import pytest
import torch
from transformers import AutoModelForCausalLM

from salhub.models.slim_llm.column_updates import RangeSearch, quantized_columns
from salhub.models.slim_llm.group_scales import group_scales
from salhub.models.slim_llm.layer_report import CompressionReport
from salhub.models.slim_llm.layer_widths import WIDTHS, allocate_widths
from salhub.quantization.quantizer import packed_layers
from salhub.runner.run import run
from tests.models.slim_llm.compressing import recipe
from tests.testers.recipe import RecipeTester

MODULE = {"bits_granularity": "module", "bits": 2.5}
# Those that read the same inputs.
PARTS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)


def best_of_all(losses: list[list[float]], sizes: list[int], mean: float) -> float:
    """The least total of all choices under a mean."""
    allowed = (
        places
        for places in itertools.product(range(len(WIDTHS)), repeat=len(sizes))
        if sum(WIDTHS[one] * size for one, size in zip(places, sizes, strict=True))
        <= mean * sum(sizes) + 1e-9
    )
    return min(sum(row[one] for row, one in zip(losses, places, strict=True)) for places in allowed)


@pytest.mark.parametrize("mean", [2, 2.25, 2.6, 3, 3.5, 4])
@pytest.mark.parametrize("is_falling", [True, False])
def test_no_choice_under_the_mean_is_better(mean, is_falling):
    draw = torch.Generator().manual_seed(5)
    losses = torch.rand(7, 3, generator=draw, dtype=torch.float64)
    if is_falling:
        losses = losses.sort(dim=1, descending=True).values
    sizes = [5, 3, 16, 8, 5, 3, 16]
    found = allocate_widths(losses, [size * 64 for size in sizes], mean)
    pairs = list(zip(found, sizes, strict=True))
    assert sum(width * size for width, size in pairs) <= mean * sum(sizes)
    total = sum(float(row[width - 2]) for row, width in zip(losses, found, strict=True))
    assert total == pytest.approx(best_of_all(losses.tolist(), sizes, mean))
    if mean == 2:
        assert set(found) == {2}
    if mean == 4 and is_falling:
        assert set(found) == {4}


def loss_of(layer: torch.nn.Linear, rows: torch.Tensor, bits: int) -> float:
    """What the outputs of a layer lose when every group is rounded to its range."""
    written = layer.weight.detach().clone()
    for row in written:
        for begin in range(0, len(row), 4):
            values = row[begin : begin + 4]
            low, high = min(0.0, float(values.min())), max(0.0, float(values.max()))
            step = (high - low) / (2**bits - 1)
            zero = round(-low / step)
            codes = ((values / step).round() + zero).clamp(0, 2**bits - 1)
            row[begin : begin + 4] = (codes - zero) * step
    given, wanted = (
        (rows @ weight.T).softmax(1).clamp(min=1e-6) for weight in (written, layer.weight.detach())
    )
    return float((given * (given / wanted).log()).sum(1).mean())


def test_the_widths_of_a_model_are_the_best_of_all(tmp_path, sources):
    made = recipe(tmp_path / "out", sources, **MODULE)
    results = run(made)
    plain = AutoModelForCausalLM.from_pretrained(sources["model"])
    inputs = defaultdict(list)
    for name, layer in plain.model.layers.named_modules():
        if isinstance(layer, torch.nn.Linear):
            layer.register_forward_pre_hook(
                lambda module, given, name=name: inputs[name].append(given[0].flatten(0, 1))
            )
    with torch.no_grad():
        plain(made.windows)
    names = [[f"{block}.{name}" for name in part] for block in (0, 1) for part in PARTS]
    losses, sizes = [], []
    for part in names:
        layers = [plain.model.layers.get_submodule(name) for name in part]
        sizes.append(sum(layer.weight.numel() for layer in layers))
        found = [
            [loss_of(layer, torch.cat(inputs[name]), bits) for bits in WIDTHS]
            for name, layer in zip(part, layers, strict=True)
        ]
        losses.append([sum(column) for column in zip(*found, strict=True)])
    config = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]
    widths = []
    for part in names:
        digits = {digit for name in part for digit in config["group_bits"][f"model.layers.{name}"]}
        assert len(digits) == 1, part
        widths.append(int(digits.pop()))
    assert len(set(widths)) > 1
    total = sum(row[width - 2] for row, width in zip(losses, widths, strict=True))
    assert total == pytest.approx(best_of_all(losses, sizes, 2.5), rel=1e-3)
    mean = sum(width * size for width, size in zip(widths, sizes, strict=True)) / sum(sizes)
    assert results.metric("bits").value == pytest.approx(mean) and mean <= 2.5 == config["bits"]
    report = CompressionReport.load(tmp_path / "out").layers[f"model.layers.{names[0][0]}"]
    assert len(report.width_divergences) == 3 and not report.num_swapped


@pytest.mark.parametrize("bits", [2, 3, 4])
def test_symmetric_grids_lie_around_zero_and_reach_the_largest_weight(bits):
    weight = torch.randn(50, 8, generator=torch.Generator().manual_seed(1))
    weight[0] = 0
    scales = group_scales(weight, bits, symmetric=True)
    assert set(scales.zero.flatten().tolist()) == {2 ** (bits - 1)}
    for row, step, written in zip(weight, scales.step, scales.rounded(weight), strict=True):
        largest = float(row[row.abs().argmax()])
        levels = [float(step) * one for one in range(-(2 ** (bits - 1)), 2 ** (bits - 1))]
        assert abs(float(step)) == pytest.approx((abs(largest) or 1) / 2 ** (bits - 1))
        assert largest == 0 or largest == pytest.approx(max(levels, key=abs))
        nearest = [min(levels, key=lambda one, value=value: abs(one - value)) for value in row]
        torch.testing.assert_close(written, torch.tensor(nearest))


def test_the_search_and_the_updates_keep_to_a_symmetric_grid():
    draw = torch.Generator().manual_seed(2)
    weight, widths = torch.randn(6, 16, generator=draw), [torch.tensor([2, 3, 4, 2]).byte()]
    inputs = torch.randn(40, 16, generator=draw) @ torch.randn(16, 16, generator=draw)
    factor = torch.linalg.cholesky(torch.linalg.inv(inputs.T @ inputs), upper=True)
    errors = {}
    for search_range in (0.0, 0.6):
        search = RangeSearch(symmetric=True, search_range=search_range, norm=2.0)
        [made] = quantized_columns([weight], widths, factor, 4, search)
        assert torch.equal(made.zeros, (2 ** (widths[0] - 1)).byte().expand(6, 4))
        [rounded] = quantized_columns([weight], widths, factor, 4, search, backbone="rtn")
        errors[search_range] = float((rounded.dequantize() - weight).norm())
        with_updates, without = (
            (inputs @ (one.dequantize() - weight).T).norm() for one in (made, rounded)
        )
        assert with_updates < without
    assert errors[0.6] < errors[0.0]


class TestSymmetricWidths(RecipeTester):
    @pytest.fixture
    def make(self, sources):
        return lambda folder, **options: recipe(
            folder, sources, **{**MODULE, "symmetric": True, **options}
        )

    def test_every_zero_is_in_the_middle(self, make, tmp_path):
        run(make(tmp_path / "out"))
        model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
        for layer in packed_layers(model).values():
            weight = layer.to_quantized()
            assert (weight.zeros == 2 ** (layer.widths[0] - 1)).all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"bits": 2.5}, "bits must be 2, 3 or 4, got 2.5; set bits_granularity=module"),
        ({"bits_granularity": "module", "bits": 1.5}, "bits must be from 2 to 4, got 1.5"),
        ({**MODULE, "allocation": "random"}, "allocation=random applies to groups"),
        (
            {**MODULE, "preset": "gptq"},
            "preset=gptq gives all layers the same",
        ),
        ({"bits": 2.5, "preset": "rtn"}, "got 2.5; preset=rtn gives all layers the same bits"),
        ({"symmetric": True}, "symmetric needs one width per layer; set"),
    ],
)
def test_means_and_grids_that_cannot_be_are_refused(tmp_path, sources, options, words):
    with pytest.raises(ValueError, match=words):
        recipe(tmp_path / "out", sources, **options)
