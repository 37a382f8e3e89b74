"""What a user's word for a model means, and what is said of a word that means nothing."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from indexer.errors import ConfigError
from retrieval.models.families.names import Part, check_openclip, is_family_name, parse
from retrieval.models.registry import names_folder

ROOT = Path(__file__).parents[3]


def only(text: str) -> Part:
    (part,) = parse(text).parts
    return part


@pytest.mark.parametrize(
    ("text", "arch", "tag", "revision"),
    [
        ("openclip:ViT-B-32/laion2b_s34b_b79k", "ViT-B-32", "laion2b_s34b_b79k", ""),
        ("openclip:ViT-B/32/openai", "ViT-B-32", "openai", ""),  # as OpenAI writes it
        ("openclip:ViT-B-32/LAION2B-s34b-b79k", "ViT-B-32", "laion2b_s34b_b79k", ""),
        ("openclip:MobileCLIP2-S0/dfndr2b@refs/pr/2", "MobileCLIP2-S0", "dfndr2b", "refs/pr/2"),
        ("openclip:ViT-B-32", "ViT-B-32", "", ""),
        ("  OpenCLIP: ViT-B-32/openai ", "ViT-B-32", "openai", ""),
    ],
)
def test_an_architecture_and_its_weights(text: str, arch: str, tag: str, revision: str) -> None:
    part = only(text)
    assert (part.family, part.arch, part.tag, part.revision) == ("openclip", arch, tag, revision)
    assert not part.local
    assert not part.repo


@pytest.mark.parametrize(
    ("text", "family", "repo", "revision"),
    [
        ("openclip:hf-hub:laion/CLIP-ViT-B-32", "openclip", "laion/CLIP-ViT-B-32", ""),
        ("openclip:hf-hub:laion/CLIP@v1.0", "openclip", "laion/CLIP", "v1.0"),
        ("st:intfloat/multilingual-e5-small", "st", "intfloat/multilingual-e5-small", ""),
        ("st:all-MiniLM-L6-v2@abc123", "st", "sentence-transformers/all-MiniLM-L6-v2", "abc123"),
        ("clap:laion/clap-htsat-unfused", "clap", "laion/clap-htsat-unfused", ""),
    ],
)
def test_a_repository(text: str, family: str, repo: str, revision: str) -> None:
    part = only(text)
    assert (part.family, part.repo, part.revision, part.path) == (family, repo, revision, None)


@pytest.mark.parametrize(
    ("text", "family", "path"),
    [
        ("dir:./my+model@home", "dir", "my+model@home"),
        ("dir:models/clip", "dir", "models/clip"),
        ("openclip:local-dir:some/where", "openclip", "some/where"),
        ("openclip:/abs/path", "openclip", "/abs/path"),
        ("st:./tuned", "st", "tuned"),
        ("clap:../sounds", "clap", "../sounds"),
    ],
)
def test_a_folder(text: str, family: str, path: str) -> None:
    part = only(text)
    whole = Path(path).resolve()  # so that the name means the same from every folder
    assert (part.family, part.path, part.revision, part.text) == (family, whole, "", f"{family}:{whole}")
    assert only(part.text) == part
    assert part.local


def test_a_folder_with_open_clips_configuration_needs_no_dot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert only("openclip:mine/tuned").arch == "mine"
    (tmp_path / "mine" / "tuned").mkdir(parents=True)
    (tmp_path / "mine" / "tuned" / "open_clip_config.json").write_text("{}")
    assert only("openclip:mine/tuned").path == tmp_path / "mine" / "tuned"


def test_home_is_expanded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert only("dir:~/clip").path == tmp_path / "clip"


def test_a_join_has_two_parts_in_order() -> None:
    name = parse("openclip:MobileCLIP2-S0/dfndr2b+clap:laion/clap-htsat-unfused@v2")
    assert name.joined
    assert [part.family for part in name.parts] == ["openclip", "clap"]
    assert name.parts[1].revision == "v2"
    assert name.text == "openclip:MobileCLIP2-S0/dfndr2b+clap:laion/clap-htsat-unfused@v2"
    assert [part.path for part in parse("dir:./a+b+dir:./c").parts] == [Path.cwd() / "a+b", Path.cwd() / "c"]


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("opnclip:ViT-B-32/openai", "names no model family", "did you mean openclip:ViT-B-32/openai "),
        ("clip:ViT-B-32/openai", "names no model family", "did you mean openclip:ViT-B-32/openai ?"),
        ("clip:laion/clap-htsat-unfused", "names no model family", "did you mean clap:laion/clap-htsat-unf"),
        ("clip:acme/x", "names no model family", "did you mean clap:acme/x or openclip:acme/x ?"),
        ("ViT-B-32", "names no model family", "openclip:ViT-B-32/laion2b_s34b_b79k"),
        ("openclip:", "nothing follows openclip:", "dir:PATH"),
        ("clap:htsat", "is no model of the hub", "https://huggingface.co/ORG/NAME"),
        (
            "st:https://huggingface.co/a/b/tree/main",
            "is no model of the hub",
            "leave the address out: st:a/b",
        ),
        ("st:a/../b", "is no model of the hub", "st:ORG/NAME"),
        ("st:a/b@../../x", "is no revision", "refs/pr/N"),
        ("st:a/b@", "is no revision", "branch"),
        ("openclip:A/b+laion/x", "has no family: 'laion/x'", "openclip:A/b+clap:laion/x"),
        ("openclip:A/b+", "nothing follows openclip:A/b+", "clap:ORG/NAME"),
        ("openclip:A/b+clap:o/n+st:o/n", "joins 3 models, and two can be joined", "openclip:ARCH/TAG+clap"),
        ("st:local-dir:x", "names no folder", "dir:PATH"),
    ],
)
def test_a_word_that_means_nothing(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        parse(text)
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_a_familys_name_is_never_a_path() -> None:
    for name in ("openclip:ViT-B-32/openai", "st:a/b", "clap:a/b", "dir:./x"):
        assert is_family_name(name)
        assert not names_folder(name)
    for name in ("./openclip", "models/x", "starter", "openclip", "C:/x", "opnclip:a/b"):
        assert not is_family_name(name)


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        ("openclip:ViT-B32/openai", "no architecture 'ViT-B32'", "did you mean openclip:ViT-B-32/openai ?"),
        ("openclip:vit-b-32/openai", "no architecture 'vit-b-32'", "openclip:ViT-B-32/openai ?"),
        ("openclip:ViT-B16/webli", "no architecture 'ViT-B16'", "did you mean ViT-B-16 ? It has openclip:"),
        ("openclip:ViT-B-32x/laion2b", "no architecture 'ViT-B-32x'", "openclip:ViT-B-32/laion2b_e16 ?"),
        ("openclip:ViT-B32", "no architecture 'ViT-B32'", "ViT-B-32 ? It has openclip:ViT-B-32/laion2b_s3"),
        ("openclip:ViT-B-32/laion2b_s34b", "no weights 'laion2b_s34b' of ViT-B-32", "laion2b_s34b_b79k ?"),
        ("openclip:ViT-B-32/zzz", "no weights 'zzz' of ViT-B-32", "openclip:ViT-B-32/datacomp_xl_s13b_b90k"),
        ("openclip:ViT-B-32", "does not say which weights", "it has openclip:ViT-B-32/laion2b_s34b_b79k"),
        ("openclip:laion/some-repo", "no architecture 'laion'", "openclip:hf-hub:laion/some-repo"),
    ],
)
def test_open_clips_own_words_are_checked_with_suggestions(text: str, message: str, hint: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_openclip(only(text))
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("arch", ["ViT-B16", "vit-l-14x", "ViT-H14", "coca_ViT-B32", "RN5", "convnext_bas"])
@pytest.mark.parametrize("tag", ["webli", "openai", "laion2b", "metaclip_fullcc", "datacomp_xl", ""])
def test_what_is_suggested_for_an_architecture_exists_as_a_whole(arch: str, tag: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_openclip(only(f"openclip:{arch}/{tag}" if tag else f"openclip:{arch}"))
    named = re.findall(r"openclip:[\w./-]+", caught.value.hint or "")
    assert named
    for name in named:
        check_openclip(only(name))


def test_few_of_many_weights_are_named_recommended_ones_first() -> None:
    with pytest.raises(ConfigError) as caught:
        check_openclip(only("openclip:ViT-B-32"))
    hint = caught.value.hint or ""
    assert hint.count("openclip:") == 6
    assert re.search(r" and \d+ more$", hint)
    assert len(hint) < 400


def test_words_that_open_clip_has_pass() -> None:
    for text in ("openclip:ViT-B-32/laion2b_s34b_b79k", "openclip:ViT-B/32/LAION2B-s34b-b79k"):
        check_openclip(only(text))


def test_reading_a_name_imports_no_library() -> None:
    code = (
        "import sys\n"
        "from retrieval.models.families.names import is_family_name, parse\n"
        "parse('openclip:ViT-B-32/openai+clap:laion/x'); is_family_name('st:a/b')\n"
        "heavy = {'torch', 'transformers', 'open_clip', 'huggingface_hub', 'numpy', 'difflib'}\n"
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env=dict(os.environ))
