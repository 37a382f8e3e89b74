"""Names of sounds made phrases, sounds out of containers, everyday classes, and the audio head's fit."""

from __future__ import annotations

import dataclasses
import gzip
import io
import struct
import zipfile
import zlib
from pathlib import Path

import named_sounds
import numpy as np
import pytest
import starter_sounds
from sound_archives import members, unpack_sounds
from sound_scores import everyday_score, paired, phrase_ranks, recall_of, shown
from sound_sources import SOURCES, Source
from starter_everyday import EVERYDAY, everyday_class
from starter_fit import Pairs, unit
from starter_names import ABSENT, CATEGORIES, SOUND_CLASSES, SOUND_CLASSIFIERS
from starter_sounds import START, Sounds, fit_sounds, left_out, twins


@pytest.mark.parametrize(
    ("name", "folder", "text"),
    [
        ("magic-holy-2", "", "magic holy"),
        ("default_gravel_footstep.3", "", "gravel footstep"),
        ("wolf-hit-1", "", "wolf hurt"),
        ("RockHit2", "", "rock impact"),  # what is struck is not hurt
        ("DoorClose1", "Structures", "door close"),
        ("grass3", "footsteps", "footsteps grass"),
        ("birdchirp", "misc", "bird chirp"),
        ("cow_select1", "", "cow"),  # an animal's answer is its voice
        ("archer_select1", "", ""),  # a person's is speech
        ("sword-miss", "", ""),
        ("audio-test-signal", "", ""),
        ("3", "", ""),
    ],
)
def test_sound_names_make_phrases(name: str, folder: str, text: str) -> None:
    assert named_sounds.phrase(name, folder) == text


def test_only_the_sounds_that_a_source_names_are_rows(tmp_path: Path) -> None:
    for name in (
        "sounds/dog-1.ogg",
        "sounds/dog-2.ogg",
        "music/dog.ogg",
        "sounds/menu/dog.ogg",
        "sounds/dog.txt",
    ):
        path = tmp_path / "pack" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    for number in range(9):
        (tmp_path / "pack/sounds" / f"cat-{number}.ogg").write_bytes(b"")
    rows = named_sounds.find_sounds(tmp_path / "pack", tmp_path, Source("pack", r"/?sounds/", r"/menu/"))
    assert [row["text"] for row in rows] == ["cat"] * named_sounds.ALIKE + ["dog", "dog"]
    assert rows[-1] == {
        "id": "pack/sounds/dog-2",
        "audio": "pack/sounds/dog-2.ogg",
        "text": "dog",
        "label": "pack",
    }


def test_packages_are_named_once() -> None:
    names = [source.package for source in SOURCES]
    assert len(set(names)) == len(names)
    assert not {"ktuberling-data", "klettres-data"} & set(names)  # speech


def clonk_group(name: str, files: dict[str, bytes]) -> bytes:
    """A group as Clonk packs it, for the test: scrambled header, entries, contents, gzip with other magic."""
    header = bytearray(204)
    header[:24] = b"RedWolf Design GrpFolder"
    struct.pack_into("<i", header, 36, len(files))
    for place in range(0, 201, 3):
        header[place], header[place + 2] = header[place + 2], header[place]
    entries, contents = b"", b""
    for title, data in files.items():
        entry = bytearray(316)
        entry[: len(title)] = title.encode()
        struct.pack_into("<5i", entry, 260, 0, 0, len(data), 0, len(contents))
        entries, contents = entries + bytes(entry), contents + data
    return b"\x1e\x8c" + gzip.compress(bytes(b ^ 237 for b in header) + entries + contents)[2:]


def qt_resource(name: str, data: bytes, *, squeezed: bool) -> bytes:
    """A compiled resource of one file in its root."""
    blob = struct.pack(">I", len(data)) + zlib.compress(data) if squeezed else data
    blobs = struct.pack(">I", len(blob)) + blob
    names = b"\0" * 6 + struct.pack(">HI", len(name), 0) + name.encode("utf-16-be")
    root = struct.pack(">IHII", 0, 2, 1, 1) + bytes(8)
    leaf = struct.pack(">IHHHI", 6, int(squeezed), 0, 0, 0) + bytes(8)
    tree = 20 + len(blobs) + len(names)
    return b"qres" + struct.pack(">4I", 3, tree, 20, 20 + len(blobs)) + blobs + names + root + leaf


def test_containers_give_their_sounds(tmp_path: Path) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("sound/door/open.ogg", b"OggS1")
        file.writestr("sound/readme.txt", b"no")
    label = b'"Cow". By somebody.\0'
    entry = bytes([len(label)]) + label + b"RIFFmoo"
    archives = {
        "a.pk3": (zipped.getvalue(), {"sound/door/open.ogg": b"OggS1"}),
        "b.ocg": (clonk_group("b", {"Bark.ogg": b"OggS2", "x.txt": b"x"}), {"Bark.ogg": b"OggS2"}),
        "c.rcc": (qt_resource("pig.ogg", b"OggS3", squeezed=False), {"pig.ogg": b"OggS3"}),
        "d.rcc": (qt_resource("cow.ogg", b"OggS4" * 9, squeezed=True), {"cow.ogg": b"OggS4" * 9}),
        "e.cat": (struct.pack("<II", 8, 7) + entry, {"00-Cow.wav": b"RIFFmoo"}),
    }
    for name, (data, expected) in archives.items():
        (tmp_path / name).write_bytes(data)
        folder = tmp_path / f"{name}.out"
        assert unpack_sounds(tmp_path / name, folder) == 1
        found = {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*") if p.is_file()}
        assert found == expected
    with pytest.raises(ValueError, match="no known container"):
        list(members("f.bin", b"????"))


def test_a_container_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    zipped = io.BytesIO()
    with zipfile.ZipFile(zipped, "w") as file:
        file.writestr("../../evil.ogg", b"OggS")
    (tmp_path / "a.zip").write_bytes(zipped.getvalue())
    assert unpack_sounds(tmp_path / "a.zip", tmp_path / "deep" / "er") == 1
    assert [p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob("*.ogg")] == ["deep/er/evil.ogg"]


@pytest.mark.parametrize(
    ("name", "title"),
    [
        ("water drop", "water"),
        ("soft fire", "fire"),
        ("fire truck", ""),
        ("glass footstep", ""),  # glass is no ground that the class names
        ("snow footstep", "footsteps"),
        ("horse hurt", ""),
        ("bird chirp", "bird"),
        ("bat chirp", ""),
        ("start and stop car engine", "car engine"),
    ],
)
def test_everyday_classes_take_plain_names_only(name: str, title: str) -> None:
    assert everyday_class(name) == title


def test_everyday_score_counts_the_nearest_class_name() -> None:
    titles = list(EVERYDAY)
    texts = np.eye(len(titles), dtype=np.float32)
    names = ["rain", "sheep", "soft fire", "fire"]
    vectors = np.stack([texts[0], *(texts[titles.index(t)] for t in ("sheep", "fire", "bell"))])
    score = everyday_score(vectors, names, lambda lines: texts[[titles.index(line) for line in lines]])
    assert score.right.tolist() == [True, True, False]
    assert score.summary()["by class"] == {"fire": [2, 0.5], "sheep": [1, 1.0]}
    assert score.summary()["mean over classes"] == 0.75


def test_paired_differences_draw_groups_together() -> None:
    ours, theirs = np.array([1, 1, 1, 0]), np.array([0, 0, 1, 0])
    assert paired(ours, theirs)[0] == 0.5
    assert paired(ours, ours) == [0.0, 0.0, 0.0]
    assert paired(ours, theirs, ["a", "a", "b", "b"])[1:] == [0.0, 1.0]


def test_all_sounds_of_a_name_match_it() -> None:
    vectors = np.eye(3, dtype=np.float32)[[0, 1, 2, 2]]
    targets = np.eye(3, dtype=np.float32)[[0, 0, 1, 2]]
    both = phrase_ranks(vectors, targets, ["dog", "dog", "cat", "owl"])
    assert [list(each) for each in both] == [[1.0, 3.0, 3.0, 1.0], [4.0, 1.0, 2.0]]
    assert recall_of((np.ones(4), np.full(2, 7.0))) == pytest.approx((3 + 1) / 6)
    table = shown({"shipped": both, "other": (both[0] + 20, both[1] + 20)})
    assert table["R@10, shipped - other"]["audio to text"] == [1.0, 1.0, 1.0]


def test_sound_classes_are_the_categories_in_order() -> None:
    assert len(CATEGORIES) == 82
    assert list(CATEGORIES) == sorted(CATEGORIES)
    assert set(CATEGORIES) - set(SOUND_CLASSES) == {"ARCHIVED"}
    assert {name: 82 - len(absent) for name, absent in SOUND_CLASSIFIERS.items()} == {
        "soundlyTrain": 79,
        "prosfx": 78,
    }
    assert SOUND_CLASSIFIERS["soundlyTrain"] == ABSENT


def made_up(count: int = 90, seed: int = 0) -> Sounds:
    """Sounds of three packages whose features are a noisy linear image of their names' vectors."""
    random = np.random.default_rng(seed)
    targets = unit(random.normal(size=(count, 384)).astype("f4"))
    lift = random.normal(size=(384, 512)).astype("f4")
    logits = random.normal(size=(count, 6)).astype("f4")
    pairs = Pairs(targets @ lift, logits, targets, np.zeros(count, bool))
    return Sounds(pairs, [f"s{n}" for n in range(count)], [f"p{n % 3}" for n in range(count)])


def test_the_sounds_fit_equals_scaled_ridge_written_out() -> None:
    sounds = made_up()
    classes = unit(np.random.default_rng(1).normal(size=(6, 384)).astype("f4"))
    recipe = dataclasses.replace(START, gain=0.0, penalty=50.0)
    fitted = fit_sounds(sounds.pairs, classes, recipe)
    inputs = unit(sounds.pairs.features).astype(np.float64)
    scaled = (inputs - inputs.mean(0)) / inputs.std(0)
    wanted = sounds.pairs.targets - sounds.pairs.targets.mean(0)
    weight = np.linalg.lstsq(
        np.vstack([scaled, np.sqrt(50.0) * np.eye(512)]),
        np.vstack([wanted, np.zeros((512, 384))]),
        rcond=None,
    )[0]
    found = fitted.vectors(sounds.pairs.features, sounds.pairs.logits)
    np.testing.assert_allclose(found, unit((scaled @ weight).astype("f4")), atol=2e-3)


def test_a_package_left_out_teaches_nothing_of_its_own() -> None:
    """A sound's own name must not reach its vector, not even through a twin in another package."""
    sounds = made_up()
    noise = unit(np.random.default_rng(5).normal(size=(90, 384)).astype("f4"))
    features = sounds.pairs.features.copy()
    features[1::3] = features[0::3]  # every recording of the first package is in the second as well
    noise[1::3] = noise[0::3]
    pairs = dataclasses.replace(sounds.pairs, targets=noise, features=features)
    sounds = dataclasses.replace(sounds, pairs=pairs)
    classes = unit(np.random.default_rng(1).normal(size=(6, 384)).astype("f4"))
    recipe = dataclasses.replace(START, gain=0.0, penalty=0.1)
    assert twins(sounds, pairs.take(np.arange(0, 90, 3))).reshape(-1, 3)[:, :2].all()
    held = left_out(sounds, classes, recipe)
    alike = (held * noise).sum(1)[0::3]
    seen = fit_sounds(pairs, classes, recipe).vectors(features, pairs.logits)
    assert (seen * noise).sum(1)[0::3].mean() > 0.9
    assert abs(alike.mean()) < 0.05


@pytest.mark.starter
def test_the_classifier_in_the_head_is_the_mean_of_two() -> None:
    import torch

    from retrieval.models.starter.backbones import load_aisfx

    table = np.random.default_rng(0).random((5, 512), np.float32)
    with torch.inference_mode():
        parts = load_aisfx(with_classifiers=True).class_logits(torch.from_numpy(table))
    total, count = np.zeros((5, len(SOUND_CLASSES))), np.zeros(len(SOUND_CLASSES))
    for name, absent in SOUND_CLASSIFIERS.items():
        places = [SOUND_CLASSES.index(c) for c in CATEGORIES if c not in absent]
        logits = parts[name].numpy()
        total[:, places] += logits - logits.mean(1, keepdims=True)
        count[places] += 1
    np.testing.assert_allclose(starter_sounds.sound_logits(table), total / count, atol=1e-4)
