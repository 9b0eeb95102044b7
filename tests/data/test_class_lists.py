from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from boxes import text
from mobilevit.data.class_lists import UNLABELLED, find_list, make_list, read_list
from mobilevit.data.masks import IGNORED, Header, number_of
from mobilevit.errors import UserError


def header(mode: str, palette: tuple[int, ...] = ()) -> Header:
    return Header(4, 3, "PNG", mode, palette)


def listed(tmp_path, content: str, name: str = "classes.txt"):
    return read_list(text(tmp_path / name, content))


def test_a_line_is_a_number_and_what_is_beyond_has_no_class(tmp_path):
    found = listed(tmp_path, "\ufeffsky\nzebra crossing \nsign, small\n\n")
    assert found.names == ("sky", "zebra crossing", "sign, small")
    assert found.numbers == (0, 1, 2)
    assert found.indices(header("L")) == {0: 0, 1: 1, 2: 2, 3: IGNORED, 255: IGNORED}


def test_numbers_may_have_gaps_and_255_may_be_a_class(tmp_path):
    found = listed(tmp_path, "# animals\n7 cat\n255: sea lion\n0 Unlabelled\n")
    assert (found.names, found.numbers) == (("cat", "sea lion"), (7, 255))
    assert found.indices(header("P")) == {7: 0, 255: 1, 0: IGNORED}


def test_the_largest_number_of_a_wider_mask_has_no_class_either(tmp_path):
    found = listed(tmp_path, "7 cat\n300 dog")
    assert found.by_number == {7: 0, 300: 1, 255: IGNORED, 65_535: IGNORED}
    found = listed(tmp_path, "7 cat\n65536 dog")
    assert found.by_number == {7: 0, 65_536: 1, 255: IGNORED, 2**24 - 1: IGNORED}
    assert listed(tmp_path, "7 cat\n65535 dog").by_number[65_535] == 1


def test_a_name_of_no_class_keeps_its_number(tmp_path):
    found = listed(tmp_path, "void\ncat\nignore\ndog")
    assert (found.names, found.numbers) == (("cat", "dog"), (1, 3))
    assert found.by_number == {0: IGNORED, 1: 0, 2: IGNORED, 3: 1, 4: IGNORED, 255: IGNORED}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("classes.txt", "road 128 64 32\ncar 10 20 30\nvoid 0 0 0"),
        ("label_colors.txt", "128 64 32\troad\n10 20 30\tcar\n0 0 0\tVoid"),
        ("class_dict.csv", "name,r,g,b\nroad, 128, 64, 32\ncar,10,20,30\nignore,0,0,0"),
        ("labelmap.txt", "# label:color_rgb::\nroad:128,64,32::\ncar:10,20,30::\nvoid:0,0,0::"),
    ],
)
def test_colours_are_written_in_many_ways(tmp_path, name, content):
    found = listed(tmp_path, content, name)
    assert (found.names, found.numbers) == (("road", "car"), (0, 1))
    colours = {number_of((128, 64, 32)): 0, number_of((10, 20, 30)): 1, 0: IGNORED}
    assert found.indices(header("RGB")) == colours
    assert found.indices(header("P", (0, 0, 0, 10, 20, 30, 9, 9, 9))) == {
        **{0: IGNORED, 1: 1},
        IGNORED: IGNORED,
    }
    by_number = {0: 0, 1: 1, 2: IGNORED, 3: IGNORED, 255: IGNORED}
    assert found.indices(header("L")) == by_number
    assert found.indices(header("P", (9, 9, 9, 200, 200, 200))) == by_number


def test_black_and_white_are_greys_as_well(tmp_path):
    found = listed(tmp_path, "background 0 0 0\nskin 255 255 255")
    assert found.indices(header("L")) == {0: 0, 255: 1}
    assert found.indices(header("1")) == {0: 0, 1: 1}


def test_255_of_a_palette_is_a_class_where_its_colour_is_listed(tmp_path):
    found = listed(tmp_path, "background 0 0 0\nskin 255 255 255")
    assert found.indices(header("P", (0, 0, 0) * 255 + (255, 255, 255)))[255] == 1


def test_the_number_after_the_last_may_be_a_mistake_if_no_numbers_are_written(tmp_path):
    assert listed(tmp_path, "cat\ndog").spare == {2, number_of((2, 2, 2))}
    assert listed(tmp_path, "cat 0 0 0\ndog 1 1 1").spare == {2}
    assert listed(tmp_path, "0 cat\n1 dog").spare == frozenset()
    assert listed(tmp_path, "\n".join(f"class{i}" for i in range(255))).spare == frozenset()


@pytest.mark.parametrize(
    "content",
    [
        "name,id\nsea lion,4\ncar,9",
        'Name,ID\n"sea lion","4"\n"car","9"\n',
        "id;class_name\n4;sea lion\n9;car",
        "name,class_index,r,g,b\nsea lion,4,1,2,3\ncar,9,4,5,6",
        '"sea lion", 4\ncar, 9',
    ],
)
def test_tables_of_names_and_numbers_are_read_with_a_head_or_without(tmp_path, content):
    found = listed(tmp_path, content, "classes.csv")
    assert (found.names, found.numbers) == (("sea lion", "car"), (4, 9))


def test_a_table_may_have_names_only(tmp_path):
    found = listed(tmp_path, 'name\nroad\n"sign, small"', "classes.csv")
    assert (found.names, found.numbers) == (("road", "sign, small"), (0, 1))


def test_numbers_may_stand_behind_the_names_unless_they_name_them(tmp_path):
    found = listed(tmp_path, "road: 7\nbig car: 9")
    assert (found.names, found.numbers) == (("road", "big car"), (7, 9))
    assert listed(tmp_path, "lane 1\nlane 2").names == ("lane 1", "lane 2")
    assert listed(tmp_path, "lane 1\nroad 1").names == ("lane 1", "road 1")


def test_names_of_no_class_may_have_lines_around(tmp_path):
    found = listed(tmp_path, "__ignore__\n_background_\ncat", "class_names.txt")
    assert (found.names, found.numbers) == (("_background_", "cat"), (1, 2))


def test_a_table_has_numbers_and_colours(tmp_path):
    found = listed(tmp_path, "id,name,r,g,b\n4,road,1,2,3\n9,big car,4,5,6\n", "classes.csv")
    assert (found.names, found.numbers) == (("road", "big car"), (4, 9))
    assert found.by_colour == {number_of((1, 2, 3)): 0, number_of((4, 5, 6)): 1}


def test_a_number_counts_three_times_where_greys_were_saved_in_colour(tmp_path):
    indices = listed(tmp_path, "0 sky\n2 car\n300 bus").indices(header("RGB"))
    assert indices[number_of((2, 2, 2))] == indices[number_of((2, 0, 0))] == 1
    assert indices[300] == 2


def test_the_head_of_a_table_is_no_class_but_a_first_line_of_names_is(tmp_path):
    assert listed(tmp_path, "Pixel Value, Class\n0, a\n1, b", "_classes.csv").names == ("a", "b")
    assert listed(tmp_path, "road\ncar2\nbus3").names == ("road", "car2", "bus3")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has 0 classes"),
        ("void\n255 ignore", "'void' has no number"),
        ("ignore", "has 0 classes"),
        ("\n".join(map(str, range(256))), "has 256 classes"),
        ("cat\ndog\ncat", "the class 'cat' is there twice"),
        ("1 cat\n1 dog", "the number '1' is there twice"),
        ("cat 1 2 3\ndog 1 2 3", "the colour '1 2 3' is there twice"),
        ("1 cat\ndog", "'dog' has no number, but other lines do"),
        ("cat 1 2 3\ndog", "'dog' has no colour, but other lines do"),
        ("cat 1 2 3\ndog 1 2 256", "'dog 1 2 256' has no colour"),
        ("cat\n\ndog", "has an empty line"),
        ("99999999 cat", "99999999 is above 16777215"),
    ],
)
def test_what_cannot_be_meant_is_refused(tmp_path, content, message):
    with pytest.raises(UserError, match=rf"classes.txt: .*{message}"):
        listed(tmp_path, content)


def test_the_first_file_there_is_is_the_list(tmp_path):
    assert find_list([tmp_path]) is None
    (tmp_path / "classes.txt").mkdir()
    second = text(tmp_path / "b" / "labelmap.txt", "a")
    assert find_list([tmp_path, tmp_path / "b"]) == second
    first = text(tmp_path / "b" / "labels.txt", "a")
    assert find_list([tmp_path, tmp_path / "b"]) == first


WORDS = st.text("abcXYZäß()&é", min_size=1, max_size=6)
NAMES = st.lists(WORDS, min_size=1, max_size=2).map(" ".join)


@settings(max_examples=40, deadline=None)
@given(st.dictionaries(st.integers(0, 999), NAMES, min_size=1, max_size=9))
def test_what_is_written_is_read(tmp_path_factory, entries):
    names = [n for n in entries.values() if n.lower() not in UNLABELLED]
    if len(set(names)) < len(names):
        return
    file = tmp_path_factory.mktemp("list") / "classes.txt"
    text(file, "".join(f"{number} {name}\n" for number, name in entries.items()))
    widest = 65_535 if max(entries) > 255 else 255
    assert read_list(file) == make_list(entries, ignored=[IGNORED, widest])
