"""The page and the tables: true numbers, nothing from data acts, nothing from outside is needed."""

from __future__ import annotations

import json
import os
import re
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from indexer.report import FileFailed
from indexer.types import Modality
from retrieval.evaluation import diagnosis
from retrieval.evaluation.encode import EncodedRows
from retrieval.evaluation.report import About, html, to_json, write_html
from retrieval.evaluation.run import Comparison, Evaluation, Settings, compare, evaluate
from retrieval.render.evaluation import comparison_lines, evaluation_lines
from retrieval.training.types import Examples

IMAGE, TEXT, AUDIO = Modality
ROWS = 30
EVIL = "<script>alert('&')</script>"
ABOUT = About("birds <i>", "ab" * 32, "pairs <b>.csv", digest="cd" * 32, split="test", against="starter")


@pytest.fixture(scope="module")
def encoded(tmp_path_factory: pytest.TempPathFactory) -> EncodedRows:
    from PIL import Image

    folder = tmp_path_factory.mktemp("pictures")
    random = np.random.default_rng(0)
    paths = []
    for number in range(ROWS):
        paths.append(str(folder / f"<{number}>.png"))
        Image.new("RGB", (300, 200), (number, 10, 200)).save(paths[-1])
    base = random.standard_normal((ROWS, 8))
    vectors = {}
    for modality in (IMAGE, TEXT):
        noisy = base + 0.8 * random.standard_normal(base.shape)
        vectors[modality] = (noisy / np.linalg.norm(noisy, axis=1, keepdims=True)).astype(np.float32)
    slots = {m: np.arange(ROWS)[:, None] for m in (IMAGE, TEXT)}
    data = Examples(slots, np.full(ROWS, -1), np.arange(ROWS), np.ones(ROWS, np.float32))
    names = {IMAGE: tuple(paths), TEXT: tuple(f"{EVIL} {n}" for n in range(ROWS))}
    failures = (FileFailed("<img src=x>.png", "broken"),)
    return EncodedRows(vectors, data, names, np.arange(ROWS), failures)


@pytest.fixture(scope="module")
def evaluation(encoded: EncodedRows) -> Evaluation:
    return evaluate(encoded.vectors, encoded.examples, Settings(resamples=50))


@pytest.fixture(scope="module")
def comparison(encoded: EncodedRows, evaluation: Evaluation) -> Comparison:
    worse = {IMAGE: encoded.vectors[IMAGE], TEXT: encoded.vectors[TEXT][::-1].copy()}
    return compare(evaluation, evaluate(worse, encoded.examples, evaluation.settings))


@pytest.fixture(scope="module")
def page(encoded: EncodedRows, evaluation: Evaluation, comparison: Comparison) -> str:
    return html(encoded, evaluation, ABOUT, comparison=comparison)


def test_nothing_from_data_acts(page: str) -> None:
    assert "<script" not in page
    assert "&lt;script&gt;alert(&#39;&amp;&#39;)&lt;/script&gt;" in page
    assert "<img src=x>" not in page
    assert "&lt;img src=x&gt;.png: broken" in page
    assert "birds &lt;i&gt;" in page
    assert "default-src 'none'" in page  # even if something slipped through


def test_the_page_needs_nothing_else(page: str) -> None:
    assert not re.findall(r"""(?:src|href)=["'](?!data:|#)""", page)
    assert "url(http" not in page
    assert page.count("data:image/jpeg;base64,") >= 6
    assert page.count("<article") == 12


def test_plots_are_whole_and_take_the_page_colour(page: str) -> None:
    drawings = re.findall(r"<svg.*?</svg>", page, flags=re.DOTALL)
    assert len(drawings) == 3
    for drawing in drawings:
        root = ElementTree.fromstring(drawing)
        assert root.get("role") == "img"
        assert root.get("aria-label")
        assert "currentColor" in drawing
        assert "#010203" not in drawing


def test_the_page_says_the_numbers_and_where_they_come_from(page: str, evaluation: Evaluation) -> None:
    way = evaluation.directions[0]
    assert f"<td>{100 * way.metrics['R@5'].value:.1f}<small>" in page
    for word in (ABOUT.space_id, "cd" * 32, "split test", "50 draws, seed 0", "numpy"):
        assert word in page


def test_the_same_page_again(
    encoded: EncodedRows, evaluation: Evaluation, comparison: Comparison, page: str
) -> None:
    assert html(encoded, evaluation, ABOUT, comparison=comparison) == page


def test_drawing_leaves_the_process_as_it_was(
    encoded: EncodedRows, evaluation: Evaluation, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    import matplotlib

    monkeypatch.delenv("MPLCONFIGDIR", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    before = dict(matplotlib.rcParams)
    write_html(tmp_path / "report.html", encoded, evaluation, ABOUT)
    assert dict(matplotlib.rcParams) == before
    assert "MPLCONFIGDIR" not in os.environ
    assert [path.name for path in tmp_path.iterdir()] == ["report.html"]


def test_json_has_every_number(encoded: EncodedRows, evaluation: Evaluation, comparison: Comparison) -> None:
    found = json.loads(
        json.dumps(to_json(evaluation, ABOUT, encoded=encoded, comparison=comparison), allow_nan=False)
    )
    assert found["mean_recall"] == evaluation.mean_recall
    assert [(way["from"], way["to"]) for way in found["directions"]] == [("image", "text"), ("text", "image")]
    first = evaluation.directions[0].metrics["MRR"]
    assert found["directions"][0]["metrics"]["MRR"] == {
        "value": first.value,
        "low": first.low,
        "high": first.high,
    }
    assert found["comparison"][0]["differences"]["median rank"]["p"] is None
    assert found["failures"] == [{"path": "<img src=x>.png", "error": "broken"}]
    assert found["settings"]["by_label"] is False


def test_an_interval_that_does_not_exist_is_null(encoded: EncodedRows) -> None:
    data = encoded.examples
    one = Examples(data.contents, data.labels, np.zeros(ROWS, int), data.weights)
    found = evaluate(encoded.vectors, one, Settings(resamples=5))
    assert to_json(found, ABOUT)["directions"][0]["metrics"]["R@1"]["low"] is None
    assert " - " in evaluation_lines(found)[2]
    assert not re.search(r"\bnan\b", html(encoded, found, ABOUT))


def test_lines_for_a_terminal(evaluation: Evaluation, comparison: Comparison) -> None:
    lines = evaluation_lines(evaluation)
    assert lines[0].split()[:5] == ["direction", "queries", "gallery", "R@1", "R@5"]
    value = evaluation.directions[0].metrics["R@1"].value
    assert lines[1].split()[:6] == ["image", "to", "text", "30", "30", f"{100 * value:.1f}"]
    assert lines[3].split()[:2] == ["chance", "3.3"]
    assert f"{100 * evaluation.mean_recall:.1f}" in lines[-1]
    compared = comparison_lines(comparison, "new\x1b[31m", "old")
    assert compared[0].startswith("new\\x1b[31m minus old")
    assert "*" in compared[2]


def test_a_narrow_terminal_gets_a_line_a_metric(evaluation: Evaluation, comparison: Comparison) -> None:
    wide = evaluation_lines(evaluation, width=200)
    assert wide == evaluation_lines(evaluation)
    narrow = evaluation_lines(evaluation, width=80)
    assert max(map(len, narrow)) <= 80
    for way in evaluation.directions:
        place = next(n for n, line in enumerate(narrow) if line.startswith(f"{way.name} "))
        own = narrow[place + 1 : place + 2 + len(way.metrics)]
        value, low, high = (100 * getattr(way.metrics["R@5"], name) for name in ("value", "low", "high"))
        assert own[1].split()[:3] == ["R@5", f"{value:.1f}", f"{low:.1f}..{high:.1f}"]
        assert own[-1].strip() == "30 queries, 30 candidates"
    compared = comparison_lines(comparison, "new", "old", width=80)
    assert max(map(len, compared)) <= 80
    gain = comparison.directions[0].differences["R@5"]
    assert any(line.startswith("  R@5") and f"{100 * abs(gain.value):.1f}" in line for line in compared)


# The numbers behind the plots


def test_similarities_are_of_pairs_and_of_others(encoded: EncodedRows, evaluation: Evaluation) -> None:
    way = evaluation.directions[0]
    found = diagnosis.similarities(encoded.vectors, way, limit=500)
    table = encoded.vectors[IMAGE].astype(float) @ encoded.vectors[TEXT].astype(float).T
    assert found.pairs == pytest.approx(np.diag(table))
    others = table[~np.eye(ROWS, dtype=bool)]
    assert len(found.others) == 500
    assert np.abs(found.others[:, None] - others).min(axis=1).max() < 1e-12  # each is one of them
    wins = (found.pairs[:, None] > found.others).mean() + (found.pairs[:, None] == found.others).mean() / 2
    assert found.apart == pytest.approx(wins)


def test_everything_relevant_leaves_no_others(encoded: EncodedRows) -> None:
    data = encoded.examples
    one = Examples(data.contents, np.zeros(ROWS, int), data.groups, data.weights)
    found = evaluate(encoded.vectors, one, Settings(by_label=True, resamples=5))
    assert not len(diagnosis.similarities(encoded.vectors, found.directions[0], limit=50).others)
    assert "None: every query finds a relevant item first." in html(encoded, found, ABOUT)


def test_gap_is_the_distance_of_centroids() -> None:
    vectors = {IMAGE: np.array([[1, 0], [1, 0]], np.float32), TEXT: np.array([[0, 1], [0, 9]], np.float32)}
    data = Examples({IMAGE: np.array([[0], [1]]), TEXT: np.array([[0], [0]])}, np.full(2, -1), np.arange(2))
    gaps = diagnosis.modality_gaps(vectors, data)
    assert [(gap.first, gap.second) for gap in gaps] == [(IMAGE, TEXT)]
    assert gaps[0].distance == pytest.approx(2**0.5)  # the text that no row uses does not count


def test_plane_keeps_the_directions_of_most_variance() -> None:
    random = np.random.default_rng(1)
    spread = np.array([5, 3, 0.01, 0.01])
    vectors = {m: (random.standard_normal((200, 4)) * spread).astype(np.float32) for m in (IMAGE, TEXT)}
    slots = {m: np.arange(200)[:, None] for m in (IMAGE, TEXT)}
    found = diagnosis.plane(vectors, Examples(slots, np.full(200, -1), np.arange(200)))
    assert found.explained > 0.999
    together = np.concatenate([found.points[IMAGE], found.points[TEXT]])
    assert together.std(axis=0) == pytest.approx([5, 3], rel=0.15)
    assert found.centroids[IMAGE] == pytest.approx(found.points[IMAGE].mean(axis=0), abs=1e-5)


def test_worst_misses_come_first(encoded: EncodedRows, evaluation: Evaluation) -> None:
    way = evaluation.directions[1]
    found = diagnosis.worst_misses(encoded.vectors, way, limit=4)
    assert [miss.rank for miss in found] == sorted(way.scores.rank.tolist(), reverse=True)[:4]
    table = encoded.vectors[TEXT].astype(float) @ encoded.vectors[IMAGE].astype(float).T
    for miss in found:
        assert miss.wanted == miss.query
        assert miss.got == table[miss.query].argmax()
        assert miss.got_score >= miss.wanted_score
