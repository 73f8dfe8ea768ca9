"""Test sets of some of a model's classes: from folder names to labels, as each published set names them."""

import json

import pytest
from commands import ROOT
from composing import composed
from stand_ins import folders

from mrl_experiments.construct import construct
from mrl_experiments.data.images.class_list import class_list
from mrl_experiments.data.images.query_folders import QueryFolders
from mrl_experiments.errors import UserError

CONF = ROOT / "conf"
WNIDS = class_list(None)


def source(root, classes=None, mapping=None):
    return QueryFolders("set", str(root), "r", classes, mapping)


def labels(found):
    return {path.parent.name: label for path, label in found.open(found.splits[0])}


def test_imagenet_v2_numbers_its_folders_and_they_are_not_sorted_as_words(tmp_path):
    names = [str(number) for number in range(1000)]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.jpeg").touch()  # files are listed, not opened
    assert labels(source(tmp_path)) == {name: int(name) for name in names}


@pytest.mark.parametrize("some", [[0, 7, 999], range(0, 1000, 5)])
def test_sets_of_200_classes_keep_the_labels_of_all_1000(some, tmp_path):
    for label in some:
        (tmp_path / WNIDS[label]).mkdir()
        (tmp_path / WNIDS[label] / "0.jpg").touch()
    (tmp_path / "README.txt").touch()
    (tmp_path / ".git").mkdir()
    found = source(tmp_path)
    assert labels(found) == {WNIDS[label]: label for label in some}
    assert found.num_classes == 1000 and found.manifest("r")["classes"] == WNIDS


def test_objectnet_names_its_folders_in_words_and_leaves_out_what_imagenet_lacks(tmp_path):
    folders(tmp_path / "images", ["alarm_clock", "banana", "air_freshener"])
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps({"alarm_clock": "n02708093", "banana": "n07753592"}))
    found = labels(source(tmp_path / "images", mapping=str(mapping)))
    assert found == {"alarm_clock": 409, "banana": 954}
    as_table = tmp_path / "mapping.csv"
    as_table.write_text("folder,class\nalarm_clock,409\nbanana,954\n")
    assert labels(source(tmp_path / "images", mapping=str(as_table))) == found


def test_the_list_may_be_that_of_the_models_own_data(tmp_path):
    own = folders(tmp_path / "ILSVRC" / "train", ["ant", "bee", "cow"]).parent
    queries = folders(tmp_path / "queries", ["cow", "ant"])
    assert labels(source(queries, classes=str(own))) == {"ant": 0, "cow": 2}
    listed = tmp_path / "classes.txt"
    listed.write_text("cow and calf\nbee\nant\n")
    assert labels(source(queries, classes=str(listed))) == {"ant": 2, "cow": 0}


def test_classes_that_are_called_by_numbers_are_names_first(tmp_path):
    listed = tmp_path / "classes.txt"
    listed.write_text("2\n1\n0\n")
    assert labels(source(folders(tmp_path / "q", ["0", "2"]), classes=str(listed))) == {"0": 2, "2": 0}


def test_other_files_make_another_data_set(tmp_path):
    folders(tmp_path, [WNIDS[3]])
    before = source(tmp_path).identity()
    folders(tmp_path, [WNIDS[4]])
    assert source(tmp_path).identity() != before


@pytest.mark.parametrize(
    ("names", "mapping", "problem"),
    [
        (["n01440764", "zebra"], None, "1 of 2 folders are none of the 1000 classes, such as zebra"),
        (["5", "1000"], None, "1 of 2 folders are none of the 1000 classes, such as 1000"),
        (["banana"], {"apple": "n07753592"}, "none of 1 folders, such as banana, is in"),
        (["banana"], {"banana": "n1"}, "1 of 1 folders are none of the 1000 classes"),
        ([], None, "folders are none of the 1000 classes"),
    ],
)
def test_folders_that_are_no_class_are_refused(names, mapping, problem, tmp_path):
    root = folders(tmp_path / "images", names)
    root.mkdir(exist_ok=True)
    where = None
    if mapping:
        where = tmp_path / "mapping.json"
        where.write_text(json.dumps(mapping))
    with pytest.raises(UserError, match=problem) as caught:
        source(root, mapping=where and str(where))
    assert "data.source.classes=" in caught.value.remedy and "data.source.mapping=" in caught.value.remedy


def test_missing_files_are_named(tmp_path):
    with pytest.raises(UserError, match=r"data\.root=.*absent is not a folder"):
        source(tmp_path / "absent")
    root = folders(tmp_path / "images", [WNIDS[0]])
    with pytest.raises(UserError, match=r"the list of classes .*absent does not exist"):
        source(root, classes=str(tmp_path / "absent"))
    with pytest.raises(UserError, match=r"the mapping .*absent\.json does not exist"):
        source(root, mapping=str(tmp_path / "absent.json"))
    (root / WNIDS[1]).mkdir()
    with pytest.raises(UserError, match=f"{WNIDS[1]} holds no image"):
        source(root)


@pytest.mark.parametrize(
    ("option", "split", "names", "expected"),
    [
        ("imagenet_v2", "v2", ["0", "10", "2"], [0, 10, 2]),
        ("imagenet_r", "r", [WNIDS[1], WNIDS[9]], [1, 9]),
        ("imagenet_a", "a", [WNIDS[6], WNIDS[999]], [6, 999]),
        ("imagenet_sketch", "sketch", WNIDS[:3], [0, 1, 2]),
        ("objectnet", "objectnet", ["banana", "chess_piece"], [954]),
    ],
)
def test_every_shift_is_read_through_its_option(option, split, names, expected, tmp_path):
    mapping = tmp_path / "mapping.json"
    mapping.write_text(json.dumps({"banana": "n07753592"}))
    named = [f"data.source.mapping={mapping}"] if option == "objectnet" else []
    root = folders(tmp_path / "images", names)
    cfg = composed("train", f"data={option}", f"data.root={root}", "data.loader=torch", *named)
    cfg.data.cache, cfg.data.size, cfg.data.workers = str(tmp_path / "cache"), 16, 1
    data = construct(cfg.data)
    assert data.splits == (split,) and data.num_classes == 1000
    images, found, index = next(iter(data.dataloader(split)))
    assert images.shape == (len(expected), 3, 16, 16)
    assert dict(zip(index.tolist(), found.tolist(), strict=True)) == dict(enumerate(expected))


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r", "\n\n"])
@pytest.mark.parametrize(
    ("name", "lines", "seen", "names"),
    [
        ("l.txt", ["golden retriever", " caf\u00e9 ", ""], (), ["golden retriever", "caf\u00e9"]),
        ("l.txt", ["golden retriever", "golden eagle"], (), ["golden retriever", "golden eagle"]),
        ("l.txt", ["n01440764 tench, fish", "n01443537 goldfish"], (), ["n01440764", "n01443537"]),
        ("l.txt", ["01440764-n x", "01443537-n y"], (), ["n01440764", "n01443537"]),
        ("l.txt", ["cat a small pet", "dog a pet"], ("dog",), ["cat", "dog"]),
        ("l.txt", ["great white\tshark", "ray\tfish"], (), ["great white", "ray"]),
        ("l.txt", ['"great white"', '"ray"'], (), ["great white", "ray"]),
        ("l.csv", ["Name,id", '"shark, white",0', "ray,1"], (), ["shark, white", "ray"]),
        ("l.csv", ["label,id", "ray,1"], ("label",), ["label", "ray"]),
    ],
)
def test_lists_as_people_write_them(tmp_path, encoding, end, name, lines, seen, names):
    (tmp_path / name).write_bytes(end.join(lines).encode(encoding))
    assert class_list(str(tmp_path / name), seen) == names


def test_lists_that_cannot_be_read_are_refused(tmp_path):
    (tmp_path / "latin.txt").write_bytes("cat\ncaf\u00e9\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"latin\.txt is not UTF-8 text: line 2"):
        class_list(str(tmp_path / "latin.txt"))
    (tmp_path / "twice.txt").write_text("cat\ndog\ncat\n\n")
    with pytest.raises(UserError, match=r"3 classes, 1 of them more than once \['cat'\]"):
        class_list(str(tmp_path / "twice.txt"))
