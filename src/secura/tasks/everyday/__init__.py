"""Everyday questions that any English model can be asked: what it knew before it was taught something new.

Facts stand in small tables, one file a field; every question is made of them in the same words
each time. Each family is a task of the catalogue, called `everyday_` and its name. The choice of
facts is calibrated on SmolLM2-135M-Instruct, which is right about 40 to 90 percent of each family: of
what a model never knew, or can hardly lose, no forgetting can be seen. docs/evaluation.md has the table.
"""

from secura.tasks.everyday import calendar, geography, instructions, learning, nature, numbers, reasoning, words
from secura.tasks.everyday.asking import Family

FAMILIES: tuple[Family, ...] = (
    Family(name="capitals", tests="the capital of a country", questions=geography.capitals),
    Family(name="continents", tests="the continent of a country, five choices", questions=geography.continents),
    Family(name="languages", tests="the language of a country", questions=geography.languages),
    Family(name="sums", tests="adding, taking away and multiplying, four choices", questions=numbers.sums),
    Family(name="units", tests="how many of a unit make another", questions=numbers.units),
    Family(name="counts", tests="how many parts a thing has, four choices", questions=numbers.counts, by_length=True),
    Family(name="plurals", tests="the plural of a noun", questions=words.plurals),
    Family(name="past_tense", tests="a sentence put into the past tense", questions=words.past_tense),
    Family(name="opposites", tests="the opposite of a word, four choices", questions=words.opposites),
    Family(
        name="days_and_months", tests="what comes before or after, four choices", questions=calendar.days_and_months
    ),
    Family(name="chemical_symbols", tests="the symbol of an element", questions=nature.chemical_symbols),
    Family(name="kinds_of_animals", tests="which kind an animal is, six choices", questions=nature.kinds_of_animals),
    Family(name="young_animals", tests="the name of a young animal, four choices", questions=nature.young_animals),
    Family(name="colours", tests="the colour of a thing, four choices", questions=nature.colours),
    Family(name="fields_of_study", tests="what a science is about, four choices", questions=learning.fields_of_study),
    Family(name="known_for", tests="who wrote, made or found something", questions=learning.known_for),
    Family(name="conclusions", tests="what follows from two sentences", questions=reasoning.conclusions),
    Family(name="comparisons", tests="which of three things is the most", questions=reasoning.comparisons),
    Family(
        name="sense",
        tests="which word makes sense in a sentence, four choices",
        questions=reasoning.sense,
        by_length=True,
    ),
    Family(name="letters", tests="the first or last letter of a word", questions=instructions.letters),
    Family(name="words_on_a_line", tests="writing words as told", questions=instructions.words_on_a_line),
    Family(name="json_pairs", tests="writing a key and its value in JSON", questions=instructions.json_pairs),
)
"""Every family, in the order of reports."""
