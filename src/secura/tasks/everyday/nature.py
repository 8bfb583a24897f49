"""Nature: chemical symbols, kinds of animals, their young, and colours of things."""

from secura.tasks.everyday.asking import choose, others, say, with_article
from secura.tasks.question import Question

# Without symbols that are words of a sentence, such as He, I, As and No.
_SYMBOLS = {
    "hydrogen": "H",
    "oxygen": "O",
    "carbon": "C",
    "nitrogen": "N",
    "iron": "Fe",
    "gold": "Au",
    "silver": "Ag",
    "copper": "Cu",
    "sodium": "Na",
    "potassium": "K",
    "calcium": "Ca",
    "zinc": "Zn",
    "lead": "Pb",
    "tin": "Sn",
    "mercury": "Hg",
    "chlorine": "Cl",
    "magnesium": "Mg",
    "aluminum": "Al",
    "silicon": "Si",
    "sulfur": "S",
    "phosphorus": "P",
    "neon": "Ne",
    "nickel": "Ni",
    "platinum": "Pt",
    "uranium": "U",
    "lithium": "Li",
    "titanium": "Ti",
    "cobalt": "Co",
    "tungsten": "W",
    "antimony": "Sb",
    "manganese": "Mn",
    "bismuth": "Bi",
}

_ANIMALS = {
    "a mammal": ("dog", "whale", "bat", "dolphin", "elephant", "mouse", "kangaroo"),
    "a bird": ("eagle", "penguin", "ostrich", "owl", "duck", "parrot"),
    "a fish": ("shark", "salmon", "trout", "tuna", "cod"),
    "a reptile": ("crocodile", "lizard", "turtle", "snake", "gecko"),
    "an amphibian": ("frog", "toad", "salamander", "newt"),
    "an insect": ("ant", "bee", "butterfly", "beetle", "mosquito"),
}

# Without names that fit several of these, such as chick for any bird and pup for a dog.
_YOUNG = {
    "dog": "a puppy",
    "cat": "a kitten",
    "cow": "a calf",
    "elephant": "a calf",
    "giraffe": "a calf",
    "horse": "a foal",
    "donkey": "a foal",
    "zebra": "a foal",
    "sheep": "a lamb",
    "pig": "a piglet",
    "goat": "a kid",
    "duck": "a duckling",
    "goose": "a gosling",
    "bear": "a cub",
    "lion": "a cub",
    "tiger": "a cub",
    "deer": "a fawn",
    "frog": "a tadpole",
    "kangaroo": "a joey",
    "koala": "a joey",
    "swan": "a cygnet",
    "owl": "an owlet",
    "eagle": "an eaglet",
    "butterfly": "a caterpillar",
    "spider": "a spiderling",
}

_COLOURS = {
    "Green": ("is fresh grass", "is spinach", "is an emerald", "is broccoli", "do blue and yellow paint make"),
    "Blue": ("is the sky on a clear day", "is a sapphire"),
    "White": ("is snow", "is milk", "is table salt", "is a polar bear"),
    "Red": ("is blood", "is a ruby", "is a stop sign", "is a ripe strawberry"),
    "Yellow": ("is a ripe banana", "is a lemon", "are the petals of a sunflower"),
    "Black": ("is coal", "is a raven", "is the sky on a night without a moon"),
    "Orange": ("is a carrot", "is a pumpkin", "do red and yellow paint make"),
    "Pink": ("is a flamingo", "do red and white paint make"),
    "Brown": ("is chocolate", "is coffee with milk"),
    "Purple": ("do red and blue paint make", "is an eggplant"),
}


def chemical_symbols() -> list[Question]:
    """The symbol of a chemical element, said freely."""
    return [say(f"What is the chemical symbol for {element}?", symbol) for element, symbol in _SYMBOLS.items()]


def kinds_of_animals() -> list[Question]:
    """Which kind of animal one is, of six."""
    kinds = tuple(_ANIMALS)
    return [
        choose(f"What kind of animal is {with_article(animal)}?", kind, others(animal, kind, kinds, 5))
        for kind, animals in _ANIMALS.items()
        for animal in animals
    ]


def young_animals() -> list[Question]:
    """What the young of an animal is called, one of four names."""
    names = tuple(_YOUNG.values())
    return [
        choose(f"What is a baby {animal} called?", name, others(animal, name, names, 3))
        for animal, name in _YOUNG.items()
    ]


def colours() -> list[Question]:
    """The colour of a thing, one of four."""
    names = tuple(_COLOURS)
    return [
        choose(f"What color {asked}?", colour, others(asked, colour, names, 3))
        for colour, things in _COLOURS.items()
        for asked in things
    ]
