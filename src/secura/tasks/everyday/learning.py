"""Learning: what sciences are about, and who wrote, made or found something."""

from secura.tasks.everyday.asking import choose, others, say
from secura.tasks.question import Question

_STUDIED = {
    "botany": "Plants",
    "zoology": "Animals",
    "geology": "Rocks",
    "astronomy": "Stars",
    "entomology": "Insects",
    "ornithology": "Birds",
    "seismology": "Earthquakes",
    "meteorology": "Weather",
    "cardiology": "The heart",
    "dermatology": "The skin",
    "linguistics": "Language",
    "ichthyology": "Fish",
    "mycology": "Fungi",
    "herpetology": "Reptiles",
    "oncology": "Cancer",
    "ophthalmology": "The eyes",
    "paleontology": "Fossils",
    "hematology": "Blood",
    "nephrology": "The kidneys",
    "volcanology": "Volcanoes",
    "dendrology": "Trees",
    "toxicology": "Poisons",
    "numismatics": "Coins",
    "vexillology": "Flags",
    "horology": "Clocks",
    "etymology": "The origin of words",
}

_KNOWN_FOR = (
    ("wrote Romeo and Juliet", "Shakespeare"),
    ("wrote Hamlet", "Shakespeare"),
    ("wrote the Harry Potter books", "Rowling"),
    ("painted the Mona Lisa", "da Vinci", "Leonardo"),
    ("painted The Starry Night", "van Gogh"),
    ("painted Guernica", "Picasso"),
    ("painted the ceiling of the Sistine Chapel", "Michelangelo"),
    ("developed the theory of relativity", "Einstein"),
    ("discovered the law of gravity", "Newton"),
    ("wrote On the Origin of Species", "Darwin"),
    ("discovered penicillin", "Fleming"),
    ("wrote Don Quixote", "Cervantes"),
    ("wrote the Odyssey", "Homer"),
    ("wrote Oliver Twist", "Dickens"),
    ("wrote Pride and Prejudice", "Austen"),
    ("wrote the novel 1984", "Orwell"),
    ("wrote The Lord of the Rings", "Tolkien"),
    ("wrote Moby-Dick", "Melville"),
    ("wrote War and Peace", "Tolstoy"),
    ("wrote the Divine Comedy", "Dante"),
    ("composed The Four Seasons", "Vivaldi"),
    ("composed The Magic Flute", "Mozart"),
    ("composed Swan Lake", "Tchaikovsky"),
    ("was the first person to walk on the Moon", "Armstrong"),
    ("was the first president of the United States", "Washington"),
    ("wrote Frankenstein", "Shelley"),
    ("wrote The Adventures of Tom Sawyer", "Twain"),
    ("wrote Alice's Adventures in Wonderland", "Carroll"),
)


def fields_of_study() -> list[Question]:
    """What a science is about, one of four."""
    things = tuple(_STUDIED.values())
    return [
        choose(f"What is {field} the study of?", thing, others(field, thing, things, 3))
        for field, thing in _STUDIED.items()
    ]


def known_for() -> list[Question]:
    """Who did what a person is known for, said freely."""
    return [say(f"Who {did}?", *names) for did, *names in _KNOWN_FOR]
