"""The caption bank that ships: several thousand short captions of what is seen and heard.

Made from the word lists in words.toml by fixed templates, always the same ones in the same order. Imports the
standard library only. What the captions are for stands in ../bridge.py.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

WORDS = Path(__file__).with_name("words.toml")
PICTURES = ("a photo of {}", "a drawing of {}", "a picture of {}", "a cartoon of {}")
HEARD = ("the sound of {}", "a recording of {}", "you can hear {}")
WHERE = ("in the distance", "indoors", "outside in the street", "with music playing", "close by", "at night")


@dataclass(frozen=True, slots=True)
class Caption:
    """One caption. Those of one `group` say the same word, so they stay together in a split."""

    text: str
    group: str


@cache
def captions() -> tuple[Caption, ...]:
    """Every caption of the bank, each text once."""
    words = tomllib.loads(WORDS.read_text(encoding="utf-8"))
    found: dict[str, Caption] = {}
    for caption in _all(words):
        found.setdefault(caption.text, caption)
    return tuple(found.values())


def with_article(noun: str) -> str:
    """ "a cat", "an owl"; two vowels that are spoken as consonants are known."""
    vowel = noun[0].lower() in "aeiou" and not noun.lower().startswith(("uni", "uku"))
    return f"{'an' if vowel else 'a'} {noun}"


def _all(words: dict[str, Any]) -> Iterator[Caption]:
    for kind, each in words["things"].items():
        for number, noun in enumerate(_split(each["words"])):
            for text in _of_thing(noun, number, each):
                yield Caption(text, f"{kind}: {noun}")
    for number, noun in enumerate(_split(words["mass"]["words"])):
        for text in (noun, _turn(PICTURES, number).format(noun), f"the sound of {noun}", f"a lot of {noun}"):
            yield Caption(text, f"mass: {noun}")
    for number, sound in enumerate(_split(words["sounds"]["words"])):
        for text in _of_sound(sound, number):
            yield Caption(text, f"sound: {sound}")
    people = _split(words["things"]["person"]["words"])
    for number, action in enumerate(_split(words["actions"]["words"])):
        for text in _of_action(action, number, people):
            yield Caption(text, f"action: {action}")
    times = _split(words["scenes"]["times"])
    for number, scene in enumerate(_split(words["scenes"]["words"])):
        for text in _of_scene(scene, number, times):
            yield Caption(text, f"scene: {scene}")


def _of_thing(noun: str, number: int, kind: dict[str, Any]) -> Iterator[str]:
    adjectives, places = _split(kind["adjectives"]), _split(kind["places"])
    one = with_article(noun)
    yield noun
    yield one
    yield _turn(PICTURES, number).format(one)
    yield with_article(f"{_turn(adjectives, number)} {noun}")
    yield f"{one} {_turn(places, number)}"
    yield f"{with_article(f'{_turn(adjectives, number + 3)} {noun}')} {_turn(places, number + 2)}"
    if kind.get("plays"):
        yield f"someone playing the {noun}"
        yield f"music played on {one}"


def _of_sound(sound: str, number: int) -> Iterator[str]:
    yield sound
    yield "the sound of " + sound
    yield _turn(HEARD[1:], number).format(sound)
    yield f"{sound} {_turn(WHERE, number)}"
    yield f"{sound}, then {_turn(('silence', 'voices', 'laughter', 'footsteps', 'music'), number)}"


def _of_action(action: str, number: int, people: Sequence[str]) -> Iterator[str]:
    yield action
    for step in (0, 17, 31):
        yield f"{with_article(_turn(people, number * 3 + step))} {action}"
    yield _turn(PICTURES, number).format(f"someone {action}")
    yield f"the sound of someone {action}"


def _of_scene(scene: str, number: int, times: Sequence[str]) -> Iterator[str]:
    yield scene
    yield _turn(PICTURES, number).format(scene)
    yield f"{scene} {_turn(times, number)}"
    yield f"{scene} {_turn(times, number + 3)}"
    yield f"the background noise of {scene}"


def _turn(choices: Sequence[str], number: int) -> str:
    return choices[number % len(choices)]


def _split(words: str) -> list[str]:
    return [" ".join(word.split()) for word in words.split(",")]
