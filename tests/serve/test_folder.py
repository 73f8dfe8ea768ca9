"""Folders of indexes that are served: whose vectors, what is shown of each, whole or not at all."""

import json

import numpy as np
import pytest
from serving import options

from mrl_experiments import AdaptiveIndex, load
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.storage import save_index
from mrl_experiments.errors import UserError
from mrl_experiments.serve.folder import open_folder, write_folder
from mrl_experiments.serve.service import open_service


def test_an_index_says_whose_vectors_it_holds(digits, model, index, tmp_path, capsys, trained_runs):
    vectors = np.random.default_rng(0).normal(size=(30, model.width)).astype(np.float32)
    built = AdaptiveIndex.build(vectors, np.arange(30) + 5, IndexSpec((12,), "Flat", ((12, 30), (96, 5))))
    save_index(built, tmp_path / "plain")
    open_service(options(digits, f"index={tmp_path / 'plain'}"))
    assert "does not say whose" in capsys.readouterr().out
    other = trained_runs["captions"]
    if load(other.folder).width != model.width:
        with pytest.raises(UserError, match="dims"):
            open_folder(index, load(other.folder), "last")
    write_folder(tmp_path / "other", built, other)
    with pytest.raises(UserError, match=f"another run, {other.name}"):
        open_folder(tmp_path / "other", model, "last")
    with pytest.raises(UserError, match="there already"):
        write_folder(tmp_path / "other", built, digits)
    with pytest.raises(UserError, match="payload of 2"):
        write_folder(tmp_path / "short", built, digits, [{}, {}])
    assert not (tmp_path / "short").exists()
    built.delete(np.array([7]))
    built.add(vectors[:1] * 2, np.array([7]))
    write_folder(tmp_path / "shown", built, digits, ({"row": row, "é": "\n"} for row in range(31)))
    folder = open_folder(tmp_path / "shown", model, "last")
    shown = folder.shown(np.array([34, 7, 5]))
    assert shown == [{"row": row, "é": "\n"} for row in (29, 30, 0)]
    described = json.loads((tmp_path / "shown" / "served.json").read_text())
    assert described["of"]["run"] == digits.name
    with (tmp_path / "shown" / "payload.jsonl").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"payload\.jsonl"):
        open_folder(tmp_path / "shown", model, "last")


def test_an_edited_folder_and_a_payload_that_is_no_json_are_one_error(digits, model, tmp_path):
    vectors = np.random.default_rng(0).normal(size=(30, model.width)).astype(np.float32)
    index = AdaptiveIndex.build(vectors, None, IndexSpec((12,), "Flat", ((12, 20), (model.width, 5))))
    for odd in ([1, 2], np.int64(3), {"a": np.int64(3)}, {"a": float("nan")}, {"a": "\ud800"}, {1: {2}}):
        with pytest.raises(UserError, match="row 7 is no JSON object"):
            write_folder(tmp_path / "a", index, digits, [*[{}] * 7, odd, *[{}] * 22])
    assert {path.name for path in tmp_path.iterdir()} == {".a.lock"}
    index.delete([0, 1, 2])
    folder = write_folder(tmp_path / "a", index, digits, [{"row": row} for row in range(30)])
    opened = open_folder(folder, model, "last")
    assert opened.live == 27 and opened.shown(np.array([5, 29])) == [{"row": 5}, {"row": 29}]
    with pytest.raises(UserError, match="is there already"):
        write_folder(folder, index, digits)
    path = folder / "served.json"
    said = json.loads(path.read_text())
    del said["digest"]
    for changes in ({"of": None}, {"of": {}}, {"of": []}, {"index": None}, {"index": 1}, {"payload": 1}):
        path.write_text(json.dumps({**said, **changes}))
        with pytest.raises(UserError, match=r"served\.json is damaged"):
            open_folder(folder, model, "last")
