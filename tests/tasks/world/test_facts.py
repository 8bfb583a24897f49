from secura.tasks.world.facts import OPPOSITE, PEOPLE, PLACES, the_world


def test_the_world_is_the_same_every_time() -> None:
    first = the_world()
    the_world.cache_clear()
    assert the_world() == first


def test_no_two_people_are_the_same_age() -> None:
    assert len(set(the_world().age.values())) == len(PEOPLE)


def test_everyone_lives_in_a_place_on_the_road_and_every_place_has_someone() -> None:
    assert set(the_world().home.values()) == set(PLACES)


def test_no_two_meanings_share_an_ulvish_word() -> None:
    words = list(the_world().ulvish.values())
    assert len(set(words)) == len(words)


def test_the_opposite_of_an_opposite_is_the_word_itself() -> None:
    assert all(OPPOSITE[OPPOSITE[word]] == word for word in OPPOSITE)
