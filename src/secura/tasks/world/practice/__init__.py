"""What pretraining practises beside the knowledge: copying, finding, comparing, ordering.

None of these questions is ever scored. They give the model the parts that the new tasks
put together differently, under other words: it practises which of two people is the
older, and is later asked for the younger; it practises chains of two rules, and later
meets three. Every word of a new task occurs here or in the knowledge, because a task in
unseen words wipes out everything, whatever the method that learns it.
"""

from collections.abc import Callable

from secura.tasks.drawing import Draw
from secura.tasks.question import Question
from secura.tasks.world.practice import lists, numbers, people, stories, words

PRACTICE: dict[str, Callable[[Draw], Question]] = {
    "list_position": lists.list_position,
    "list_neighbour": lists.list_neighbour,
    "list_copy": lists.list_copy,
    "list_count": lists.list_count,
    "find_kind": lists.find_kind,
    "gift": stories.gift,
    "two_gifts": stories.two_gifts,
    "carried": stories.carried,
    "stock": numbers.stock,
    "two_stocks": numbers.two_stocks,
    "long_sum": numbers.long_sum,
    "big_sum": numbers.big_sum,
    "age_gap": people.age_gap,
    "rules": words.rules,
    "same": people.same,
    "oldest": people.oldest,
    "which_person": people.which_person,
    "road_walk": people.road_walk,
    "shorten": stories.shorten,
    "word_list": words.word_list,
    "sentence": words.sentence,
    "two_opposites": words.two_opposites,
    "spell": words.spell,
    "coloured": stories.coloured,
}
