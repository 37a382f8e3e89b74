"""Which Debian packages hold sounds with telling names, which of their files, and how the names are read.

Tables only; named_sounds.py applies them. Licences stand in each package's copyright file; all of them are
in Debian's main section, so free. ktuberling and klettres are not here: what they hold is speech.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Source:
    """One package, and which of its sounds count."""

    package: str
    keep: str = r"(?i)/sounds?/|/snd/|/sfx/|/wav/"  # searched in the path below the package
    leave: str = ""  # searched likewise: what is left out all the same
    strip: str = r"^$"  # taken out of the file's name
    folder: bool = False  # whether the folder's name belongs to the phrase
    containers: tuple[str, ...] = ()  # file patterns of containers to open first


def _pairs(text: str) -> dict[str, str]:
    """`a: b c; d: e` as a table."""
    cells = (each.partition(":") for each in text.replace("\n", " ").split(";"))
    return {word.strip(): said.strip() for word, _, said in cells}


def _listed(text: str) -> set[str]:
    return set(text.split())


SOURCES = (
    Source("sound-theme-freedesktop", r"/stereo/"),
    Source("minetest-data"),
    Source("unknown-horizons"),
    Source("wesnoth-1.16-data", r"/(sounds|ambient)/"),
    Source("scratch", r"/Sounds/(Animal|Effects|Electronic|Human|Instruments|Percussion)/"),
    Source("qabcs-data", r"/noises/"),
    Source(
        "gcompris-qt-data",
        r"/(animals|memory-sound/resource)/",
        containers=("*farm_animals.rcc", "memory-sound.rcc"),
    ),
    Source(
        "openttd-opensfx", containers=("*.cat",), keep="unpacked/", strip=r"^\d+-(Toyland: |Tropical: )?|\(.*"
    ),
    Source("openclonk-data", r"unpacked/", r"/(UI|Connect)", folder=True, containers=("Sound.ocg",)),
    Source(
        "ufoai-sound",
        r"unpacked/",
        r"/(geoscape|ui|misc/(lobby|popup|round|talk))",
        folder=True,
        containers=("0snd.pk3",),
    ),
    Source(
        "openarena-data",
        r"unpacked/.*/(footsteps|world|weapons|doors)/",
        r"/new/|ambient",
        containers=("pak0.pk3",),
    ),
    Source("scorched3d-data", r"/wav/(explosions|misc|shoot)/", folder=True),
    Source("megaglest-data", r"/(sounds|water_sounds)/", r"/(menu|music)/|/(dr|ab|indi)"),
    Source("lugaru-data", r"/Sounds/", r"/(Music|Console)"),
    Source("flare-game", r"/soundfx/", r"/npcs/", folder=True),
    Source("btanks-data"),
    Source("supertux-data", r"/sounds/"),
    Source("micropolis-data", r"/sounds/"),
    Source(
        "triplea",
        r"_\d\d_[^/]*\.mp3$",
        r"(?i)anthem|music|theme|overture|lotr|epic",
        r"^.*_\d\d_|^(Other|required).*",
    ),
    Source("lincity-ng-data", r"/sounds/"),
    Source("simutrans-pak64", r"/sound/"),
    Source("searchandrescue-data", r"/(sounds|hh60|hh65)/"),
    Source("hedgewars-data", r"/Sounds/[^/]*\.ogg$"),
    Source("plee-the-bear-data", r"/sound/", r"/(scale|sequencer)/", folder=True),
    Source("brainparty-data", r"\.(wav|ogg)$"),
    Source("tuxmath-data", r"/sounds/"),
    Source("tuxtype-data", r"/sounds/"),
    Source("sonic-pi-samples", r"/samples/(drum|elec_bell|elec_chime|misc|perc|guit|vinyl|tabla|ambi)_"),
    Source("sound-icons", r"/sound-icons/"),
    Source("lmms-common", r"/(effects|drums|instruments|misc)/", r"undefined|shapes"),
    Source("caveexpress-data", r"/sounds/"),
    Source("warmux-data", r"/(weapons|misc)/", r"music"),
    Source("tuxfootball", r"/sound/"),
    Source("frozen-bubble-data", r"/snd/", r"zik"),
    Source("extremetuxracer-data", r"/sounds/"),
    Source("trackballs-data", r"/sfx/"),
    Source("gigalomania-data", r"/sound/(biplane|bomb|jetplane|spaceship|woodbrk)"),
    Source("dustracing2d-data", r"/sounds/"),
    Source("xboard", r"/sounds/"),
)

# The first word of names that say what a sound is for instead of what is heard.
USES = {
    *("audio", "arrive", "build", "button", "chat", "checkbox", "click", "complete", "contract", "device"),
    *("dialog", "expand", "gamestart", "invalid", "join", "leave", "lose", "message", "miss", "network"),
    *("new", "player", "power", "receive", "refresh", "select", "service", "slider", "slowed", "success"),
    *("suspend", "timer", "ugg", "win", "window", "worker", "trash", "screen", "main", "place", "soundstuff"),
    *("attention", "attack", "bonus", "building", "cancel", "character", "correct", "correcting", "custom"),
    *(
        "countdown",
        "denied",
        "down",
        "end",
        "error",
        "extra",
        "hit",
        "invincible",
        "level",
        "newcomer",
        "night",
    ),
    *(
        "ok",
        "prompt",
        "result",
        "savebell",
        "savepoint",
        "skip",
        "start",
        "tech",
        "tutorial",
        "up",
        "upgrade",
    ),
    *("wrong", "excellent", "complete", "die", "hurt", "good", "sunny", "unused", "ground", "standard"),
}
# First words that only name the part of a game.
MODS = {"default", "doors", "dig", "carts", "env", "sounds", "xpanes", "bucket", "boats", "farming"} | {
    *(
        "inventory",
        "sfx",
        "drum",
        "ambi",
        "elec",
        "perc",
        "misc",
        "bullet",
        "world",
        "tile",
        "npc",
        "minetest",
    ),
}
# Compounds, part by part.
SPLIT = _pairs(
    """
birdchirp: bird chirp; carhorn: car horn; cheeringloop: cheering; citysounds: city; factoryloop: factory;
firetruck: fire truck; policecar: police car; lightningbolt: lightning bolt; oceanwaves: ocean waves;
beesting: bee sting; machinegun: machine gun; tripleshot: triple shot; shockwave: shock wave; beamup: beam
up; laserdeath: laser; nuclearloop: nuclear reactor; tankmove: tank; arcticwind: arctic wind; firesoft:
soft fire; smallfire: small fire; minepump: mine pump; radiomessage: radio message; newswav: news;
waterfontain: water fountain; civfemdeath: woman dying; civfemscream: woman screaming; civmaledeath: man
dying; civmalehurt: man hurt; maledeath: man dying; malehurt: man hurt; femaledeath: woman dying;
femalehurt: woman hurt; bodyimpact: body impact; plasmaball: plasma ball; waterbullet: bullet water;
breakelectric: electric spark; breakglass: glass breaking; breakmetal: metal breaking; breakwood: wood
breaking; alienflyby: alien spaceship flying by; humanflyby: aircraft flying by; chaingun: machine gun;
heavybolter: heavy bolter; heavyneedler: heavy needle gun; needler: needle gun; shotgunmini: shotgun;
taserdouble: taser; flamer: flame thrower; lasercannon: laser cannon; hoverheavy: hover; alienatmo: alien
ambience; alienbase: alien base; alienenergy: alien energy; alienmachinery: alien machinery;
alienpowermachinery: alien machinery; alienwormhole: alien wormhole; bloodspiderwalk: spider walking;
bloodspider: spider monster; hovernet: alien hovering; ortnok: alien monster; shevaar: alien monster;
taman: alien; hitground: landing; buletby: bullet whizzing by; machinerydrone: machinery drone; neonhum:
neon light hum; demonwind: wind; firearrowhit: fire arrow hit; elewalk: elephant walking; eleattack:
elephant attack; nightime: night; desertday: desert; battlemage: battle mage; swordman: swordsman;
minarett: muezzin; minecart: mine cart; warcry: war cry; timestop: time stop; deadman: man dying;
machinegunner: machine gun; bigjump: jump; dartfire: dart; darthit: dart hit; iceblock: ice block;
icecrash: ice crash; treehit: tree hit; lifeup:; turnkey: turning a key; heavytraffic: heavy traffic;
quackquack: duck quacking; woosh: whoosh; buzzsaw: buzz saw; planelow: low plane; seagulls: sea gulls;
birdy: bird; baseballbat: baseball bat; beewater: bee water; drillgun: drill gun; flamethrower: flame
thrower; graveimpact: stone impact; grenadeimpact: grenade impact; melonimpact: melon splat; mineimpact:
mine impact; minetick: mine ticking; minigun: machine gun; planewater: plane water; rcplane: model plane;
ropeattach: rope; ropeshot: rope shot; roperelease: rope release; rubberduck: rubber duck; shotgunfire:
shotgun; shotgunreload: shotgun reload; shutterclick: camera shutter click; sniperreload: rifle reload;
whipcrack: whip crack; jetpackboost: jetpack; lasersight: laser sight; knifeimpact: knife impact;
pickhammer: pneumatic drill; airhammer: pneumatic drill; towerclock: tower clock; raindrops: rain;
bassdrum: bass drum; bassslap: bass guitar; cowbell: cow bell; cavewind: wind in a cave; crowdboo: crowd
booing; crowdcheer: crowd cheering; crowdooh: crowd oohing; refwhistleend: referee whistle;
refwhistlelong: referee whistle; refwhistleshort: referee whistle; refwhistletwice: referee whistle;
crazylaugh: crazy laugh; evillaugh: evil laugh; sandcrash: sand crash; capuchmonk: monkey; capuch: monkey;
jetplane: jet plane; woodbrk: wood breaking; woodthunk: wood thunk; magicmissile: magic missile;
faeriefire: magic; thunderstick: gun; dragonstick: flame gun; wardrums: war drums; waterdrop: water drop;
rockfall: rock fall; lightstaff: magic; fairydust: fairy dust; fireballs: fireball; lunchbox: lunch box;
sailorboy: sailor; fencegate: fence gate; airmine: mine; fireimpact: fire impact; woodcutter: woodcutter;
lowgravity: low gravity; footstep: footstep; finishbuilding: hammering; hithardground: landing; bombdrop:
bomb drop; metalhit: metal hit
"""
)
# Words of these names, as a person would say them.
PLAIN = _pairs(
    """
die: dying; critdie: dying; death: dying; hit: hurt; dug: digging; smith: blacksmith hammering;
lumberjack: lumberjack chopping wood; sheepfield: sheep; stonemason: stonemason chiselling stone; chapel:
chapel bells; tavern: people in a tavern; flippage: turning a page; bell: bell ringing; wose: tree
creature; phys: attack; ment: attack; orni: ornithopter; ele: elephant; mooq: creature; puka: creature;
wipf: small creature; chippie: insect creature; clonk: thud; pshshsh: hiss; kraah: crow; blub: bubble;
maille: chain mail; gryphon: griffin; creak: creaking; croud: crowd; trafic: traffic; cymbaly: dulcimer;
cembalo: harpsichord; klavichord: clavichord; violoncello: cello; xylofon: xylophone; ugv: military
vehicle; hmg: heavy machine gun; smg: submachine gun; mech: robot; misc:; snare: snare drum; tom: tom
drum; kick: kick drum; hihat: hi-hat cymbal; guit: guitar; tabla: tabla drum; vinyl: vinyl record; ric:
ricochet; ricoche: ricochet; baa: sheep bleating; moo: cow mooing; meow: cat meowing; quack: duck
quacking; bark: dog barking; honkhonk: car horn; klaxon: car horn; sml: small; med: medium; lrg: large;
exp: explosion; hef:; tock: clock ticking; mudchute:; sheriff:; skeleton: skeleton; yeti: yeti; clav:
claves; loop:; yoyo: yo-yo; foal: horse; dig: digging; ho:; applauses: applause; ico:; gull: seagull
"""
)
# Whose voice is heard when a unit is chosen or answers.
ANIMALS = {
    "bull",
    "chicken",
    "cow",
    "pig",
    "eagle",
    "sheep",
    "wolf",
    "elephant",
    "dragon",
    "behemoth",
    "horse",
}
VOICED = {"ack", "select", "selected", "sel", "standing"}
# What is struck, where other names with `hit` mean that someone is hurt.
MATERIALS = {
    *(
        "metal",
        "wood",
        "rock",
        "stone",
        "ice",
        "glass",
        "tree",
        "car",
        "crate",
        "weapon",
        "shield",
        "general",
    ),
    *(
        "soft",
        "organic",
        "arrow",
        "whoosh",
        "dart",
        "gate",
        "bucket",
        "sword",
        "living",
        "boomerang",
        "tower",
    ),
}
# Words that say nothing of what is heard.
UNSAID = {
    *("loop", "alt", "cut", "short", "long", "lr", "la", "wav", "sfx", "snd", "son", "noises", "sounds"),
    *(
        "soundfx",
        "init",
        "idle",
        "hi",
        "lo",
        "main",
        "old",
        "action",
        "full",
        "used",
        "sound",
        "noise",
        "the",
    ),
}
# Folders that sort sounds without saying what is heard.
FOLDERS = {
    *(
        "action",
        "movement",
        "hits",
        "materials",
        "environment",
        "disasters",
        "liquids",
        "objects",
        "structures",
    ),
    *("misc", "seq", "soundfx", "powers", "enemies", "inventory", "wav", "shoot", "sound", "sounds", "plee"),
    *("effect", "world", "civilians", "soldiers", "weapons", "ambience", "explosions", "unpacked", "weather"),
}
# Words that make a name unusable: a voice's remark, a tune, a game's own idea.
DROPPED = _listed(
    """
aaah ack aesculapian afro aliencom alsa amb amidst anklet area aroof atm audio austrian bad badpill
battery bfg bhit bonus boot build button cabin cf change changu chatted cheburashka checkpoint chef
chiptune christmas cinder clack clown clung cluzooka com commune confirm corrupting crystallo ctf curnt
curse custom dazed decline denied ding disco dispersion display dogmatix doll doubt doy dr dummy dunno ear
earring earth easel emelya empsmall eraser estonian evil excellent excuseme expl extralife extratime fight
fightlife firebird firepunch fstatck fsthum fstrun gamekeeper generic gliss glove gna goodpill greg grenlf
grommet grow hang hat health hellish hgrenb hm hogchant homerun hurry hyprbf idle igloo ind industry init
intro invulnerable iora iotshin ipu irgoggles item ivasyk jack jar joker jug jumppad kamikaze kinder
lasfly lg lifeup lobbyprivmsg lockon lose lukoje lunchbox machgf magnet magnifying malus market medikit
men mission monitor monument moved music necklace newroot noammo noh ode oedephon ole ooff oop origami ow
packagetarget para pause peculiar pishik placed plasmx play portal portalopen portalshot portalswitch
power powerup prince prod prods pshit psiattack pupil quad quarter query quilt quiz rabel radiation railgf
raze res residential respawn rg riftcollapse rocklf rocklx rozhok savebell schooler shanty shieldsdown
shock sinegun skip snaph sorry sound spiral sshotf star sting strt substation suck suddendeath summon
supertux switchhog tada talk tardis technology telein teleout teleport text throwpowerup tim tip totem
transmission transport trash tutorials tuxi ugh uhuh ui umka undefined unit units university urchin
valkyries voi voice vulcanf warp watercolor weird welldone willocatch willowisp win winfinal wstbexpl
wvulfire wvulwind xbox yaga yinyang yobel youhikko zhaleyka zipline zoetrope zone zozulka
"""
)
