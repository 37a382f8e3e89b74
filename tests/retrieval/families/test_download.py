"""Downloads through the real hub client, from a hub on this machine: whole, cut, damaged, refused."""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from indexer.errors import ConfigError, ModelError
from retrieval.models.families.download import fetch, forget_downloads
from retrieval.models.families.names import parse
from retrieval.models.families.sources import Source
from tests.retrieval.families.hub_server import FakeHub, commit_of, serving

WEIGHTS = random.Random(7).randbytes(300_000)
MODULES = [
    {"idx": 0, "name": "0", "path": "", "type": "sentence_transformers.models.Transformer"},
    {"idx": 1, "name": "1", "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"},
]
SENTENCE = {
    "modules.json": json.dumps(MODULES).encode(),
    "config.json": b'{"model_type": "bert"}',
    "1_Pooling/config.json": b'{"word_embedding_dimension": 8}',
    "tokenizer.json": b'{"version": "1.0"}',
    "vocab.txt": b"[PAD]\n[UNK]\n",
    "model.safetensors": WEIGHTS,
    "pytorch_model.bin": b"a pickle",
    "onnx/model.onnx": b"somebody's export",
    "openvino/config.json": b"{}",
    "README.md": b"# a model",
    "train.py": b"raise SystemExit",
}
CHOSEN = {"modules.json", "config.json", "1_Pooling/config.json", "tokenizer.json", "vocab.txt"} | {
    "model.safetensors"
}


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, home: Path) -> Iterator[FakeHub]:
    """A hub that HF_ENDPOINT names, an empty HF_HOME, no token, and a client that does not wait."""
    from huggingface_hub import constants, file_download

    with serving() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
        for name in ("HF_HUB_OFFLINE", "HF_HUB_CACHE", "HF_TOKEN", "TRANSFORMERS_OFFLINE"):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", 10_000)  # what a cut loses at most
        monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "no-token"))
        patient = SimpleNamespace(sleep=lambda _s: None, time=time.time, monotonic=time.monotonic)
        monkeypatch.setattr(file_download, "time", patient)
        yield hub


def bring(name: str, folder: Path, **options: object) -> Source:
    folder.mkdir(parents=True, exist_ok=True)
    return fetch(parse(name).parts[0], folder, **options)  # type: ignore[arg-type]


def held(folder: Path) -> set[str]:
    return {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}


def test_a_fresh_download_brings_what_is_allowed_and_says_where_from(
    hub: FakeHub, tmp_path: Path, home: Path
) -> None:
    hub.add("acme/tiny", SENTENCE)
    heard: list[tuple[str, float]] = []
    source = bring("st:acme/tiny", tmp_path / "out", progress=lambda step, share: heard.append((step, share)))
    assert held(source.folder) == CHOSEN
    assert (source.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.files_asked() == CHOSEN  # a pickle, an export and code are not even asked for
    commit = commit_of("acme/tiny@main")
    assert source.provenance() == {
        "licence": "mit",
        "repositories": [{"repo": "acme/tiny", "commit": commit}],
    }
    shares = [share for _step, share in heard]
    assert shares == sorted(shares)
    assert 0.0 <= shares[0] < 0.1
    assert shares[-1] == 1.0
    assert "downloading model.safetensors" in [step for step, _share in heard]
    assert (home / "cache" / "downloads" / "acme--tiny" / commit / "model.safetensors").is_file()
    forget_downloads(source)
    assert not (home / "cache" / "downloads" / "acme--tiny" / commit).exists()
    assert held(source.folder) == CHOSEN


def test_a_kept_download_is_not_asked_for_again(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    bring("st:acme/tiny", tmp_path / "one")
    hub.asked.clear()
    bring("st:acme/tiny", tmp_path / "two")
    assert hub.files_asked() == set()
    assert (tmp_path / "two" / "model.safetensors").read_bytes() == WEIGHTS


def test_a_cut_connection_goes_on_where_it_ended(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    hub.cut_after["model.safetensors"] = 100_000
    source = bring("st:acme/tiny", tmp_path / "out")
    assert (source.folder / "model.safetensors").read_bytes() == WEIGHTS
    first, second = hub.ranges("model.safetensors")
    assert first == ""
    assert 0 < int(second.removeprefix("bytes=").rstrip("-")) <= 100_000


def test_a_later_run_goes_on_where_a_killed_one_ended(hub: FakeHub, tmp_path: Path, home: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    hub.dead_after["model.safetensors"] = 120_000
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        bring("st:acme/tiny", tmp_path / "one")
    assert caught.value.hint
    (partial,) = (home / "cache" / "downloads").rglob("*.part")
    size = partial.stat().st_size
    assert 0 < size <= 120_000
    hub.dead_after.clear()
    hub.asked.clear()
    source = bring("st:acme/tiny", tmp_path / "two")
    assert hub.ranges("model.safetensors") == [f"bytes={size}-"]
    assert (source.folder / "model.safetensors").read_bytes() == WEIGHTS


def test_a_partial_file_of_something_else_is_thrown_away(hub: FakeHub, tmp_path: Path, home: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    kept = home / "cache" / "downloads" / "acme--tiny" / commit_of("acme/tiny@main")
    kept.mkdir(parents=True)
    (kept / "model.safetensors.part").write_bytes(b"\0" * 1000)
    source = bring("st:acme/tiny", tmp_path / "out")
    assert (source.folder / "model.safetensors").read_bytes() == WEIGHTS
    assert hub.ranges("model.safetensors") == ["bytes=1000-", ""]


@pytest.mark.parametrize("name", ["model.safetensors", "config.json"])
def test_a_wrong_checksum_is_refused_and_nothing_is_kept(
    hub: FakeHub, tmp_path: Path, home: Path, name: str
) -> None:
    hub.add("acme/tiny", SENTENCE)
    hub.altered[name] = bytes(len(SENTENCE[name]))
    with pytest.raises(ModelError, match=f"{name} of acme/tiny came damaged: its .* differs") as caught:
        bring("st:acme/tiny", tmp_path / "out")
    assert "HF_ENDPOINT" in (caught.value.hint or "")
    assert not [path for path in (home / "cache" / "downloads").rglob("*") if path.name.startswith(name)]
    hub.altered.clear()
    assert held(bring("st:acme/tiny", tmp_path / "again").folder) == CHOSEN


def test_what_the_hub_client_has_is_taken_from_there(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    put_in_hub_cache(tmp_path / "hf", "acme/tiny", SENTENCE)
    source = bring("st:acme/tiny", tmp_path / "out")
    assert hub.files_asked() == set()
    assert held(source.folder) == CHOSEN


def test_a_damaged_file_in_the_hub_clients_cache_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    put_in_hub_cache(tmp_path / "hf", "acme/tiny", SENTENCE | {"model.safetensors": bytes(len(WEIGHTS))})
    source = bring("st:acme/tiny", tmp_path / "out")
    assert hub.files_asked() == {"model.safetensors"}
    assert (source.folder / "model.safetensors").read_bytes() == WEIGHTS


def put_in_hub_cache(home: Path, repo: str, files: dict[str, bytes]) -> None:
    """Files as the hub client keeps them: blobs, a snapshot of links to them, and the branch."""
    storage = home / "hub" / f"models--{repo.replace('/', '--')}"
    commit = commit_of(f"{repo}@main")
    for name, content in files.items():
        blob = storage / "blobs" / hashlib.sha256(content).hexdigest()
        blob.parent.mkdir(parents=True, exist_ok=True)
        blob.write_bytes(content)
        link = storage / "snapshots" / commit / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(os.path.relpath(blob, link.parent))
    (storage / "refs").mkdir(parents=True, exist_ok=True)
    (storage / "refs" / "main").write_text(commit)


def test_a_missing_repository(hub: FakeHub, tmp_path: Path) -> None:
    with pytest.raises(
        ModelError, match="the hub has no model acme/nothing, or it is a private one"
    ) as caught:
        bring("st:acme/nothing", tmp_path / "out")
    assert "HF_TOKEN" in (caught.value.hint or "")


def test_a_missing_revision(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    with pytest.raises(ModelError, match="acme/tiny has no revision 'v9'") as caught:
        bring("st:acme/tiny@v9", tmp_path / "out")
    assert "refs/pr/N" in (caught.value.hint or "")


def test_a_revision_is_what_is_downloaded(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    hub.add("acme/tiny", SENTENCE | {"model.safetensors": b"converted"}, revision="refs/pr/3")
    source = bring("st:acme/tiny@refs/pr/3", tmp_path / "out")
    assert (source.folder / "model.safetensors").read_bytes() == b"converted"
    assert source.origins[0].commit == commit_of("acme/tiny@refs/pr/3")


def test_gated_and_private_models_want_a_token(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/gated", SENTENCE, gated=True)
    hub.add("acme/private", SENTENCE, private=True)
    with pytest.raises(ModelError, match="accepted its terms") as caught:
        bring("st:acme/gated", tmp_path / "one")
    assert "https://huggingface.co/acme/gated" in (caught.value.hint or "")
    with pytest.raises(ModelError, match="private"):
        bring("st:acme/private", tmp_path / "two")
    hub.token = "hf_of_this_test"
    assert held(bring("st:acme/gated", tmp_path / "three", token=hub.token).folder) == CHOSEN


def test_the_token_comes_from_the_environment(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.add("acme/private", SENTENCE, private=True)
    hub.token = "hf_of_this_test"
    monkeypatch.setenv("HF_TOKEN", hub.token)
    assert held(bring("st:acme/private", tmp_path / "out").folder) == CHOSEN


def test_a_token_is_not_sent_to_another_host(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/private", SENTENCE, private=True)
    hub.token = "hf_of_this_test"
    hub.elsewhere = hub.url.removeprefix("http://").replace("127.0.0.1", "localhost")
    bring("st:acme/private", tmp_path / "out", token=hub.token)
    sent = [token for path, _range, token in hub.asked if path.endswith("/model.safetensors")]
    assert sent == [f"Bearer {hub.token}", ""]


def test_no_network_says_what_to_copy_where(
    hub: FakeHub, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    with pytest.raises(ModelError, match="cannot be reached") as caught:
        bring("clap:acme/sounds", tmp_path / "out")
    for word in (
        "model.safetensors",
        "preprocessor_config.json",
        "https://huggingface.co/acme/sounds/tree/main",
    ):
        assert word in (caught.value.hint or "")
    place = home / "cache" / "offline" / "clap-acme-sounds"
    assert str(place) in (caught.value.hint or "")
    assert place.is_dir()
    assert (caught.value.hint or "").startswith("check the network")
    assert (caught.value.hint or "").endswith("run the same command again")


def test_no_network_is_told_before_open_clip_is_imported(
    hub: FakeHub, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def slow(_part: object) -> None:
        raise AssertionError("asked what open_clip knows")

    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr("retrieval.models.families.download.wanted_of", slow)
    heard: list[str] = []
    with pytest.raises(ModelError, match=r"the hub 127\.0\.0\.1:9 cannot be reached: ") as caught:
        bring("openclip:ViT-B-32/openai", tmp_path / "out", progress=lambda step, _share: heard.append(step))
    assert heard == ["looking for the model", "asking 127.0.0.1:9"]
    assert "HF_HUB_OFFLINE=1" in (caught.value.hint or "")


def test_no_network_and_what_the_hub_client_has_is_enough(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    put_in_hub_cache(tmp_path / "hf", "acme/tiny", SENTENCE)
    assert held(bring("st:acme/tiny", tmp_path / "out").folder) == CHOSEN


def test_no_network_and_no_cache_to_write_to_still_gives_advice(
    hub: FakeHub, tmp_path: Path, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    (home / "cache").write_bytes(b"no folder")
    with pytest.raises(ModelError, match=r" cannot be made: ") as caught:
        bring("openclip:ViT-B-32/openai", tmp_path / "out")
    assert re.search(r"open_clip_model\.safetensors .* run the same command again$", caught.value.hint or "")


def test_offline_mode_asks_nobody(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/tiny", SENTENCE)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(ModelError, match=r"HF_HUB_OFFLINE is set") as caught:
        bring("st:acme/tiny", tmp_path / "out")
    assert re.match("unset HF_HUB_OFFLINE; .*modules.json", caught.value.hint or "")
    assert not hub.asked
    put_in_hub_cache(tmp_path / "hf", "acme/tiny", SENTENCE)
    source = bring("st:acme/tiny", tmp_path / "out")
    assert held(source.folder) == CHOSEN
    assert source.origins[0].commit == commit_of("acme/tiny@main")
    assert not hub.asked


def test_half_a_model_in_the_hub_clients_cache_is_none(
    hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    put_in_hub_cache(tmp_path / "hf", "acme/tiny", {"modules.json": SENTENCE["modules.json"]})
    with pytest.raises(ModelError, match="only some files of acme/tiny are on this machine"):
        bring("st:acme/tiny", tmp_path / "out")


def test_pickles_only_are_refused_and_a_conversion_is_named(hub: FakeHub, tmp_path: Path) -> None:
    files = {name: content for name, content in SENTENCE.items() if not name.endswith(".safetensors")}
    hub.add("acme/old", files)
    with pytest.raises(ModelError, match=r"only as pytorch_model.bin") as caught:
        bring("st:acme/old", tmp_path / "out")
    assert "ask its authors for model.safetensors" in (caught.value.hint or "")
    assert "@refs/pr/N" in (caught.value.hint or "")
    hub.conversions["acme/old"] = 4
    with pytest.raises(ModelError) as caught:
        bring("st:acme/old", tmp_path / "out")
    assert (caught.value.hint or "").endswith("st:acme/old@refs/pr/4")
    assert "pytorch_model.bin" not in hub.files_asked()


@pytest.mark.parametrize(
    "name", ["../up.json", "/etc/passwd.json", "a\\b.json", "C:x.json", "a/../../b.json"]
)
def test_a_listing_that_leads_out_is_refused(hub: FakeHub, tmp_path: Path, name: str) -> None:
    hub.add("acme/evil", SENTENCE | {name: b"{}"})
    with pytest.raises(ModelError, match="leads out of its folder"):
        bring("st:acme/evil", tmp_path / "out")
    assert not hub.files_asked()


def test_code_of_a_repository_wants_the_users_flag(hub: FakeHub, tmp_path: Path) -> None:
    config = json.dumps({"auto_map": {"AutoModel": "modeling.Model"}}).encode()
    hub.add("acme/coded", SENTENCE | {"config.json": config, "modeling.py": b"x = 1"})
    with pytest.raises(ConfigError, match=r"runs its own Python code.*auto_map") as caught:
        bring("st:acme/coded", tmp_path / "one")
    assert "--trust-remote-code" in (caught.value.hint or "")
    source = bring("st:acme/coded", tmp_path / "two", trust_remote_code=True)
    assert {"modeling.py", "train.py"} < held(source.folder)


def test_a_full_disk_is_noticed_before(hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.add("acme/tiny", SENTENCE)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=100_000))
    with pytest.raises(ModelError, match=r"needs 1 MB .* 0 are free") as caught:
        bring("st:acme/tiny", tmp_path / "out")
    assert "TRIPTYCH_HOME" in (caught.value.hint or "")
    assert "model.safetensors" not in hub.files_asked()


def test_a_licence_is_heard_before_anything_large_moves(hub: FakeHub, tmp_path: Path) -> None:
    hub.add("acme/tiny", SENTENCE, licence="cc-by-nc-4.0")

    def refuse(licence: str) -> None:
        raise ConfigError(licence)

    with pytest.raises(ConfigError, match=r"cc-by-nc-4.0"):
        bring("st:acme/tiny", tmp_path / "out", agree=refuse)
    assert not hub.files_asked()


def test_the_client_reads_the_environment_of_a_new_process(hub: FakeHub, tmp_path: Path, home: Path) -> None:
    hub.add("acme/tiny", SENTENCE)
    code = (
        "import sys; from pathlib import Path\n"
        "from retrieval.models.families.download import fetch\n"
        "from retrieval.models.families.names import parse\n"
        "fetch(parse('st:acme/tiny').parts[0], Path(sys.argv[1]))\n"
        "assert not {'torch', 'transformers', 'open_clip', 'sentence_transformers'} & set(sys.modules)\n"
    )
    out = tmp_path / "out"
    out.mkdir()
    subprocess.run([sys.executable, "-c", code, str(out)], check=True, cwd=Path(__file__).parents[3])
    assert held(out) == CHOSEN
