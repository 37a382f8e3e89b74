"""sentence-transformers folders as towers: our vectors are the library's, and unsafe folders are refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image, ImageOps
from sentence_transformers import SentenceTransformer
from sentence_transformers.sentence_transformer.modules import Router

from indexer.errors import ModelError
from indexer.media.image import read_image
from indexer.types import Modality, Preparer
from retrieval.encoders.described import preparer_of
from retrieval.encoders.tower import Tower, text_inputs
from retrieval.models.bundle import TowerSpec
from retrieval.models.export import export_tower
from retrieval.models.families import build, sentence
from retrieval.runtime.onnx import OnnxRuntime
from tests.retrieval.families import sentence_models as made

PARITY = 0.02  # of the median distance between different inputs
Vectors = npt.NDArray[np.float32]
TEXTS = (
    "",
    " ",
    "red hat",
    "  A  RED\that \n",
    "Ça coûte 5 € — l’été, ÀÉÎ",
    "👩🏽‍🚀🏳️‍🌈 ok 😀",
    "שלום عليكم",
    "Tom &amp; Jerry &lt;b&gt;bold&lt;/b&gt;",
    "東京タワー",
    "[SEP] <s> </s> [MASK] <|endoftext|>",
    "two cats asleep near the window " * 300,
    "a lighthouse on a rock in the evening",
)
PROMPTS = {"query": "find the best answer for: ", "document": "a passage: "}


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)  # small matrices: threads would only wait for each other
    yield
    torch.set_num_threads(before)


MODELS: dict[str, Callable[[Path], Path]] = {
    "minilm": made.minilm,
    "cls": lambda folder: made.saved(
        folder / "saved", made.unit(made.pooled(made.mpnet(folder / "0"), "cls"))
    ),
    "lowercased": made.lowercased,
    "last": lambda folder: made.saved(folder / "saved", made.pooled(made.causal(folder / "0"), "lasttoken")),
    "prompts": lambda folder: made.saved(
        folder / "saved", made.pooled(made.bert(folder / "0"), include_prompt=False), prompts=PROMPTS
    ),
    "static": lambda folder: made.static(folder / "saved"),
    "clip": made.clip,
}
# One graph an architecture: the real one is a part of the starter; prompts are exported in test_pull.py.
EXPORTED = [name for name in MODELS if name not in ("minilm", "prompts")]
BATCH = 4  # padded together; few, since one text is as long as the model takes


@dataclass(frozen=True)
class Case:
    folder: Path
    library: Any
    towers: dict[Modality, TowerSpec]
    tokenizer: Path

    def preparer(self, modality: Modality) -> Any:
        tower = self.towers[modality]
        return preparer_of(modality, tower.preprocessing, tower.window, tokenizer=str(self.tokenizer))


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Case]:
    known: dict[str, Case] = {}

    def get(name: str) -> Case:
        if name not in known:
            folder = MODELS[name](tmp_path_factory.mktemp(name))
            library = SentenceTransformer(str(folder), device="cpu", local_files_only=True)
            towers = {tower.modality: tower for tower in sentence.describe(folder, name=f"st:{name}")}
            tokenizer = tmp_path_factory.mktemp("tokenizer") / "tokenizer.json"
            sentence.write_tokenizer(folder, tokenizer)
            known[name] = Case(folder, library, towers, tokenizer)
        return known[name]

    return get


def unit(vectors: Any) -> Vectors:
    found = np.asarray(vectors, dtype=np.float32)
    return found / np.maximum(np.linalg.norm(found, axis=1, keepdims=True), 1e-12)


def share(found: Any, expected: Any) -> float:
    """The largest distance between ours and theirs, as a share of the median one between theirs."""
    ours, theirs = unit(found), unit(expected)
    rows, columns = np.triu_indices(len(theirs), 1)
    median = float(np.median(np.linalg.norm(theirs[rows] - theirs[columns], axis=1)))
    assert median > 0.3, "different inputs hardly differ: the comparison would prove nothing"
    return float(np.linalg.norm(ours - theirs, axis=1).max()) / median


def run(network: torch.nn.Module, preparer: Preparer, inputs: Any, *, query: bool = False) -> Vectors:
    """Inputs through torch, texts padded as a tower pads them."""
    if preparer.modality is Modality.TEXT:
        prepare = preparer.query if query else preparer.tensor  # type: ignore[attr-defined]
        tensors = [prepare(text) for text in inputs]
        batches = [text_inputs(tensors[start : start + BATCH]) for start in range(0, len(tensors), BATCH)]
    else:
        batches = [{"views": np.concatenate([preparer.tensor(one) for one in inputs])}]
    with torch.inference_mode():
        found = [network(*(torch.from_numpy(array) for array in batch.values())) for batch in batches]
    return torch.cat(found).numpy()


def texts_of(case: Case) -> tuple[str, ...]:
    """Without those longer than a passage for a model without a limit: there ours ends, the library's not."""
    endless = case.library.max_seq_length > 10_000
    return tuple(text for text in TEXTS if not endless or len(text) < 1000)


# --- parity ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", list(MODELS))
def test_texts_come_out_as_from_the_library(name: str, case: Callable[[str], Case]) -> None:
    model = case(name)
    preparer, texts = model.preparer(Modality.TEXT), texts_of(model)
    network = sentence.load(model.folder, Modality.TEXT)
    documents = model.library.encode_document(list(texts), batch_size=BATCH)
    assert share(run(network, preparer, texts), documents) < 1e-4
    queries = run(network, preparer, texts, query=True)
    assert share(queries, model.library.encode_query(list(texts), batch_size=BATCH)) < 1e-4
    assert model.towers[Modality.TEXT].dim == queries.shape[1] == model.library.encode("a").shape[0]
    assert not any(weight.requires_grad for weight in network.parameters())


@pytest.mark.parametrize("name", list(MODELS))
def test_ids_are_the_librarys(name: str, case: Callable[[str], Case]) -> None:
    model = case(name)
    preparer = model.preparer(Modality.TEXT)
    for text in texts_of(model):
        expected = model.library.preprocess([text], prompt=preparer.prefix or None)["input_ids"]
        assert preparer.tensor(text).tolist() == expected.flatten().tolist(), text


@pytest.mark.parametrize("name", EXPORTED)
def test_one_graph_of_texts_gives_the_librarys_vectors(
    name: str, case: Callable[[str], Case], tmp_path: Path
) -> None:
    model = case(name)
    tower, preparer, texts = model.towers[Modality.TEXT], model.preparer(Modality.TEXT), texts_of(model)
    export_tower(sentence.load(model.folder, Modality.TEXT), tmp_path / "text.onnx", preparer)
    encoder = running(tower, preparer, tmp_path / "text.onnx")
    found = encoder.encode([preparer.tensor(text) for text in texts])
    assert share(found, model.library.encode_document(list(texts))) < 1e-3
    alone = encoder.encode([preparer.tensor(texts[0])])  # no token at all, for the mean of static vectors
    np.testing.assert_allclose(alone[0], found[0], atol=1e-5)


def running(tower: TowerSpec, preparer: Preparer, graph: Path) -> Tower:
    return Tower(
        preparer,
        lambda: OnnxRuntime.open(graph),
        space_id="",
        dim=tower.dim,
        batch_size=tower.batch_size,
        group=3,
    )


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Pixels of hard pictures; the last is of a file that is to be turned."""
    draw = np.random.default_rng(3)
    shapes = ((1, 1), (20, 3000), (3000, 20), (100, 77), (32, 32), (33, 31), (300, 200))
    noise = [draw.integers(0, 256, (*shape, 3), np.uint8) for shape in shapes]
    coloured = Image.new("RGB", (120, 80), (220, 40, 10))
    coloured.paste((10, 60, 230), (0, 0, 60, 40))
    path = tmp_path_factory.mktemp("pictures") / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    coloured.save(path, exif=exif)
    upright = read_image(path)
    np.testing.assert_array_equal(upright, np.asarray(ImageOps.exif_transpose(Image.open(path))))
    return [*noise, upright]


def test_pictures_come_out_as_from_the_library(
    case: Callable[[str], Case], pictures: list[Any], tmp_path: Path
) -> None:
    model = case("clip")
    tower, preparer = model.towers[Modality.IMAGE], model.preparer(Modality.IMAGE)
    network: Any = sentence.load(model.folder, Modality.IMAGE)
    expected = model.library.encode([Image.fromarray(one) for one in pictures])
    assert share(run(network, preparer, pictures), expected) < PARITY
    for one in pictures:
        ours = network.normalised(torch.from_numpy(preparer.tensor(one).copy()))
        theirs = model.library.preprocess([Image.fromarray(one)])["pixel_values"]
        levels = ((ours - theirs) * network.std).abs().max() * 255
        assert levels < 2.01, f"{one.shape}: two roundings, of one level each"
    export_tower(network, tmp_path / "image.onnx", preparer)
    encoder = running(tower, preparer, tmp_path / "image.onnx")
    assert share(encoder.encode([preparer.tensor(one) for one in pictures]), expected) < PARITY


def test_a_new_style_module_with_pictures_is_read_too(case: Callable[[str], Case], tmp_path: Path) -> None:
    from sentence_transformers.sentence_transformer.modules import Transformer

    old = case("clip")
    new = made.saved(tmp_path / "new", [Transformer(str(old.folder))])
    towers = sentence.describe(new, name="st:new")
    assert [(one.modality, one.dim) for one in towers] == [(Modality.IMAGE, 24), (Modality.TEXT, 24)]
    assert [one.preprocessing for one in towers] == [one.preprocessing for one in old.towers.values()]


# --- negative controls: each must be seen ------------------------------------------------------------------


def test_wrong_pictures_are_seen(case: Callable[[str], Case], pictures: list[Any]) -> None:
    model = case("clip")
    preparer, network = model.preparer(Modality.IMAGE), sentence.load(model.folder, Modality.IMAGE)
    expected = model.library.encode([Image.fromarray(one) for one in pictures])
    blue_first = [np.ascontiguousarray(one[..., ::-1]) for one in pictures]
    lying = [*pictures[:-1], np.ascontiguousarray(np.rot90(pictures[-1]))]
    for wrong in (blue_first, lying):
        assert share(run(network, preparer, wrong), expected) > PARITY
    network.get_buffer("mean").add_(0.1)
    assert share(run(network, preparer, pictures), expected) > PARITY


def test_wrong_texts_are_seen(case: Callable[[str], Case], tmp_path: Path) -> None:
    model = case("lowercased")
    network, preparer = sentence.load(model.folder, Modality.TEXT), model.preparer(Modality.TEXT)
    expected = model.library.encode_document(list(TEXTS))
    cased = preparer_of(
        Modality.TEXT, preparer.describe(), {}, tokenizer=str(model.folder / "tokenizer.json")
    )
    assert share(run(network, cased, TEXTS), expected) > PARITY
    arrays = text_inputs([preparer.tensor(text) for text in TEXTS])
    ids = torch.from_numpy(arrays["input_ids"])
    with torch.inference_mode():
        assert share(network(ids, torch.ones_like(ids)), expected) > PARITY, "padding taken for text"


def test_wrong_prompts_are_seen(case: Callable[[str], Case]) -> None:
    model = case("prompts")
    network: Any = sentence.load(model.folder, Modality.TEXT)
    preparer = model.preparer(Modality.TEXT)
    queries = model.library.encode_query(list(TEXTS))
    assert (preparer.prefix, preparer.query_prefix) == (PROMPTS["document"], PROMPTS["query"])
    assert share(run(network, preparer, TEXTS), queries) > PARITY
    network.prompts = None  # prompts pooled with the rest
    assert share(run(network, preparer, TEXTS, query=True), queries) > PARITY


# --- what is described -------------------------------------------------------------------------------------


def test_limits_and_sources_are_the_models_own(case: Callable[[str], Case]) -> None:
    real = case("minilm").towers[Modality.TEXT]
    assert (real.dim, real.backbone, real.window) == (384, "BertModel", {"max_tokens": 256})
    by_name = {weight.name: weight for weight in real.weights}
    assert by_name["model.safetensors"].sha256 == made.MINILM.sha256
    assert {"tokenizer.json", "1_Pooling/config.json", "config.json"} <= by_name.keys()
    assert {weight.source for weight in real.weights} == {"st:minilm"}
    assert case("lowercased").towers[Modality.TEXT].dim == 12, "truncate_dim"
    assert case("clip").towers[Modality.TEXT].preprocessing["max_tokens"] == 24
    image = case("clip").towers[Modality.IMAGE]
    assert not [weight for weight in image.weights if "tokenizer" in weight.name]


def test_the_space_hangs_on_pooling(case: Callable[[str], Case], tmp_path: Path) -> None:
    copy = shutil.copytree(case("prompts").folder, tmp_path / "copy")
    made.edit(copy / "1_Pooling" / "config.json", {"pooling_mode": "max"})
    before = case("prompts").towers[Modality.TEXT]
    (after,) = sentence.describe(copy, name="st:prompts")
    assert after.preprocessing == before.preprocessing
    changed = {weight.name for weight in set(after.weights) ^ set(before.weights)}
    assert changed == {"1_Pooling/config.json"}


def test_a_network_of_another_width_than_it_says_is_refused(case: Callable[[str], Case]) -> None:
    one = case("prompts")
    tower, preparer = one.towers[Modality.TEXT], one.preparer(Modality.TEXT)
    network = sentence.load(one.folder, Modality.TEXT)
    build._check_width(network, preparer, tower)
    with pytest.raises(ModelError, match="gives 32 numbers, its configuration says 48"):
        build._check_width(network, preparer, replace(tower, dim=48))


def test_a_limit_beyond_the_positions_is_lowered(tmp_path: Path) -> None:
    first = made.xlm_roberta(tmp_path / "0", max_seq_length=made.LONGEST + 2)
    folder = made.saved(tmp_path / "saved", made.pooled(first))
    (tower,) = sentence.describe(folder, name="st:a")
    assert tower.preprocessing["max_tokens"] == made.LONGEST


def test_lengths_that_mean_something_are_said(case: Callable[[str], Case], tmp_path: Path) -> None:
    copy = shutil.copytree(case("prompts").folder, tmp_path / "copy")
    assert sentence.notes(copy) == ()
    made.edit(
        copy / "config_sentence_transformers.json",
        {"similarity_fn_name": "dot", "prompts": {"query": "", "passage": "passage: "}},
    )
    by_dot, passages = sentence.notes(copy)
    assert "by dot" in by_dot
    assert "cosine" in by_dot
    assert "passages" in passages
    unit_length = shutil.copytree(case("cls").folder, tmp_path / "unit")
    made.edit(unit_length / "config_sentence_transformers.json", {"similarity_fn_name": "dot"})
    assert sentence.notes(unit_length) == ()


def test_routes_are_followed_where_one_network_serves(tmp_path: Path) -> None:
    shared = made.pooled(made.bert(tmp_path / "0"))
    router = Router.for_query_document(shared, shared)
    folder = made.saved(tmp_path / "saved", made.unit([router]))
    (tower,) = sentence.describe(folder, name="st:router")
    assert tower.dim == made.WIDTH
    assert any(weight.name.endswith("Transformer/model.safetensors") for weight in tower.weights)

    other = made.pooled(made.bert(tmp_path / "1", seed=1))
    two = made.saved(tmp_path / "two", [Router.for_query_document(shared, other)])
    with pytest.raises(ModelError, match="one network for queries and another for documents"):
        sentence.describe(two, name="st:two")
