"""The verbalizer's parts beside Captum, beside what the network needs, and beside plain loops.

    python -m benchmarks.verbalizer

Run it from the repository with `pip install 'salhub[bench]'`; a package that is missing is left
out and named. It writes benchmarks/results/verbalizer.json, and its tables beside it as .md.
"""

import argparse
import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from benchmarks.interleaved import Contender, race, use_one_thread
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.plain_phrase_search import greedy
from benchmarks.report import (
    RESULTS,
    Agreement,
    Requirement,
    add_agreements,
    add_comparisons,
    add_race,
    add_requirements,
    finish,
)
from salhub.models.verbalizer.candidates import find_candidates
from salhub.models.verbalizer.configuration_verbalizer import VerbalizerConfig
from salhub.models.verbalizer.modeling_verbalizer import SaliencyVerbalizerModel
from salhub.models.verbalizer.selection import select_greedily
from salhub.models.verbalizer.verbalizer import TEXTS_AT_ONCE
from salhub.results import Results, Table, measured, noted_as_it_comes

STEPS, NUM_TOKENS = 25, 24
NUM_TEXTS, NUM_WORDS = 1000, (20, 40)
TOLERANCE = 1e-4
PASSES, OURS, CAPTUM = "25 forward + backward passes", "salhub", "captum"
NUM_ALONE = 50
ALONE, TOGETHER = "salhub, 50 texts one by one", "salhub, 1000 texts"
PLAIN = "plain loops, 50 texts"


@dataclass(frozen=True)
class Task:
    """What is explained: texts of drawn words, and a network.

    Args:
        title: Kind of network.
        model: The verbalizer around it.
        ids: Tokens, (B, T).
        labels: Classes, (B,).
    """

    title: str
    model: SaliencyVerbalizerModel
    ids: Tensor
    labels: Tensor


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables and write the results file."""
    options = _options(arguments)
    use_one_thread()
    command = f"python -m benchmarks.verbalizer --rounds {options.rounds}"
    results = Results(model="verbalizer", command=command, seed=0)
    results.data = {"name": "drawn words and scores"}
    peers = find_peers("captum")
    with noted_as_it_comes(options.output), measured(results):
        required, agreements = [], []
        for task in tasks():
            needs, agreed = gradients(results, task, peers["captum"], options.rounds)
            required += needs
            agreements += agreed
        for num_words in NUM_WORDS:
            required += searches(results, num_words, options.rounds)
        add_agreements(results, agreements, TOLERANCE)
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verbalizer", description=__doc__)
    parser.add_argument("--rounds", type=int, default=20, help="rounds of each race")
    parser.add_argument("--output", type=Path, default=RESULTS / "verbalizer.json")
    return parser.parse_args(arguments)


def tasks() -> list[Task]:
    """The shipped classifier and a BERT of 4 layers, each with 1 text and with 32."""
    shipped = SaliencyVerbalizerModel.from_pretrained("salhub/verbalizer-movie-reviews")
    found = []
    for name, model in (("shipped classifier", shipped), ("BERT of 4 layers", small_bert())):
        for size in (1, 32):
            generator = torch.Generator().manual_seed(size)
            ids = torch.randint(5, 900, (size, NUM_TOKENS), generator=generator)
            labels = torch.randint(0, 2, (size,), generator=generator)
            found.append(Task(f"{name}, {size} text{'s' * (size > 1)}", model, ids, labels))
    return found


def small_bert() -> SaliencyVerbalizerModel:
    """A transformer with random weights."""
    from transformers import BertConfig, BertForSequenceClassification

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=1000, hidden_size=256, num_hidden_layers=4, num_attention_heads=4,
        intermediate_size=1024,
    )  # fmt: skip
    return SaliencyVerbalizerModel.from_classifier(BertForSequenceClassification(config).eval())


def gradients(
    results: Results, task: Task, captum: Peer, rounds: int
) -> tuple[list[Requirement], list[Agreement]]:
    """Integrated gradients beside Captum's, and beside as many passes of the network."""
    model, ids, labels = task.model, task.ids, task.labels
    ours, theirs = f"{OURS}, {task.title}", f"{CAPTUM}, {task.title}"
    contenders = [
        Contender(PASSES, lambda: passes(task), "torch"),
        Contender(ours, lambda: model(ids, class_labels=labels), "salhub"),
    ]
    agreed = []
    if captum.reason is None:
        contenders.append(Contender(theirs, lambda: by_captum(task), "captum"))
        found, expected = model(ids, class_labels=labels).saliency, by_captum(task)
        difference = float((found - expected).abs().max() / expected.abs().max())
        agreed.append(Agreement(f"integrated gradients, {task.title}", "captum", difference))
    timed = race(contenders, rounds=rounds, title=task.title)
    note = (
        f"{STEPS} steps, {NUM_TOKENS} tokens a text. The base is a forward and a backward pass "
        "down to the word vectors for each step, one after the other."
    )
    title = f"Integrated gradients, {task.title}"
    add_race(results, title, note, timed, {"to the passes": PASSES})
    if captum.reason is None:
        add_comparisons(results, timed, [(ours, theirs)])
    ratio = timed.ratio(ours, PASSES)
    return [Requirement.of_ratio(f"{title} / passes", ratio, 1.15)], agreed


def passes(task: Task) -> None:
    """As many forward and backward passes as there are steps."""
    network = task.model.backbone
    vectors = network.get_input_embeddings()(task.ids).detach()
    mask = torch.ones_like(task.ids)
    for _ in range(STEPS):
        points = vectors.clone().requires_grad_()
        logits = network(inputs_embeds=points, attention_mask=mask).logits
        torch.autograd.grad(logits.gather(1, task.labels[:, None]).sum(), points)


def by_captum(task: Task) -> Tensor:
    """The same scores by Captum, as its documentation calls it, (B, T)."""
    attr = importlib.import_module("captum.attr")
    network = task.model.backbone

    def forward(ids: Tensor) -> Tensor:
        return network(input_ids=ids, attention_mask=torch.ones_like(ids)).logits

    engine = attr.LayerIntegratedGradients(forward, network.get_input_embeddings())
    baseline = torch.full_like(task.ids, network.config.pad_token_id)
    found = engine.attribute(task.ids, baseline, target=task.labels, n_steps=STEPS)
    return found.sum(dim=-1).detach()


def searches(results: Results, num_words: int, rounds: int) -> list[Requirement]:
    """The search and the choice of phrases, alone and together, beside plain loops."""
    config = VerbalizerConfig()
    scores = np.random.default_rng(0).normal(size=(NUM_TEXTS, num_words))
    lengths = np.full(NUM_TEXTS, num_words)
    names = ("max_phrases", "max_words", "min_gain", "min_word_gain")
    settings = {name: getattr(config, name) for name in names}
    rows = scores[:NUM_ALONE].tolist()

    def search(begin: int, end: int) -> None:
        part = slice(begin, end)
        select_greedily(find_candidates(scores[part], lengths[part], config), config)

    def alone() -> None:
        for place in range(NUM_ALONE):
            search(place, place + 1)

    def together() -> None:
        for begin in range(0, NUM_TEXTS, TEXTS_AT_ONCE):
            search(begin, begin + TEXTS_AT_ONCE)

    loops = f"{PLAIN} of {num_words} words"
    contenders = [
        Contender(ALONE, alone, "salhub"),
        Contender(TOGETHER, together, "salhub"),
        Contender(loops, lambda: [greedy(row, **settings) for row in rows], "python"),
    ]
    timed = race(contenders, rounds=max(rounds, 5), title=f"Search, {num_words} words")
    add_race(
        results,
        f"Search, {num_words} words a text",
        "Filters over the scores and the greedy choice, without the sentences.",
        timed,
        {"to ours, one by one": ALONE},
    )
    add_comparisons(results, timed, [(ALONE, loops)])
    each_alone = 1e6 * min(timed.cpu[ALONE]) / NUM_ALONE
    each = 1e6 * min(timed.cpu[TOGETHER]) / NUM_TEXTS
    cells = [
        ["one text alone", f"{each_alone:.1f}"],
        [f"a text among {NUM_TEXTS}", f"{each:.1f}"],
    ]
    note = "Microseconds of processor time, the best round."
    columns = ["what", "microseconds"]
    results.tables.append(Table(f"Time of a text of {num_words} words", note, columns, cells))
    return [
        Requirement(f"microseconds, {num_words} words alone", each_alone, 200.0),
        Requirement(f"microseconds, {num_words} words among {NUM_TEXTS}", each, 10.0),
    ]


if __name__ == "__main__":
    main()
