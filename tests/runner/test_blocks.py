"""One block after another: taken where it is whole, compressed where it is not."""

import json
import re

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from salhub.cli import app
from salhub.entries import RECIPES, RecipeEntry
from salhub.runner.blocks import CompressedBlock
from salhub.runner.run import DivergedError, run
from tests.runner.toy_recipe import ToyBlockArguments, ToyBlockRecipe
from tests.testers.recipe import RecipeTester, Stopped, counted, products


def recipe_of(folder, **options) -> ToyBlockRecipe:
    return ToyBlockRecipe(ToyBlockArguments(output_dir=str(folder), cpu=True, **options))


def stop(folder, after: int) -> None:
    """Leave a run with some blocks done, and one that was not saved any more."""
    recipe, _ = counted(recipe_of(folder, resume_from_checkpoint="latest"), after)
    with pytest.raises(Stopped):
        run(recipe)


class TestToyBlocks(RecipeTester):
    stops = (1, 2, 3)

    @pytest.fixture
    def make(self):
        return recipe_of


def test_blocks_that_are_there_are_not_compressed_again(tmp_path):
    run(recipe_of(tmp_path / "whole"))
    stop(tmp_path / "out", 3)  # within the third of four
    blocks = sorted(tmp_path.glob("out/block-*"))
    assert [path.name for path in blocks] == ["block-0000.safetensors", "block-0001.safetensors"]
    before = [path.stat().st_mtime_ns for path in blocks]
    recipe = recipe_of(tmp_path / "out", resume_from_checkpoint="latest")
    recipe.evaluate = lambda *_: pytest.fail("stopped")  # so that the blocks stay
    with pytest.raises(pytest.fail.Exception):
        run(recipe)
    assert recipe.compressed == ["2", "3"]
    assert [path.stat().st_mtime_ns for path in blocks] == before
    run(recipe_of(tmp_path / "out", resume_from_checkpoint="latest"))
    assert products(tmp_path / "out") == products(tmp_path / "whole")
    assert not list(tmp_path.glob("out/block-*"))


@pytest.mark.parametrize("damage", ["a bit", "half of it", "another block"])
def test_a_damaged_block_and_those_behind_it_are_compressed_again(tmp_path, caplog, damage):
    run(recipe_of(tmp_path / "whole"))
    folder = tmp_path / "out"
    stop(folder, 4)
    path = folder / "block-0001.safetensors"
    content = bytearray(path.read_bytes())
    if damage == "a bit":
        content[-1] ^= 1
    elif damage == "half of it":
        content = content[: len(content) // 2]
    else:
        content = (folder / "block-0002.safetensors").read_bytes()
    path.write_bytes(content)
    recipe = recipe_of(folder, resume_from_checkpoint="latest")
    run(recipe)
    assert recipe.compressed == ["1", "2", "3"]
    assert (
        f"{path} is damaged; its block and the following ones are compressed again" in caplog.text
    )
    assert products(folder) == products(tmp_path / "whole")


def test_a_line_of_the_log_a_block_and_blocks_as_written_out(tmp_path):
    found = run(recipe_of(tmp_path))
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").open()]
    assert [(line["step"], line["block"]) for line in lines] == [
        (number + 1, str(number)) for number in range(4)
    ]
    assert all(line["error"] > 0 for line in lines)
    assert found.metric("seconds/blocks").n == 4
    weights = load_file(tmp_path / "model.safetensors")
    # Every row has few values, as it was rounded.
    assert max(len(row.unique()) for row in weights["3.weight"]) <= 2 * 4 + 1
    assert (tmp_path / "steps" / "levels.txt").read_text() == "3"


def test_what_the_blocks_that_were_there_have_taken_counts(tmp_path):
    stop(tmp_path, 3)
    for name in (0, 1):
        path = tmp_path / f"block-000{name}.safetensors"
        with safe_open(path, framework="pt") as file:
            record = {**file.metadata(), "seconds": "1000"}
        save_file(load_file(path), path, metadata=record)
    found = run(recipe_of(tmp_path, resume_from_checkpoint="latest"))
    assert found.wall_seconds > 2000 and found.metric("seconds/blocks").value > 2000


class Drawing(ToyBlockRecipe):
    """Adds what it draws to the stream between its blocks, and to its measurement."""

    def take_block(self, model, name, block):
        super().take_block(model, name, block)
        self.stream = self.stream + 0.1 * torch.randn_like(self.stream)

    def finish(self, model):
        with torch.no_grad():
            model[3].bias += torch.rand(8)
        return model

    def evaluate(self, model, accelerator, results):
        super().evaluate(model, accelerator, results)
        results.add_metric("drawn", torch.rand(()))


def test_what_is_drawn_beside_the_blocks_is_the_same_however_often_it_was_stopped(tmp_path):
    def make(folder, **options):
        return Drawing(ToyBlockArguments(output_dir=str(tmp_path / folder), cpu=True, **options))

    whole = run(make("whole"))
    recipe, _ = counted(make("out"), 3)
    with pytest.raises(Stopped):
        run(recipe)
    found = run(make("out", resume_from_checkpoint="latest"))
    assert products(tmp_path / "out") == products(tmp_path / "whole")
    assert found.metric("drawn").value == whole.metric("drawn").value


def test_blocks_left_by_a_kill_at_the_very_end_go_when_the_run_is_met_again(tmp_path):
    run(recipe_of(tmp_path))
    (tmp_path / "block-0001.safetensors").touch()
    run(recipe_of(tmp_path, resume_from_checkpoint="latest"))
    assert not list(tmp_path.glob("block-*"))


def test_an_error_that_is_no_number_ends_the_run(tmp_path):
    recipe = recipe_of(tmp_path)
    recipe.compress_block = lambda *_: CompressedBlock({}, {"error": float("nan")})
    with pytest.raises(DivergedError, match="the error of the block 0 is nan"):
        run(recipe)
    assert not list(tmp_path.glob("block-*"))


def test_a_new_run_takes_no_block_of_an_earlier_one(tmp_path):
    stop(tmp_path, 3)
    recipe = recipe_of(tmp_path, overwrite=True, seed=1)
    run(recipe)
    assert recipe.compressed == ["0", "1", "2", "3"]
    with pytest.raises(ValueError, match="has seed=1 and cannot be resumed with 0; give the same"):
        run(recipe_of(tmp_path, resume_from_checkpoint="latest"))


def test_tensors_of_any_kind_come_back_as_they_were(tmp_path):
    tensors = {
        "codes": torch.tensor([[1, -2], [3, 4]], dtype=torch.int8).T,
        "scale": torch.tensor(float("nan"), dtype=torch.bfloat16),
        "empty": torch.zeros(0, 3, dtype=torch.float16),
    }
    recipe, taken = recipe_of(tmp_path), []
    recipe.compress_block = lambda *_: CompressedBlock(tensors)
    recipe.take_block = lambda model, name, block: taken.append(block.tensors)
    run(recipe)
    for found in taken:
        for name, tensor in tensors.items():
            assert found[name].dtype == tensor.dtype and found[name].shape == tensor.shape
            torch.testing.assert_close(found[name], tensor, rtol=0, atol=0, equal_nan=True)


# --- the command line -----------------------------------------------------------------------------


def compress(*words: str):
    return CliRunner().invoke(app, ["compress", *words])


def test_a_recipe_is_carried_out_by_one_command(tmp_path, monkeypatch):
    toy = RecipeEntry("toy-block", "compress", "tests.runner.toy_recipe", "ToyBlockRecipe")
    monkeypatch.setattr("salhub.entries.RECIPES", [*RECIPES, toy])
    said = compress("toy-block", f"output_dir={tmp_path}", "cpu=true", "--levels", "5", "--json")
    assert said.exit_code == 0, said.output
    [line] = [line for line in said.stdout.splitlines() if line.startswith("{")]
    assert json.loads(line)["metrics"]["error"] > 0
    said = compress("toy-block", "levles=3")
    assert said.exit_code == 2 and "no option 'levles'. Did you mean 'levels'?" in said.output
    said = compress("toy-block", "batch_size=3")
    assert (
        "no option 'batch_size', because it takes no gradient steps; leave it out." in said.output
    )


def test_an_unknown_recipe_is_told_which_there_are():
    said = compress("toy-block")
    assert said.exit_code == 1
    assert "There is no recipe 'toy-block' to compress. The recipes are " in said.output
    hint = "There is no recipe 'nvti' to compress. Did you mean 'nvit'? The recipes are "
    assert hint in compress("nvti").output
    assert {"apiq-saliency", "nvit", "slim-llm"} <= set(re.findall(r"[\w-]+", said.output))
