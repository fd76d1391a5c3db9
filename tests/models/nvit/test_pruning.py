"""Scores, plans, steps, audits and exports of networks that are pruned."""

import logging

import numpy as np
import pytest
import torch
from torch import nn

from salhub.models.nvit.configuration_nvit import NViTConfig
from salhub.models.nvit.importance import SCORES, NViTScores, score_units
from salhub.models.nvit.latency_table import LatencyTable
from salhub.models.nvit.modeling_nvit import NViTForImageClassification
from salhub.models.nvit.onnx_export import export_onnx
from salhub.models.nvit.pruner_nvit import NViTPruner
from salhub.models.nvit.ranking import Ranking, RankingSettings
from salhub.models.nvit.score_audit import audit_scores, audit_table
from salhub.models.nvit.semi_structured import mask_2to4, sparsify_2to4
from salhub.models.nvit.shapes import NViTShape, UnitLayout
from salhub.models.nvit.unit_weights import without_units
from tests.models.nvit.small_vit import even_table, network, pictures
from tests.models.nvit.test_reference import mask_of

SIZES = {"embedding": 4, "head": 1, "qk": 2, "v": 2, "mlp": 4}


def pruner(model: NViTForImageClassification, **settings) -> NViTPruner:
    made = NViTPruner(model, even_table(model.config), **{"group_sizes": SIZES, **settings})
    made.score([pictures(6)])
    return made


def slow_step(layout, scores, live, table, eta, sizes, count):
    """The lowest groups, all of them scored anew by whole networks one unit smaller."""
    shape = layout.shape_of(live.tolist())
    before = table.predict(shape)
    entries = []
    for name, block, place in layout:
        units = [u for u in range(place.start, place.stop) if live[u]]
        smaller = live.copy()
        smaller[units[0]] = False
        width = len(units)
        limit = {"embedding": 0, "head": 2, "qk": 8, "v": 8, "mlp": 16}[name]
        saved = before - table.predict(layout.shape_of(smaller.tolist())) if width > limit else 0
        units.sort(key=lambda unit: (scores[unit], unit))
        groups = [units[i : i + sizes[name]] for i in range(0, width, sizes[name])]
        for group in groups[:-1]:  # one always stays
            entries.append((sum(scores[u] - eta * saved for u in group), (name, block), group))
    entries.sort(key=lambda entry: entry[0])
    return [unit for _, _, group in entries[:count] for unit in group]


def test_steps_are_those_of_a_list_that_is_made_anew_each_time():
    model = network()
    layout, table = model.layout, even_table(model.config)
    scores = np.random.default_rng(1).random(layout.size) ** 3
    live = np.ones(layout.size, dtype=bool)
    settings = RankingSettings(SIZES, eta=2000.0)
    ranking = Ranking(layout, scores, live, table, settings, table.predict(model.config))
    for _ in range(12):
        expected = slow_step(layout, scores, live, table, 2000.0, SIZES, 2)
        step = ranking.remove(2)
        assert sorted(step.units) == sorted(expected)
        live[step.units] = False
        assert step.shape == layout.shape_of(live.tolist())
        assert step.ratio == pytest.approx(table.predict(step.shape) / table.predict(model.config))


def test_a_plan_says_what_each_target_gives_and_removes_nothing():
    model = network()
    made = pruner(model)
    plans = made.plan([0.5, 0.75])
    assert made.mask.all() and made.ratio == 1
    for plan, target in zip(plans, (0.5, 0.75), strict=True):
        assert plan.target == target and plan.ratio <= target
        assert plan.seconds == pytest.approx(made.table.predict(plan.shape))
        small = made.compact(plan)
        assert NViTShape.of(small.config) == plan.shape
        assert small.num_parameters() == plan.num_parameters
        assert made.certificate(small, pictures()[0], plan.mask) < 1e-5
        assert small.config.pruning_record["target"] == target
        assert small.config.pruning_record["latency_table"] == made.table.digest
    # Snapshots of one run: what the larger network has lost, the smaller one has lost too.
    assert not (plans[0].mask & ~plans[1].mask).any()
    assert plans[0].num_steps > plans[1].num_steps > 0


def test_steps_with_scores_in_between_reach_a_target():
    model = network()
    made = pruner(model, score="per_sample", kappa=0.0)
    while made.ratio > 0.6:
        step = made.step()
        assert made.shape == step.shape and made.scores is None
        with pytest.raises(ValueError, match="no scores; call score"):
            made.plan(0.5)
        made.score([pictures(6)])
        assert not made.scores.values[~made.mask].any()
    small = made.compact()
    assert made.certificate(small, pictures()[0]) < 1e-5
    assert small.config.pruning_record["num_steps"] == len(made.steps)


def test_a_second_counts_where_eta_is_above_zero():
    model = network()
    free, paid = pruner(model, kappa=0.0), pruner(model, kappa=3.0)
    plans = [one.plan(0.6)[0] for one in (free, paid)]
    assert plans[0].eta == 0 < plans[1].eta
    assert plans[1].num_steps < plans[0].num_steps


def test_targets_that_make_no_sense_or_cannot_be_reached_are_refused():
    made = pruner(network())
    for target in (0, 1, 1.5, -0.1):
        with pytest.raises(ValueError, match="targets must be fractions of the original's latency"):
            made.plan(target)
    with pytest.raises(ValueError, match="targets is empty; give one or more, such as 0"):
        made.plan([])
    with pytest.raises(
        ValueError, match=r"target 0\.01 cannot be reached: .* the latency is 0\.\d+"
    ):
        made.plan(0.01)
    empty = pruner(network(), allow_empty=True)
    with pytest.raises(ValueError) as error:
        empty.plan(1e-9)
    with pytest.raises(ValueError) as other:
        made.plan(1e-9)
    reached = [float(str(one.value).split("latency is ")[1].split()[0]) for one in (error, other)]
    assert reached[0] < reached[1]
    small = empty.compact(empty.plan(0.1)[0])
    assert 0 in (*small.config.num_attention_heads, *small.config.intermediate_size)


def test_settings_out_of_range_are_refused():
    model = network()
    table = even_table(model.config)
    for settings, sentence in [
        ({"group_sizes": {"heads": 2}}, "Did you mean 'head'"),
        ({"group_sizes": {"head": 0}}, "group_sizes of 'head' must be 1 or more, got 0"),
        ({"eta": "some"}, "eta must be 'auto' or a number"),
        ({"kappa": -1.0}, "kappa must be 0 or more"),
        ({"groups_per_step": 0}, "groups_per_step must be 1 or more"),
    ]:
        with pytest.raises(ValueError, match=sentence):
            NViTPruner(model, table, **settings)
    table.dtype = "float16"
    with pytest.raises(ValueError, match="measured with dtype=float16, but here it is float32"):
        NViTPruner(model, table, strict=True)


def test_scoring_says_what_is_wrong(caplog):
    model, (pixels, labels) = network(), pictures()
    with pytest.raises(
        ValueError, match="The loss needs 'labels', but the batches have none; give"
    ):
        score_units(model, [{"pixel_values": pixels}])
    with pytest.raises(ValueError, match="There are no batches for scoring; give at least one"):
        score_units(model, [])
    with pytest.raises(ValueError, match="score must be one of batch"):
        score_units(model, [], score="bach")
    with pytest.raises(ValueError, match="score_constants of 'qk' must be above 0"):
        score_units(model, [], score_constants={"qk": 0})
    broken = network()
    broken.nvit.layers[0].mlp.fc1.weight.data[3] = torch.nan
    with pytest.raises(ValueError, match="No derivative of the loss is finite, so units cannot be"):
        score_units(broken, [(pixels, labels)])
    with caplog.at_level(logging.WARNING):
        huge = score_units(model, [(pixels, labels)], score_constants={"embedding": 1e-30})
    assert "24 of 138 scores are not finite and count as 0" in caplog.text
    assert not huge["embedding"].any() and huge["mlp"][0].any()


@pytest.mark.parametrize("score", SCORES)
def test_scoring_leaves_the_network_as_it_was(score):
    model = network().train()
    model.classifier.weight.requires_grad_(False)
    before = {name: one.clone() for name, one in model.state_dict().items()}
    with torch.inference_mode():
        scores = score_units(model, [tuple(one.clone() for one in pictures())], score=score)
    assert scores.values.shape == (model.layout.size,) and (scores.values >= 0).all()
    assert model.training and not model.classifier.weight.requires_grad
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(before[name], one) for name, one in model.state_dict().items())
    assert scores["embedding"].shape == (24,)
    assert [len(one) for one in scores["qk"]] == [5, 6, 4]


def test_an_audit_is_a_loss_a_group_and_tells_good_scores_from_bad_ones():
    torch.manual_seed(0)
    model = network()
    pixels, labels = pictures(64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    for _ in range(40):  # to a loss that pruning can spoil
        optimizer.zero_grad()
        model(pixels, labels=labels).loss.backward()
        optimizer.step()
    batches = [(pixels[:32], labels[:32]), (pixels[32:], labels[32:])]
    scores = {
        name: score_units(model, batches, score=name, score_constants={})
        for name in ("per_sample", "random")
    }
    audit = audit_scores(model, batches, scores, group_sizes=SIZES)
    assert len(audit.changes) == sum(-(-len(range(*place.indices(999))) // SIZES[name])
                                     for name, _, place in model.layout)  # fmt: skip
    with torch.no_grad():
        before = float(model(pixels, labels=labels).loss)
        units = scores["per_sample"].values[model.layout.place("head", 1)].argsort()
        mask = torch.ones(model.layout.size)
        mask[model.layout.place("head", 1).start + int(units[1])] = 0
        after = float(model(pixels, labels=labels, mask=mask).loss)
    place = [i for i, b in enumerate(audit.blocks) if (audit.structures[i], b) == ("head", 1)][1]
    assert float(audit.changes[place]) == pytest.approx(abs(after - before), rel=1e-4)
    assert audit.correlation("per_sample") > 0.5 > audit.correlation("random")
    rows = audit_table(audit)
    assert [len(row) for row in rows] == [7, 7] and rows[0][0] == "per_sample"


def test_two_of_four_weights_are_kept():
    weight = torch.randn(16, 32, generator=torch.Generator().manual_seed(0))
    kept = mask_2to4(weight)
    for row in range(16):
        for begin in range(0, 32, 4):
            values = weight[row, begin : begin + 4].abs()
            best = set(values.argsort(descending=True)[:2].tolist())
            assert set(kept[row, begin : begin + 4].nonzero()[:, 0].tolist()) == best
    assert mask_2to4(torch.ones(1, 4)).tolist() == [[True, True, False, False]]


def test_a_network_is_made_2to4_sparse_and_says_where_it_cannot_be(caplog, tmp_path):
    widths = {"num_attention_heads": [2, 4, 4], "v_head_dim": [8, 8, 4]}
    model = network(hidden_size=32, qk_head_dim=8, intermediate_size=[32, 48, 20], **widths)
    with caplog.at_level(logging.WARNING):
        found = sparsify_2to4(model, accelerate=True)
    assert (
        "Device 'cpu' has no sparse kernels; layers stay dense" in caplog.text
        and not found.is_accelerated
    )
    assert set(found.skipped) == {f"nvit.layers.2.mlp.fc{i}" for i in (1, 2)}
    assert "2 of 18 layers stay dense" in caplog.text
    for name, module in found.model.named_modules():
        if isinstance(module, nn.Linear):
            is_sparse = bool((module.weight.unflatten(-1, (-1, 4)) != 0).sum(-1).le(2).all())
            assert is_sparse == (name in found.layers), name
    found.model.save_pretrained(tmp_path)
    loaded = NViTForImageClassification.from_pretrained(tmp_path)
    pixels = pictures()[0]
    assert torch.equal(loaded(pixels).logits, found.model(pixels).logits)


@pytest.mark.filterwarnings("error::FutureWarning")
def test_a_pruned_network_is_written_as_onnx(tmp_path, caplog):
    pytest.importorskip("onnxscript", reason="ONNX needs the extra 'export'")
    reference = pytest.importorskip("onnx.reference", reason="ONNX needs the extra 'export'")
    made = pruner(network(), allow_empty=True)
    small = made.compact(made.plan(0.2)[0])
    path = export_onnx(small, tmp_path / "small.onnx")
    assert not [one for one in caplog.messages if "torchvision" in one]
    runtime = reference.ReferenceEvaluator(str(path))
    for count in (1, 5):  # of any size
        pixels = pictures(count)[0]
        found = runtime.run(None, {"pixel_values": pixels.numpy()})[0]
        with torch.no_grad():
            expected = small(pixels).logits.numpy()
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-4)


def test_a_plan_of_the_largest_network_takes_a_moment():
    config = NViTConfig(hidden_size=768, num_attention_heads=12, intermediate_size=3072)
    layout, table = UnitLayout(NViTShape.of(config)), even_table(config)
    scores = np.random.default_rng(0).random(layout.size)
    scores[:768] *= 1e4
    ranking = Ranking(layout, scores, np.ones(layout.size, bool), table,
                      RankingSettings(eta=0.0), table.predict(config))  # fmt: skip
    assert sum(map(len, ranking.groups)) == 2616
    steps = 0
    while ranking.ratio > 0.5:
        ranking.remove(2)
        steps += 1
    assert steps > 300


def test_tables_of_many_kinds_of_machines_give_plans():
    model = network()
    table: LatencyTable = even_table(model.config)
    table.seconds = {part: np.ones_like(one) for part, one in table.seconds.items()}
    made = NViTPruner(model, table, group_sizes=SIZES)
    made.score([pictures()])
    with pytest.raises(
        ValueError, match=r"everything, the latency is 1\.000 of the original; use a"
    ):
        made.plan(0.5)  # nothing saves time on it


def test_scores_are_saved_for_a_network_of_their_shape_alone(tmp_path):
    model, (pixels, labels) = network(), pictures()
    scores = score_units(model, [(pixels, labels)])
    path = scores.save(tmp_path / "scores.safetensors")
    found = NViTScores.load(path, model.layout)
    assert (found.score, found.num_batches) == ("batch", 1)
    assert torch.equal(found.values, scores.values)
    narrow = without_units(model, mask_of(model, ("embedding",)))
    with pytest.raises(ValueError, match="give scores of this network"):
        NViTScores.load(path, narrow.layout)
    with pytest.raises(FileNotFoundError, match="file of scores"):
        NViTScores.load(tmp_path / "none.safetensors", model.layout)
    path.write_bytes(b"no tensors")
    with pytest.raises(ValueError, match="contains no scores; make them with score_units"):
        NViTScores.load(path, model.layout)


def test_a_table_may_be_computed_instead_of_measured():
    config = network().config
    costs = {
        "attention": lambda width, head, qk, v: 2 * width * head * (qk + v),
        "mlp": lambda width, neurons: 2 * width * neurons,
        "rest": lambda width: 0 * width,
    }
    table = LatencyTable.computed(config, costs, device="weights")
    for shape in (NViTShape.of(config), NViTShape(7, (1, 2, 3), (3, 5, 1), (2, 1, 4), (9, 1, 2))):
        assert table.predict(shape) == pytest.approx(shape.num_block_parameters(config))


def test_scores_inside_of_autocast_are_those_outside():
    model = network()
    found = []
    for is_on in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=is_on):
            found.append(score_units(model, [pictures(32)], gate_sites="activations").values)
    exact, rounded = (one.double().log() for one in found)
    assert float(torch.corrcoef(torch.stack([exact, rounded]))[0, 1]) > 0.95
