from secura.report.told_apart import told_apart

LONG = "the same words again and again, " * 10


def test_long_texts_are_shown_where_they_differ() -> None:
    red, blue = told_apart([LONG + "red" + LONG, LONG + "blue" + LONG], 30)
    assert (len(red), len(blue)) == (30, 30)
    assert "red" in red
    assert "blue" in blue


def test_what_fits_is_shown_whole_and_what_differs_at_once_from_its_beginning() -> None:
    assert told_apart(["again and red", "again and blue"], 30) == ["again and red", "again and blue"]
    assert told_apart(["x" + LONG, LONG], 10) == ["xthe same…", "the same …"]
    assert told_apart([LONG, LONG, ""], 10) == ["the same …", "the same …", ""]
