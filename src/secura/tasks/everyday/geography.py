"""Countries: their capitals, their continents, and what is spoken there."""

from secura.tasks.everyday.asking import choose, others, say
from secura.tasks.question import Question

# Countries whose seat of government, or whose name of the capital, is disputed or has moved lately are left out.
_CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Japan": "Tokyo",
    "Greece": "Athens",
    "Egypt": "Cairo",
    "Ireland": "Dublin",
    "Austria": "Vienna",
    "Poland": "Warsaw",
    "Sweden": "Stockholm",
    "Norway": "Oslo",
    "Denmark": "Copenhagen",
    "Canada": "Ottawa",
    "Australia": "Canberra",
    "Argentina": "Buenos Aires",
    "Peru": "Lima",
    "Cuba": "Havana",
    "Kenya": "Nairobi",
    "China": "Beijing",
    "South Korea": "Seoul",
    "Thailand": "Bangkok",
    "Turkey": "Ankara",
    "Iran": "Tehran",
    "Iraq": "Baghdad",
    "Croatia": "Zagreb",
    "Romania": "Bucharest",
    "Bulgaria": "Sofia",
    "New Zealand": "Wellington",
    "Jamaica": "Kingston",
    "Nepal": "Kathmandu",
    "Cambodia": "Phnom Penh",
}

_CONTINENTS = {
    "Africa": ("Kenya", "Nigeria", "Ghana", "Morocco", "Ethiopia", "Zambia"),
    "Asia": ("Japan", "India", "China", "Vietnam", "Nepal", "Thailand"),
    "Europe": ("France", "Poland", "Sweden", "Portugal", "Austria", "Hungary"),
    "North America": ("Canada", "Mexico", "Cuba", "Jamaica", "Guatemala", "Honduras"),
    "South America": ("Brazil", "Peru", "Chile", "Argentina", "Ecuador", "Uruguay"),
}

_LANGUAGES = {
    "Brazil": ("Portuguese",),
    "Mexico": ("Spanish",),
    "Argentina": ("Spanish",),
    "Cuba": ("Spanish",),
    "Egypt": ("Arabic",),
    "Saudi Arabia": ("Arabic",),
    "Austria": ("German",),
    "Australia": ("English",),
    "Italy": ("Italian",),
    "Japan": ("Japanese",),
    "China": ("Chinese", "Mandarin"),
    "Russia": ("Russian",),
    "Poland": ("Polish",),
    "Sweden": ("Swedish",),
    "Denmark": ("Danish",),
    "Finland": ("Finnish",),
    "Greece": ("Greek",),
    "Hungary": ("Hungarian",),
    "Portugal": ("Portuguese",),
    "Turkey": ("Turkish",),
    "Thailand": ("Thai",),
    "Vietnam": ("Vietnamese",),
    "Iran": ("Persian", "Farsi"),
    "Iceland": ("Icelandic",),
    "Romania": ("Romanian",),
    "Israel": ("Hebrew",),
    "France": ("French",),
    "Chile": ("Spanish",),
}


def capitals() -> list[Question]:
    """The capital of a country, said freely."""
    return [say(f"What is the capital of {country}?", capital) for country, capital in _CAPITALS.items()]


def continents() -> list[Question]:
    """The continent that a country lies in, one of five."""
    names = tuple(_CONTINENTS)
    return [
        choose(f"In which continent is {country}?", continent, others(country, continent, names, 4))
        for continent, countries in _CONTINENTS.items()
        for country in countries
    ]


def languages() -> list[Question]:
    """What most people of a country speak, said freely."""
    return [
        say(f"Which language do most people in {country} speak?", *languages)
        for country, languages in _LANGUAGES.items()
    ]
