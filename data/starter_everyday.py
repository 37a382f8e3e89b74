"""Ten everyday classes of sounds, and which names belong to each: fixed before anything was measured.

Of fourteen candidates (these ten, cat, cow, dog and rooster) those stand here that occur in the most
packages. A name belongs to a class when it has one of its telling words and no word beyond the class's own
and general ones.
"""

from __future__ import annotations

GENERAL = {
    *(
        "big",
        "small",
        "large",
        "high",
        "low",
        "soft",
        "heavy",
        "light",
        "faint",
        "loud",
        "moderate",
        "medium",
    ),
    *("long", "hard", "mid", "open", "short", "angry", "the", "a", "in", "of", "and", "modern", "old"),
    *("start", "stop", "inside", "outside", "stereo"),
}
# Each class by the text that stands for it: its telling words, and what else may stand beside them.
EVERYDAY = {
    "water": (
        {"water", "waterfall", "river", "waves", "splash", "bubble", "bubbles", "droplet", "fountain"},
        {"ocean", "drop", "running"},
    ),
    "fire": ({"fire", "campfire", "flame"}, {"burning"}),
    "footsteps": (
        {"footsteps", "footstep", "foot", "step", "steps"},
        {
            *("grass", "gravel", "dirt", "snow", "stone", "sand", "metal", "wood", "tile", "carpet"),
            *("linoleum", "ice", "leather", "cloth", "man"),
        },
    ),
    "car engine": ({"car", "engine", "motor", "vehicle", "truck", "bus", "ignition"}, {"passing"}),
    "door": ({"door", "doors"}, {"close", "creaking", "glass", "steel", "bar"}),
    "bird": ({"bird", "birds", "birdy"}, {"chirp", "twitter", "lay"}),
    "sheep": ({"sheep"}, {"bleating"}),
    "thunder": ({"thunder", "lightning"}, {"bolt"}),
    "horse": ({"horse", "horses"}, {"gallop", "galloping", "canter"}),
    "bell": ({"bell", "bells"}, {"ringing", "toll", "chapel", "church", "ships"}),
}


def everyday_class(name: str) -> str:
    """The class that a sound's name belongs to, or empty."""
    words = set(name.split()) - GENERAL
    for title, (telling, beside) in EVERYDAY.items():
        if words & telling and words <= telling | beside:
            return title
    return ""
