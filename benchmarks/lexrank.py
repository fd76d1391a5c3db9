"""LexRank beside sumy and the package lexrank: ROUGE, seconds, and growth with the sentences.

    python -m benchmarks.lexrank --texts texts.jsonl --clusters clusters.jsonl

Run it from the repository with `pip install 'salhub[bench]'`; a package that is missing is left
out and named. The files hold an object a line, with the lists "sentences" and "references". It
writes benchmarks/results/lexrank.json, and its tables beside it as .md.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.interleaved import Contender, peak_array_memory, race, use_one_thread
from benchmarks.lexrank_peers import (
    lexrank_ranker,
    lexrank_scorer,
    sumy_ranker,
    sumy_summarizer,
)
from benchmarks.peers import Peer, find_peers, peers_table
from benchmarks.report import (
    RESULTS,
    Requirement,
    add_comparisons,
    add_race,
    add_requirements,
    existing_file,
    finish,
)
from salhub import LexRankModel
from salhub.models.lexrank.evaluation_lexrank import ranker_of
from salhub.models.lexrank.evaluation_summaries import (
    Ranker,
    SummarizationItem,
    compare_rankers,
    read_summarization_set,
)
from salhub.results import Results, Table, measured, noted_as_it_comes

MODEL = "salhub/lexrank-news-en"
NUM_SENTENCES = 1000
SIZES = (1_000, 3_000, 10_000, 30_000, 100_000)
OURS, GRAPH = "salhub, continuous", "salhub, threshold 0.1"
SUMY, LEXRANK = "sumy", "lexrank, threshold 0.1"
_MIB = 2**20


def main(arguments: Sequence[str] | None = None) -> None:
    """Run everything, print the tables and write the results file."""
    options = _options(arguments)
    if options.grow is not None:
        _grow(options.grow, options.threshold)
        return
    use_one_thread()
    names = f"--texts {options.texts.name} --clusters {options.clusters.name}"
    command = f"python -m benchmarks.lexrank {names} --rounds {options.rounds}"
    results = Results(model="lexrank", command=command, seed=0)
    for path in (options.texts, options.clusters):
        read_summarization_set(path)  # a line that is none of its kind is said before any work
    results.data = {"texts": options.texts.name, "clusters": options.clusters.name, "half": "test"}
    peers = find_peers("sumy", "lexrank")
    with noted_as_it_comes(options.output), measured(results):
        required = [
            *speed(results, peers, options.texts, options.rounds),
            *growth(results, options.texts),
        ]
        sets = (("Texts", options.texts, 100, True), ("Clusters", options.clusters, 25, False))
        for title, path, budget, is_document in sets:
            required.append(quality(results, peers, title, path, budget, is_document))
        add_requirements(results, required)
        results.tables.append(peers_table(peers))
    finish(results, peers, options.output)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.lexrank", description=__doc__)
    is_part = "--grow" in (sys.argv[1:] if arguments is None else arguments)
    for name, what in (("texts", "texts"), ("clusters", "clusters of texts")):
        parser.add_argument(
            f"--{name}", type=existing_file, required=not is_part, help=f"{what} with summaries"
        )
    parser.add_argument("--rounds", type=int, default=20, help="rounds of the race")
    parser.add_argument("--output", type=Path, default=RESULTS / "lexrank.json")
    parser.add_argument("--grow", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--threshold", type=float, help=argparse.SUPPRESS)
    return parser.parse_args(arguments)


# --- seconds --------------------------------------------------------------------------------------


def speed(results: Results, peers: dict[str, Peer], texts: Path, rounds: int) -> list[Requirement]:
    """Seconds for as many sentences as a small pile of articles has, tokenising included."""
    sentences = distinct_sentences(texts)[:NUM_SENTENCES]
    documents = [list(item.sentences) for item in read_summarization_set(texts)]
    model = LexRankModel.from_pretrained(MODEL)
    graph = LexRankModel.from_pretrained(MODEL, threshold=0.1)
    contenders = [
        Contender(OURS, lambda: model.rank(sentences), "salhub", peak_array_memory),
        Contender(GRAPH, lambda: graph.rank(sentences), "salhub", peak_array_memory),
    ]
    if peers["lexrank"].reason is None:
        other = lexrank_scorer(documents, 0.1)
        contenders.append(
            Contender(LEXRANK, lambda: other(sentences), "lexrank", peak_array_memory)
        )
    found = race(contenders, rounds=rounds, title="Seconds")
    note = f"{len(sentences)} sentences of news, from text to scores."
    add_race(results, "Scores of a thousand sentences", note, found, {"to ours": OURS})
    add_comparisons(results, found, [(OURS, LEXRANK), (GRAPH, LEXRANK)])
    required = []
    if peers["lexrank"].reason is None:
        ratio = found.ratio(LEXRANK, OURS)
        required.append(Requirement.of_ratio("lexrank / ours", ratio, 80, is_least=True))
    if peers["sumy"].reason is None:
        required.append(_against_sumy(results, model, sentences))
    return required


def _against_sumy(results: Results, model: LexRankModel, sentences: list[str]) -> Requirement:
    # Two rounds: each takes sumy many seconds.
    shorten = sumy_summarizer()
    contenders = [
        Contender(OURS, lambda: model.rank(sentences), "salhub", peak_array_memory),
        Contender(SUMY, lambda: shorten(sentences, 3), "sumy", peak_array_memory),
    ]
    found = race(contenders, rounds=2, warmup=1, title="Seconds beside sumy")
    add_race(results, "Beside sumy", "The same sentences.", found, {"to ours": OURS})
    add_comparisons(results, found, [(OURS, SUMY)])
    return Requirement.of_ratio("sumy / ours", found.ratio(SUMY, OURS), 300, is_least=True)


# --- growth ---------------------------------------------------------------------------------------


def growth(results: Results, texts: Path) -> list[Requirement]:
    """Seconds and memory as the sentences become more, each size in a process of its own."""
    rows, continuous = [], {}
    for threshold in (None, 0.1):
        for size in SIZES:
            with tempfile.TemporaryDirectory() as folder:
                # Made here, so that the memory it takes to make them is not counted.
                path = Path(folder) / "sentences.txt"
                path.write_text("\n".join(recombined_sentences(texts, size)), encoding="utf-8")
                found = _measured_growth(path, threshold)
            method = "continuous" if threshold is None else f"threshold {threshold}"
            results.add_metric(f"growth/{method}/{size}/cpu", found["seconds"], unit="s")
            results.add_metric(f"growth/{method}/{size}/memory", found["mib"], unit="MiB")
            rows.append([method, size, found["seconds"], found["mib"], found["steps"]])
            if threshold is None:
                continuous[size] = found
    note = (
        "Distinct sentences of words of news drawn anew. CPU seconds from text to scores, one "
        "thread; memory is what the process needs beyond Python, torch and the sentences."
    )
    columns = ["method", "sentences", "CPU s", "MiB", "steps"]
    results.tables.append(Table("Growth", note, columns, rows))
    largest = continuous[SIZES[-1]]
    return [
        Requirement(f"seconds for {SIZES[-1]} sentences, continuous", largest["seconds"], 30),
        Requirement(f"MiB for {SIZES[-1]} sentences, continuous", largest["mib"], 1024),
    ]


def _measured_growth(path: Path, threshold: float | None) -> dict[str, float]:
    command = [sys.executable, "-m", "benchmarks.lexrank", "--grow", str(path)]
    command += [] if threshold is None else ["--threshold", str(threshold)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def _grow(path: Path, threshold: float | None) -> None:
    use_one_thread()
    sentences = path.read_text(encoding="utf-8").split("\n")
    model = LexRankModel.from_pretrained(MODEL, threshold=threshold)
    model.rank(sentences[:10])
    # Importing torch took more memory than it keeps; Linux forgets that peak when it is told to.
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    before, began = _memory("VmRSS"), time.process_time()
    found = model.rank(sentences)
    seconds = time.process_time() - began
    steps = int(found.num_iterations)
    print(json.dumps({"seconds": seconds, "mib": _memory("VmHWM") - before, "steps": steps}))


def _memory(field: str) -> float:
    """MiB of this process by a field of /proc/self/status, such as "VmHWM", its peak."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    [line] = [line for line in lines if line.startswith(f"{field}:")]
    return int(line.split()[1]) * 1024 / _MIB


def distinct_sentences(texts: Path) -> list[str]:
    """Sentences of all texts, each once."""
    items = read_summarization_set(texts)
    return list(dict.fromkeys(sentence for item in items for sentence in item.sentences))


def recombined_sentences(texts: Path, size: int) -> list[str]:
    """As many distinct sentences, of the lengths and the words of real ones."""
    generator = np.random.default_rng(0)
    words = [sentence.split() for sentence in distinct_sentences(texts)]
    pool = np.array([word for sentence in words for word in sentence])
    lengths = generator.choice([len(sentence) for sentence in words], size=size)
    drawn = generator.choice(pool, size=int(lengths.sum()))
    parts = np.split(drawn, np.cumsum(lengths)[:-1])
    found = [" ".join([*part, f"w{number}"]) for number, part in enumerate(parts)]
    assert len(set(found)) == size
    return found


# --- quality --------------------------------------------------------------------------------------


def quality(
    results: Results,
    peers: dict[str, Peer],
    title: str,
    path: Path,
    budget: int,
    is_document: bool,
) -> Requirement:
    """ROUGE on the test half; peers count rareness in the whole set, ours in another collection."""
    rankers: dict[str, Ranker] = {"salhub": ranker_of(LexRankModel.from_pretrained(MODEL))}
    everything = read_summarization_set(path)
    if peers["lexrank"].reason is None:
        documents = _documents(everything, is_document)
        rankers["lexrank, threshold 0.1"] = lexrank_ranker(documents, 0.1)
        rankers["lexrank, continuous"] = lexrank_ranker(documents, None)
    if peers["sumy"].reason is None:
        rankers["sumy"] = sumy_ranker(budget)
    items = read_summarization_set(path, "test")
    note = "The packages get their stop words, and lexrank counts rareness in the whole set."
    compare_rankers(results, title, items, rankers, budget, note=note, progress=True)
    scores = {name: results.metric(f"{title}/rouge1/{name}").value for name in rankers}
    best = max((value for name, value in scores.items() if name != "salhub"), default=0.0)
    return Requirement(
        f"{title}: R-1 less the best package", scores["salhub"] - best, 0.0, is_least=True
    )


def _documents(items: list[SummarizationItem], is_document: bool) -> list[list[str]]:
    if is_document:
        return [list(item.sentences) for item in items]
    return [[sentence] for item in items for sentence in item.sentences]


if __name__ == "__main__":
    main()
