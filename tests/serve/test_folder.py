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
