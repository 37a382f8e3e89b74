"""Calibration: its features and maps on values, fitting where the truth is known, and what an index keeps."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from indexer.errors import ModelError, QueryError
from indexer.snapshot import Snapshot
from indexer.types import FloatArray, Modality
from retrieval.commands import calibrate as command
from retrieval.commands.calibrate import calibrate_index, keep_calibration
from retrieval.query.scores.calibrate import SHIPPED, Calibration, Line, features
from retrieval.query.scores.calibration_fit import Answers, best_cut, best_of, fitted, logistic, shown_in

IMAGE, TEXT, AUDIO = Modality.IMAGE, Modality.TEXT, Modality.AUDIO
BEST = np.linspace(0.2, 0.4, 50).astype(np.float32)


class Known:
    """A collection whose background is given."""

    def best_scores(self, query: Modality, modality: Modality) -> FloatArray | None:
        return None if modality is AUDIO else BEST

    def usual(self, modality: Modality, vector: FloatArray) -> tuple[float, float] | None:
        return 0.1, 0.05


def test_features_are_deviations_from_the_best_of_others_and_from_the_usual() -> None:
    told = features(np.array([0.3, 0.4], np.float32), BEST, (0.1, 0.05))
    assert told[:, 0] == pytest.approx([0.0, 0.1 / BEST.std()], abs=1e-5)
    assert told[:, 1] == pytest.approx([4.0, 6.0], abs=1e-5)


def test_probabilities_are_the_logistic_map_and_rise_with_the_cosine() -> None:
    line = Line((0.5, 0.25), -2.0, 0.3)
    held = Calibration({(TEXT, IMAGE): line, (TEXT, AUDIO): Line((1.0, 1.0), 0.0, 0.2)})
    cosine, vector = np.linspace(-1, 1, 101).astype(np.float32), np.zeros(4, np.float32)
    told = held.probabilities(cosine, TEXT, IMAGE, Known(), vector)
    assert told is not None
    at = 0.5 * (cosine[70] - 0.3) / BEST.std() + 0.25 * (cosine[70] - 0.1) / 0.05 - 2.0
    assert told[70] == pytest.approx(1 / (1 + np.exp(-at)), rel=1e-4)
    assert (np.diff(told) >= 0).all()
    assert told.min() >= 0
    assert told.max() <= 1
    assert held.probabilities(cosine, IMAGE, IMAGE, Known(), vector) is None  # not calibrated
    assert held.probabilities(cosine, TEXT, AUDIO, Known(), vector) is None  # nothing known of sounds
    assert held.cut(TEXT, IMAGE) == 0.3
    assert held.cut(IMAGE, IMAGE) == 0.0


def test_a_calibration_comes_back_from_json_and_a_falling_map_is_refused() -> None:
    held = Calibration({(TEXT, IMAGE): Line((0.5, 0.25), -2.0, 0.3)}, {"space_id": "x"})
    assert Calibration.from_json(held.to_json(), name="it") == held
    for change in ({"weights": [-0.1, 1.0]}, {"weights": [1.0]}, {"bias": float("nan")}, {"cut": 2}):
        document = json.loads(held.to_json())
        document["pairs"]["text/image"] |= change
        with pytest.raises(ModelError, match="not a calibration"):
            Calibration.from_json(json.dumps(document).encode(), name="it")
    for garbage in (b"", b"[]", b'{"format": "other"}', b"\xff"):
        with pytest.raises(ModelError):
            Calibration.from_json(garbage, name="it")


def test_the_shipped_one_is_whole_and_serves_its_own_space_only(tmp_path: Path) -> None:
    shipped = Calibration.from_json(SHIPPED.read_bytes(), name="shipped")
    assert set(shipped.lines) == {(one, other) for one in Modality for other in Modality}
    from retrieval.query.scores.calibrate import of_model

    space = shipped.said["space_id"]
    assert of_model(SimpleNamespace(path=tmp_path, space_id=space)) == shipped  # type: ignore[arg-type]
    assert of_model(SimpleNamespace(path=tmp_path, space_id="f" * 64)) is None  # type: ignore[arg-type]
    own = Calibration({(TEXT, IMAGE): Line((1.0, 0.0), 0.0, 0.1)})
    (tmp_path / "calibration.json").write_bytes(own.to_json())
    found = of_model(SimpleNamespace(path=tmp_path, space_id="f" * 64))  # type: ignore[arg-type]
    assert found is not None
    assert found.lines == own.lines


def made(count: int = 150, noise: float = 0.6) -> Answers:
    """Queries that are noisy copies of their segment, and unrelated background queries."""
    random = np.random.default_rng(3)

    def unit(rows: FloatArray) -> FloatArray:
        return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)

    segments = unit(random.standard_normal((count, 24)))
    queries = unit(segments + noise * unit(random.standard_normal((count, 24))))
    bank = unit(random.standard_normal((80, 24)))
    every = np.arange(count)
    own = np.zeros((count, count), bool)
    return Answers(queries, segments, every, every[:, None] == every, own, bank, np.ones((80, count), bool))


def test_best_scores_leave_out_what_may_not_be_compared() -> None:
    answers = made()
    answers.foreign[:, ::2] = False
    inside = np.arange(150) < 100
    told = best_of(answers, inside)
    allowed = [place for place in range(100) if place % 2]
    naive = sorted(max(float(query @ answers.segments[p]) for p in allowed) for query in answers.bank)
    assert told == pytest.approx(naive, abs=1e-6)


def test_a_fit_keeps_what_it_promises_on_other_queries() -> None:
    """Mean probability and share of relevant hits agree in each half of an unseen collection's hits."""
    held = fitted({(TEXT, IMAGE): made()})
    line = held.lines[TEXT, IMAGE]
    random = np.random.default_rng(9)
    other = made(400, noise=0.6)
    shown = shown_in(other, random.random(400) < 0.4, np.zeros(400, bool))
    probability = line(shown.told)
    for chosen in (probability < 0.1, probability >= 0.1):
        assert probability[chosen].mean() == pytest.approx(shown.relevant[chosen].mean(), abs=0.1)
    assert probability[shown.relevant].mean() > probability[~shown.relevant].mean() + 0.5


def test_what_a_collection_lacks_is_not_shown_as_relevant() -> None:
    answers = made(60)
    shown = shown_in(answers, np.ones(60, bool), np.arange(60) < 10)
    assert not shown.relevant[shown.query < 10].any()
    assert shown.relevant[shown.query >= 10].any()
    assert shown.possible == 50


def test_a_weight_is_never_negative() -> None:
    random = np.random.default_rng(4)
    told = random.standard_normal((400, 2)).astype(np.float32)
    weights, _ = logistic(told, told[:, 0] - told[:, 1] > 0)  # falls with the second
    assert weights[0] > 1
    assert weights[1] == 0
    weights, bias = logistic(told, -told.sum(axis=1) > 1)
    assert weights == (0.0, 0.0)
    assert 1 / (1 + np.exp(-bias)) == pytest.approx((-told.sum(axis=1) > 1).mean())


def test_the_cut_keeps_nine_of_ten_lists_with_something_right() -> None:
    """The best hit of a list counts, right or not; lists without a right one do not."""
    best = np.linspace(0.203, 0.803, 21)
    probability = np.concatenate([best, best - 0.1, [0.01, 0.02]]).astype(np.float32)
    query = np.concatenate([np.arange(21), np.arange(21), [21, 22]])
    relevant = np.concatenate([np.zeros(21), np.ones(21), [0, 0]]).astype(bool)
    cut = best_cut(probability, relevant, query, 23)
    assert cut == 0.26
    assert (best >= cut).sum() == 19  # of 21


def test_an_index_is_calibrated_on_its_own_captions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.retrieval import test_background as helper

    monkeypatch.setenv("TRIPTYCH_HOME", str(tmp_path / "home"))
    index = tmp_path / "i"
    monkeypatch.setattr(helper, "segments_of", _alike(helper.segments_of))
    helper.add(index, helper.pairs(0, 80))
    with pytest.raises(QueryError, match="no background"):
        calibrate_index(index)
    helper.derive(index)
    found = calibrate_index(index)
    assert {(TEXT, IMAGE), (IMAGE, TEXT)} <= set(found.lines)
    keep_calibration(index, found)
    model = SimpleNamespace(path=tmp_path, space_id="toy-space")
    with Snapshot.open(index) as snapshot:
        kept = Calibration.of(model, snapshot)  # type: ignore[arg-type]
    assert kept is not None
    assert kept.lines == found.lines
    keep_calibration(index, None)
    with Snapshot.open(index) as snapshot:
        assert Calibration.of(model, snapshot) is None  # type: ignore[arg-type]


def test_what_calibrate_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    line = Line((1.0, 0.0), 0.0, 0.04)
    few = {"image/audio": {"shown": 90, "relevant": 3}}
    fitted_on = {"text/image": {"shown": 400, "relevant": 30}}
    found = Calibration({(TEXT, IMAGE): line}, {"fitted on": fitted_on, "too few": few})
    kept = list[Calibration | None]()
    monkeypatch.setattr(command, "calibrate_index", lambda _: found)
    monkeypatch.setattr(command, "keep_calibration", lambda _, one: kept.append(one))
    command.run_calibrate(tmp_path, dry_run=True)
    command.run_calibrate(tmp_path, dry_run=True, forget=True)
    assert kept == []
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("text to image: 30 right among 400 shown; a list is shown where")
    assert said[0].endswith("4 % or more")
    assert said[1].startswith("image to audio: only 3 right among 90 shown")
    assert said[2:] == ["nothing was changed", "the model's own calibration would be used again"]
    command.run_calibrate(tmp_path)
    command.run_calibrate(tmp_path, forget=True)
    assert kept == [found, None]


def test_pairs_with_too_few_right_ones_are_named() -> None:
    random = np.random.default_rng(0)
    rows = random.standard_normal((60, 8)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    never = np.zeros((60, 60), bool)
    never[0, 0] = True
    answers = Answers(rows, rows, np.arange(60), never, np.zeros_like(never), rows, ~np.eye(60, dtype=bool))
    found = fitted({(TEXT, IMAGE): answers})
    assert found.lines == {}
    assert found.said["too few"]["text/image"]["relevant"] <= 3  # one query, in three sizes of collection


def _alike(plain):  # type: ignore[no-untyped-def]
    """Pictures and captions of one number have vectors near each other."""
    from tests.indexer.indexes import unit

    def made(word: str):  # type: ignore[no-untyped-def]
        segments, vectors = plain(word)
        number = "".join(filter(str.isdigit, word))
        mixed = vectors + 1.5 * unit(f"thing{number}")
        return segments, (mixed / np.linalg.norm(mixed, axis=1, keepdims=True)).astype(np.float32)

    return made
