"""The second stage: k-reciprocal re-ranking against a naive oracle, a cross-encoder made on the spot."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest

from indexer.errors import ModelError, QueryError, WeightsMissing
from indexer.types import FloatArray
from retrieval.query import rerank
from retrieval.query.rerank import cross, reciprocal


def units(count: int, seed: int, dim: int = 6) -> FloatArray:
    rows = np.random.default_rng(seed).standard_normal((count, dim))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def naive(
    query: FloatArray, vectors: FloatArray, cosine: FloatArray, k1: int, k2: int, trade: float
) -> list[float]:
    """The paper's formulas over sets and dictionaries, the query being number 0."""
    count = len(vectors)
    pairs = {
        (a + 1, b + 1): float(np.dot(vectors[a].astype(float), vectors[b].astype(float)))
        for a in range(count)
        for b in range(count)
        if a != b
    }
    values = list(pairs.values())
    asked = [float(one) for one in cosine]
    mean, spread = sum(asked) / count, math.sqrt(sum((x - sum(asked) / count) ** 2 for x in asked) / count)
    centre = sum(values) / len(values)
    wide = math.sqrt(sum((x - centre) ** 2 for x in values) / len(values))
    for number, value in enumerate(asked, start=1):
        pairs[0, number] = pairs[number, 0] = (value - mean) / spread * wide + centre

    def nearest(one: int, k: int) -> list[int]:
        others = sorted((other for other in range(count + 1) if other != one), key=lambda o: -pairs[one, o])
        return [one, *others[:k]]

    def mutual(one: int, k: int) -> set[int]:
        return {other for other in nearest(one, k) if one in nearest(other, k)}

    codes = []
    for one in range(count + 1):
        own = mutual(one, k1)
        wider = set(own)
        for other in own:
            theirs = mutual(other, max(1, round(k1 / 2)))
            if len(own & theirs) >= 2 / 3 * len(theirs):
                wider |= theirs
        weights = {o: 1.0 if o == one else math.exp(-(1 - min(1.0, pairs[one, o]))) for o in wider}
        codes.append({o: weight / sum(weights.values()) for o, weight in weights.items()})
    if k2 > 1:
        means = []
        for one in range(count + 1):
            near = nearest(one, k2 - 1)
            means.append({o: sum(codes[n].get(o, 0.0) for n in near) / len(near) for o in range(count + 1)})
        codes = means
    found = []
    for number in range(1, count + 1):
        least = sum(min(codes[0].get(o, 0.0), codes[number].get(o, 0.0)) for o in range(count + 1))
        most = sum(max(codes[0].get(o, 0.0), codes[number].get(o, 0.0)) for o in range(count + 1))
        found.append((1 - trade) * (least / most if most else 0.0) + trade * asked[number - 1])
    return found


@pytest.mark.parametrize(
    ("k1", "k2", "trade"), [(5, 1, 0.3), (8, 3, 0.0), (4, 6, 0.7), (50, 50, 0.2), (1, 1, 1.0)]
)
def test_reciprocal_is_the_papers_formula(k1: int, k2: int, trade: float) -> None:
    vectors, query = units(25, seed=k1), units(1, seed=99)[0]
    cosine = (0.2 * (vectors @ query)).astype(np.float32)  # of another modality: farther from all
    found = reciprocal(query, vectors, cosine, k1=k1, k2=k2, trade=trade)
    assert found.tolist() == pytest.approx(naive(query, vectors, cosine, k1, k2, trade), abs=1e-5)
    assert len(set(found.tolist())) > 1


def test_reciprocal_raises_what_lies_among_the_best() -> None:
    # Five of a kind, and one apart that is a little nearer to the query than the last of them.
    axes = np.eye(8, dtype=np.float64)
    rows = [axes[0] + 0.2 * axes[place] for place in range(1, 6)] + [axes[7] + 0.62 * axes[0]]
    noise = [axes[6] + 0.1 * one for one in units(6, seed=4, dim=8)]
    vectors = np.array([row / np.linalg.norm(row) for row in [*rows, *noise]], np.float32)
    query = (axes[0] + 0.35 * axes[7] - 0.9 * axes[5]).astype(np.float32)
    query /= np.linalg.norm(query)
    cosine = vectors @ query
    assert cosine[5] > cosine[4]
    found = reciprocal(query, vectors, cosine, k1=5, k2=3, trade=0.1)
    assert found[4] > found[5]


def test_reciprocal_of_few_and_of_equal_ones() -> None:
    one = units(1, seed=1)
    assert reciprocal(one[0], one, np.array([0.5], np.float32)).tolist() == [0.5]
    assert len(reciprocal(one[0], one[:0], np.zeros(0, np.float32))) == 0
    same = np.tile(one, (4, 1))
    found = reciprocal(one[0], same, np.full(4, 0.5, np.float32))
    assert np.isfinite(found).all()


@pytest.mark.parametrize("wrong", [{"k1": 0}, {"k2": 0}, {"trade": -0.1}, {"trade": float("nan")}])
def test_reciprocal_refuses_numbers_outside(wrong: dict[str, float]) -> None:
    with pytest.raises(QueryError, match="k-reciprocal"):
        reciprocal(units(1, 0)[0], units(3, 1), np.zeros(3, np.float32), **wrong)  # type: ignore[arg-type]


WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "a",
    "red",
    "blue",
    "house",
    "boat",
    "on",
    "the",
    "water",
]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Cross-encoders with random weights: `one` score a pair, `three`, and one whose weights are a pickle."""
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    folder = tmp_path_factory.mktemp("cross")
    torch.manual_seed(0)
    for name, labels in (("one", 1), ("three", 3)):
        own = folder / name
        own.mkdir()
        (own / "vocab.txt").write_text("\n".join(WORDS))
        transformers.BertTokenizer(str(own / "vocab.txt")).save_pretrained(own)
        config = transformers.BertConfig(
            vocab_size=len(WORDS),
            hidden_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            intermediate_size=16,
            initializer_range=0.5,
            num_labels=labels,
        )
        transformers.BertForSequenceClassification(config).save_pretrained(own)
    pickled = folder / "pickled"
    pickled.mkdir()
    for file in (folder / "one").iterdir():
        if file.suffix != ".safetensors":
            (pickled / file.name).write_bytes(file.read_bytes())
    torch.save({}, pickled / "pytorch_model.bin")
    return folder


def test_cross_scores_each_pair_as_the_model_does(models: Path) -> None:
    import torch
    import transformers

    query, texts = "a red boat", ["a boat on the water", "the blue house", "a boat on the water"]
    found = cross(query, texts, str(models / "one"))
    tokenizer = transformers.AutoTokenizer.from_pretrained(models / "one")
    network = transformers.AutoModelForSequenceClassification.from_pretrained(models / "one").eval()
    with torch.inference_mode():
        one_by_one = [
            float(network(**tokenizer(query, text, return_tensors="pt")).logits[0, 0]) for text in texts
        ]
    assert found.tolist() == pytest.approx(one_by_one, abs=1e-5)
    assert found[0] == pytest.approx(found[2])
    assert found[0] != pytest.approx(found[1], abs=1e-3)
    assert cross(query, [], str(models / "one")).tolist() == []


def test_cross_says_what_is_missing_or_wrong(models: Path, tmp_path: Path) -> None:
    with pytest.raises(WeightsMissing, match="nobody/nothing") as error:
        cross("a", ["b"], "nobody/nothing")
    assert "safetensors" in (error.value.hint or "")
    with pytest.raises(WeightsMissing):
        cross("a", ["b"], str(tmp_path / "none"))
    with pytest.raises(WeightsMissing):
        cross("a", ["b"], str(models / "pickled"))
    with pytest.raises(ModelError, match="3 scores"):
        cross("a", ["b"], str(models / "three"))
    assert "three" not in "".join(rerank._LOADED)
