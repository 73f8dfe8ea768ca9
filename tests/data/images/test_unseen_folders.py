"""Classes that no training has seen: lists of classes, and what is drawn for database and queries."""

import pytest
from stand_ins import folders

from mrl_experiments.data.images.class_list import class_list
from mrl_experiments.data.images.unseen_folders import UnseenFolders
from mrl_experiments.errors import UserError


def source(root, classes=None, database=3, query=2, seed=0):
    return UnseenFolders("4k", str(root), classes, {"database": database, "query": query}, seed)


def counts(files):
    return {label: sum(own == label for _, own in files) for label in {own for _, own in files}}


@pytest.fixture
def tree(tmp_path):
    return folders(tmp_path / "imagenet21k", ["n00000001", "n00000005", "n00000009"], count=6)


def test_so_many_of_each_class_are_drawn_and_none_twice(tree):
    found = source(tree)
    database, queries = found.open("database"), found.open("query")
    assert counts(database) == dict.fromkeys(range(3), 3)
    assert counts(queries) == dict.fromkeys(range(3), 2)
    assert not {path for path, _ in database} & {path for path, _ in queries}
    assert all(path.parent.name == found.classes[label] for path, label in [*database, *queries])


def test_the_seed_draws(tree):
    assert source(tree).open("query") == source(tree).open("query")
    assert source(tree).open("query") != source(tree, seed=1).open("query")


@pytest.mark.parametrize("written", ["n00000009\nn00000001\n", "00000009-n monkey\n00000001-n  a cat\n\n"])
def test_a_list_chooses_classes_and_their_order(written, tree, tmp_path):
    listed = tmp_path / "IDtoClass.txt"
    listed.write_text(written)
    found = source(tree, classes=str(listed))
    assert found.classes == ["n00000009", "n00000001"]
    assert {path.parent.name: label for path, label in found.open("database")} == {
        "n00000009": 0,
        "n00000001": 1,
    }


def test_ready_halves_are_read_whole(tmp_path):
    folders(tmp_path / "database", ["a", "b"], count=4)
    folders(tmp_path / "query", ["a", "b"], count=1)
    found = source(tmp_path, database=1000, query=50)
    assert counts(found.open("database")) == {0: 4, 1: 4}
    assert counts(found.open("query")) == {0: 1, 1: 1}


def test_more_examples_than_there_are_is_an_error_that_names_a_class(tree):
    (tree / "n00000005" / "0.png").unlink()
    with pytest.raises(UserError, match="1 of 3 classes have fewer than 6 images, such as n00000005 with 5"):
        source(tree, database=4)
    with pytest.raises(UserError, match=r"3 of 3 classes have fewer than 1050") as caught:
        source(tree, database=1000, query=50)
    assert "data.source.per_class" in caught.value.remedy


def test_bad_lists_are_refused(tree, tmp_path):
    listed = tmp_path / "list.txt"
    for written, problem in (
        ("n00000001\n", "lists 1 classes"),
        ("n00000001\nn00000001\nn00000005\n", "1 of them more than once"),
        ("n00000001\nn00000002\n", "n00000002 holds no image"),
    ):
        listed.write_text(written)
        with pytest.raises(UserError, match=problem):
            source(tree, classes=str(listed))
    with pytest.raises(UserError, match=r"the list of classes .* does not exist"):
        source(tree, classes=str(tmp_path / "absent.txt"))


def test_imagenets_own_list():
    names = class_list(None)
    assert len(names) == 1000 and names == sorted(names)
    assert (names[0], names[409], names[999]) == ("n01440764", "n02708093", "n15075141")
