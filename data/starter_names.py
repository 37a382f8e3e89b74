"""What the classes of the starter's two classifiers are called, in words that a person would search with.

ImageNet's names come from open_clip. The sound network's authors published no names for the outputs of its
classifiers; SOUND_CLASSIFIERS is what starter_classes.py finds again on sounds whose names are known: the 79
outputs trained on the Soundly library are the categories of the Universal Category System in alphabetical
order without three of its 82, and 78 of another classifier are the same without four. The phrases beside
each category describe it in general, much as the system's own subcategories do; no sound's name had a part
in them.
"""

from __future__ import annotations

IMAGE_PROMPTS = ("{}", "a {}.", "a photo of a {}.", "a drawing of a {}.", "a cartoon of a {}.")

# The 82 categories, in order, each with what is heard in it.
CATEGORIES: dict[str, tuple[str, ...]] = {
    "AIR": ("air", "air blow", "air burst", "air hiss"),
    "AIRCRAFT": ("aircraft", "helicopter", "jet", "propeller plane"),
    "ALARMS": ("alarm", "bell alarm", "buzzer", "siren"),
    "AMBIENCE": ("ambience", "city traffic ambience", "forest ambience", "room tone"),
    "ANIMALS": (
        "animal",
        "amphibian",
        "cat",
        "dog",
        "farm animal",
        "horse",
        "insect",
        "primate",
        "rodent",
        "wild cat",
    ),
    "ARCHIVED": ("archived recording",),
    "BEEPS": ("beep", "electronic beeping"),
    "BELLS": ("bell", "bell ringing", "chime", "gong"),
    "BIRDS": ("bird", "bird of prey", "crow", "fowl", "sea bird", "songbird", "tropical bird"),
    "BOATS": ("boat", "motorboat", "sailboat", "ship"),
    "BULLETS": ("bullet", "bullet ricochet", "bullet whizzing by"),
    "CARTOON": ("cartoon", "boing", "pop", "squeak"),
    "CERAMICS": ("ceramics", "crockery breaking", "ceramic handling"),
    "CHAINS": ("chain", "rattling chains"),
    "CHEMICALS": ("chemicals", "acid fizzing"),
    "CLOCKS": ("clock", "clock ticking", "cuckoo clock"),
    "CLOTH": ("cloth", "rustling clothes", "flag flapping"),
    "COMMUNICATIONS": ("communications", "camera", "microphone", "radio", "telephone", "typewriter"),
    "COMPUTERS": ("computer", "hard drive", "keyboard and mouse"),
    "CREATURES": ("creature", "beast", "dragon", "monster"),
    "CROWDS": ("crowd", "applause", "cheering", "children"),
    "DESIGNED": ("designed sound", "boom", "drone", "riser", "rumble"),
    "DESTRUCTION": ("destruction", "collapse and crumble", "crash and debris"),
    "DIRT & SAND": ("dirt", "sand", "dust"),
    "DOORS": ("door", "door opening", "door closing", "gate"),
    "DRAWERS": ("drawer", "wooden drawer", "metal drawer"),
    "ELECTRICITY": ("electricity", "electric spark", "zap"),
    "EQUIPMENT": ("equipment", "high-tech equipment", "sport equipment"),
    "EXPLOSIONS": ("explosion", "real explosion", "designed explosion"),
    "FARTS": ("fart",),
    "FIGHT": ("fight", "body fall", "grab", "impact"),
    "FIRE": ("fire", "fire burning", "fire crackle", "torch"),
    "FIREWORKS": ("fireworks", "firecracker"),
    "FOLEY": ("foley", "clothing movement", "hands"),
    "FOOD & DRINK": ("food", "drink", "cooking", "eating", "pouring"),
    "FOOTSTEPS": ("footsteps", "walking", "running"),
    "GAMES": ("game", "arcade game", "board game", "casino"),
    "GEOTHERMAL": ("geyser", "lava", "mud pot"),
    "GLASS": ("glass", "glass breaking", "glass impact"),
    "GORE": ("gore", "blood", "bone", "flesh", "squish"),
    "GUNS": ("gun", "automatic gun", "cannon", "rifle", "pistol"),
    "HORNS": ("horn", "air horn", "vehicle horn"),
    "HUMAN": ("human", "breath", "burp", "cough", "hiccup", "kiss", "sneeze"),
    "ICE": ("ice", "ice cracking"),
    "LASERS": ("laser", "laser gun"),
    "LEATHER": ("leather", "leather creak", "leather movement"),
    "LIQUID & MUD": ("liquid", "mud", "bubbles", "suction"),
    "MACHINES": ("machine", "appliance", "construction machine", "fan", "pump"),
    "MAGIC": ("magic", "spell", "shimmer"),
    "MECHANICAL": ("mechanical", "gears", "latch", "lever", "switch"),
    "METAL": ("metal", "metal crash", "metal friction", "metal impact"),
    "MOTORS": ("motor", "combustion motor", "electric motor", "servo"),
    "MOVEMENT": ("movement", "animal movement", "crowd movement"),
    "MUSICAL": (
        "music",
        "brass instrument",
        "plucked instrument",
        "string instrument",
        "woodwind",
        "percussion",
        "piano",
    ),
    "NATURAL DISASTER": ("natural disaster", "avalanche", "earthquake", "tornado", "volcano"),
    "OBJECTS": ("object", "bag", "book", "coin", "container", "furniture", "umbrella"),
    "PAPER": ("paper", "cardboard", "paper flutter", "paper rip"),
    "PLASTIC": ("plastic", "plastic impact", "plastic movement"),
    "RAIN": ("rain", "rain falling"),
    "ROBOTS": ("robot", "robot movement"),
    "ROCKS": ("rocks", "rock crash", "rock impact"),
    "ROPE": ("rope", "rope creak", "rope impact"),
    "RUBBER": ("rubber", "rubber friction", "rubber impact"),
    "SCIFI": ("science fiction", "spaceship", "energy", "alarm of a spaceship"),
    "SNOW": ("snow", "snow impact", "snow movement"),
    "SPORTS": ("sports", "ball sport", "gym", "skate", "winter sport"),
    "SWOOSHES": ("swoosh", "whoosh", "swish"),
    "TOOLS": ("tool", "garden tool", "hand tool", "power tool"),
    "TOYS": ("toy", "electronic toy", "mechanical toy"),
    "TRAINS": ("train", "steam train", "tram", "subway"),
    "USER INTERFACE": ("user interface", "alert", "click", "notification"),
    "VEGETATION": ("vegetation", "grass", "leaves", "tree"),
    "VEHICLES": ("vehicle", "car", "motorcycle", "truck", "bus", "emergency vehicle"),
    "VOICES": ("voice", "baby", "crying", "laugh", "scream", "shouting"),
    "WATER": ("water", "bubbles", "drip", "splash", "waves", "flush"),
    "WEAPONS": ("weapon", "armor", "bow and arrow", "knife", "sword"),
    "WEATHER": ("weather", "hail", "storm", "thunder"),
    "WHISTLES": ("whistle", "human whistle", "mechanical whistle"),
    "WIND": ("wind", "gust", "turbulent wind"),
    "WINDOWS": ("window", "window opening", "window covering"),
    "WINGS": ("wings", "bird wings", "insect wings", "flapping"),
    "WOOD": ("wood", "wood break", "wood friction", "wood impact"),
}
# Of the sound network's nine classifiers, those whose outputs are these categories in this order, each with
# the categories that it lacks. `prosfx` is aligned by how its outputs go with the other's on the same sounds.
SOUND_CLASSIFIER = "soundlyTrain"
ABSENT = ("ARCHIVED", "GAMES", "GEOTHERMAL")
SOUND_CLASSIFIERS = {SOUND_CLASSIFIER: ABSENT, "prosfx": ("ARCHIVED", "CERAMICS", "LIQUID & MUD", "WINDOWS")}
SOUND_CLASSES = tuple(name for name in CATEGORIES if name != "ARCHIVED")  # what one of them knows


def image_class_names() -> list[str]:
    """ImageNet's 1,000 class names, in the classifier's order."""
    from open_clip.zero_shot_metadata import IMAGENET_CLASSNAMES

    return list(IMAGENET_CLASSNAMES)
