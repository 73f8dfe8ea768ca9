"""Indexes on disk: against brute force, after kills, beside writers, on full disks."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from disks import tiny_disk

from mrl_experiments.adaptive.retrieval import disk, disk_build, disk_files, rerank
from mrl_experiments.adaptive.retrieval.disk import DiskIndex
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.similarity import exact_neighbours
from mrl_experiments.adaptive.retrieval.spec import IndexSpec
from mrl_experiments.adaptive.retrieval.storage import load_index
from mrl_experiments.errors import UserError

RNG = np.random.default_rng(0)
FALLING = np.arange(1, 33) ** -0.7
CENTRES = RNG.normal(size=(40, 32))


def draw(count):
    return ((CENTRES[RNG.integers(40, size=count)] + RNG.normal(size=(count, 32))) * FALLING).astype("f4")


VECTORS, QUERIES = draw(3000), draw(50)
SPEC = IndexSpec((16,), "IVF16,PQ16x4fsr", ((16, 100), (32, 10)), effort="nprobe=6")
SIMILARITIES = ["cosine", "inner_product", "l2"]


def whole(count, similarity="cosine"):
    """A spec that looks into all lists and re-ranks all vectors: its answers are those of exact search."""
    return IndexSpec(
        (16,), "IVF16,PQ16x4fsr", ((16, count), (32, 10)), effort="nprobe=16", similarity=similarity
    )


def content(folder):
    """The arrays and codes of an index, but for what says when they were written."""
    files = [path for path in sorted(folder.iterdir()) if path.suffix != ".json" and path.name != ".lock"]
    return {path.name: path.read_bytes() for path in files}


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_it_answers_as_the_same_index_in_memory_does(tmp_path, similarity):
    spec = IndexSpec((16,), SPEC.codes, SPEC.stages, effort=SPEC.effort, similarity=similarity)
    expected = AdaptiveIndex.build(VECTORS, None, spec).search_stages(QUERIES)
    index = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=spec, dtype="float32")
    found = index.search_stages(QUERIES)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.similarities, expected.similarities, rtol=1e-5, atol=1e-6)
    assert load_index(tmp_path).search_stages(QUERIES).ids.tolist() == found.ids.tolist()


def test_sixteen_bits_change_few_neighbours(tmp_path):
    index = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=whole(3000))
    exact, found = exact_neighbours(QUERIES, VECTORS, 10), index.search_stages(QUERIES)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(found.ids, exact.ids, strict=True)]) > 0.99
    np.testing.assert_allclose(found.similarities, exact.similarities, atol=2e-3)


@pytest.mark.parametrize("similarity", SIMILARITIES)
def test_any_changes_leave_what_exact_search_finds(tmp_path, similarity, monkeypatch):
    monkeypatch.setattr(disk, "LEAST_UNCODED", 150)  # so that codes are written anew on the way
    random = np.random.default_rng(1)
    index = AdaptiveIndex.on_disk(
        tmp_path, VECTORS[:1000], np.arange(1000) * 3, spec=whole(5000, similarity), dtype="float32"
    )
    reader = DiskIndex.open(tmp_path)
    there = {int(number): VECTORS[row] for row, number in enumerate(np.arange(1000) * 3)}
    for step in range(6):
        new, numbers = draw(100), np.arange(100) + 10_000 * (step + 1)
        index.add(new, numbers)
        there |= dict(zip(numbers.tolist(), new, strict=True))
        gone = random.choice([*there], 60, replace=False)
        index.delete(gone)
        there = {number: vector for number, vector in there.items() if number not in gone}
        changed, new = random.choice([*there], 30, replace=False), draw(30)
        index.update(new, changed)
        there |= dict(zip(changed.tolist(), new, strict=True))
        if step in (2, 4):
            index.compact()
            assert len(index) == len(there) and len(index.described.segments) == 1
        reader.refresh()
        names, vectors = np.array([*there]), np.stack([*there.values()])
        exact = exact_neighbours(QUERIES, vectors, 10, similarity)
        mask = np.isin(index.ids[:], names[::2])
        for one in (index, reader, DiskIndex.open(tmp_path)):
            assert one.live == len(there)
            np.testing.assert_array_equal(one.search_stages(QUERIES).ids, names[exact.ids])
            among = one.search_stages(QUERIES, mask=mask).ids
            assert np.isin(among, names[::2]).all()
    assert len([*tmp_path.glob("*.npy")]) < 16  # files of earlier versions are gone


def test_a_reader_keeps_its_version_until_it_asks_for_the_next(tmp_path):
    index = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=whole(5000))
    reader = DiskIndex.open(tmp_path)
    before = reader.search_stages(QUERIES).ids
    index.delete(before[0])
    index.compact()  # removes the files that the reader has open
    np.testing.assert_array_equal(reader.search_stages(QUERIES).ids, before)
    assert reader.refresh() and not reader.refresh()
    np.testing.assert_array_equal(reader.search_stages(QUERIES).ids, index.search_stages(QUERIES).ids)
    assert not np.isin(before[0], reader.search_stages(QUERIES[:1]).ids).any()


def test_a_second_writer_goes_on_from_what_the_first_has_written(tmp_path):
    first = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    second = DiskIndex.open(tmp_path)
    first.add(draw(10), np.arange(10) + 5000)
    second.add(draw(10), np.arange(10) + 6000)
    assert DiskIndex.open(tmp_path).live == second.live == 3020
    with pytest.raises(UserError, match="10 ids are in the index already"):
        first.add(draw(10), np.arange(10) + 6000)


def test_numba_and_announced_reads_change_nothing(tmp_path, monkeypatch):
    index = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    index.add(draw(20), np.arange(20) + 5000)
    stages = ((16, 100), (24, 30), (32, 10))
    expected = index.search_stages(QUERIES, stages)
    index._cold = True
    np.testing.assert_array_equal(index.search_stages(QUERIES, stages).ids, expected.ids)
    monkeypatch.setattr(rerank, "COMPILED", False)
    found = index.search_stages(QUERIES, stages)
    np.testing.assert_array_equal(found.ids, expected.ids)
    np.testing.assert_allclose(found.similarities, expected.similarities, atol=1e-6)


def test_a_declared_recall_is_kept_and_stored(tmp_path):
    index = AdaptiveIndex.on_disk(tmp_path, VECTORS, recall=0.8, k=5)
    exact = exact_neighbours(QUERIES, VECTORS, 5).ids
    found = DiskIndex.open(tmp_path).search(QUERIES)
    assert np.mean([np.isin(a, b).mean() for a, b in zip(found.ids, exact, strict=True)]) >= 0.8
    assert (index.search(VECTORS[index.promise.rows]).ids[:, 0] == index.promise.rows).mean() > 0.9  # held
    index.delete(np.arange(300))
    index.compact()
    with pytest.warns(UserWarning, match="tests it anew"):
        DiskIndex.open(tmp_path).search(QUERIES)
    index.certify()
    assert not DiskIndex.open(tmp_path).promise.stale


def test_blocks_of_any_length_make_the_same_index_as_an_array(tmp_path):
    cuts = np.array_split(VECTORS, [1, 5, 700, 701, 2400])
    AdaptiveIndex.on_disk(tmp_path / "array", VECTORS, spec=SPEC)
    AdaptiveIndex.on_disk(tmp_path / "blocks", (block for block in cuts), spec=SPEC)
    assert content(tmp_path / "array") == content(tmp_path / "blocks")


class Stop(BaseException):
    """What ends a build in the middle."""


@pytest.mark.parametrize(
    "what, recall", [("write_json", None), ("append", None), ("write_faiss", None), ("write_faiss", 0.8)]
)
def test_a_build_that_was_stopped_anywhere_goes_on_to_the_same_files(tmp_path, monkeypatch, what, recall):
    monkeypatch.setattr(disk_build, "ROWS", 700)
    monkeypatch.setattr(disk_build, "NOTED", 0.0)
    options = {"spec": SPEC, "recall": recall, "dtype": "float32"}
    AdaptiveIndex.on_disk(tmp_path / "whole", VECTORS, np.arange(3000) + 7, **options)
    owner = disk_build.Appended if what == "append" else disk_build
    original = getattr(owner, what)
    left = 0

    def stopping(*given, **named):
        nonlocal left
        original(*given, **named)
        left -= 1
        if not left:
            raise Stop

    monkeypatch.setattr(owner, what, stopping)
    for attempt in range(1, 20):  # each gets one step further
        left = attempt
        try:
            index = AdaptiveIndex.on_disk(tmp_path / "stopped", VECTORS, np.arange(3000) + 7, **options)
        except Stop:
            continue
        break
    assert attempt > 2
    expected, found = content(tmp_path / "whole"), content(tmp_path / "stopped")
    same = [name for name in expected if not name.startswith("promised")]
    assert [*found] == [*expected] and all(found[name] == expected[name] for name in same)
    assert index.live == 3000 and not (tmp_path / "stopped" / disk_files.BUILDING).exists()


KILLED = """
import os, signal, sys
import numpy as np
from mrl_experiments.adaptive.retrieval import disk_build
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec

disk_build.ROWS, disk_build.NOTED = 500, 0.0
folder, vectors = sys.argv[1], np.load(sys.argv[2])
spec = IndexSpec((16,), "IVF16,PQ16x4fsr", ((16, 100), (32, 10)), effort="nprobe=6")
real = os.fdatasync, os.replace
kills = 0
for number in range(1, 40):
    pid = os.fork()
    if not pid:
        left = [number]
        def counted(call):
            def counting(*given, **named):
                found = call(*given, **named)
                left[0] -= 1
                if not left[0]:
                    os.kill(os.getpid(), signal.SIGKILL)
                return found
            return counting
        os.fdatasync, os.fsync = counted(os.fdatasync), counted(os.fsync)
        AdaptiveIndex.on_disk(folder, vectors, spec=spec)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if not status:
        break
    kills += os.WIFSIGNALED(status)
print(kills)
"""


@pytest.mark.slow
def test_a_build_that_is_killed_again_and_again_makes_the_same_files(tmp_path):
    np.save(tmp_path / "vectors.npy", VECTORS)
    command = [sys.executable, "-c", KILLED, str(tmp_path / "killed"), str(tmp_path / "vectors.npy")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    assert int(done.stdout) >= 4
    AdaptiveIndex.on_disk(tmp_path / "whole", VECTORS, spec=SPEC)
    assert content(tmp_path / "killed") == content(tmp_path / "whole")


READING = """
import sys
import numpy as np
from mrl_experiments.adaptive.retrieval.disk import DiskIndex

index, queries = DiskIndex.open(sys.argv[1]), np.load(sys.argv[2])
print("open", flush=True)
versions = set()
while index.live < 3600:
    index.refresh()
    versions.add(index.described.generation)
    found = index.search_stages(queries)
    assert (found.ids >= 0).all() and index.live in range(3000, 3631, 30), index.live
print(len(versions))
"""


@pytest.mark.slow
def test_another_process_reads_whole_versions_while_this_one_writes(tmp_path):
    np.save(tmp_path / "queries.npy", QUERIES)
    index = AdaptiveIndex.on_disk(tmp_path / "index", VECTORS, spec=SPEC)
    command = [sys.executable, "-c", READING, str(tmp_path / "index"), str(tmp_path / "queries.npy")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as reader:
        assert reader.stdout.readline() == "open\n"
        for step in range(20):
            new = draw(60)
            index.add(new, np.arange(60) + 10_000 + 60 * step)
            if step % 5 == 4:
                index.compact()
            index.delete(np.arange(30) + 10_000 + 60 * step)
            time.sleep(0.15)
        assert int(reader.stdout.read()) > 3
        assert not reader.wait(60)


def test_bad_input_is_refused_before_anything_is_written(tmp_path):
    for options, said in [
        ({"recall": 1.2}, "recall=1.2"),
        ({"recall": 0.99, "queries": QUERIES}, "by 50 queries"),
        ({"dtype": "int8"}, "dtype='int8'"),
        ({"dim": 33}, "dim=33"),
        ({"similarity": "dot"}, "similarity='dot'"),
        ({"spec": IndexSpec((64,), "IVF4,Flat", ((64, 5),))}, "64 features of embeddings of width 32"),
        ({"spec": IndexSpec((8,), "HNSW32", ((8, 5),))}, "codes='HNSW32'"),
        ({"ids": np.zeros(3000, int)}, "1 ids occur more than once"),
        ({"ids": np.arange(7)}, r"ids of shape \(7,\)"),
    ]:
        with pytest.raises(UserError, match=said):
            AdaptiveIndex.on_disk(tmp_path / "new", VECTORS, **options)
        assert not [*tmp_path.glob("new/*.npy")]
    for vectors in (np.zeros((0, 4)), VECTORS[0], "text"):
        with pytest.raises(UserError):
            AdaptiveIndex.on_disk(tmp_path / "other", vectors)


def test_what_vectors_cannot_be_is_said_with_their_rows(tmp_path):
    bad = VECTORS.copy()
    bad[2000, 3] = np.nan
    with pytest.raises(UserError, match="NaN or infinite values, first sample"):
        AdaptiveIndex.on_disk(tmp_path / "nan", bad, spec=SPEC)
    spec = whole(100, "l2")
    for similarity in ("l2", "inner_product"):
        with pytest.raises(UserError, match=r"3,000 of 3,000 vectors.*16 bits.*\n.*float32"):
            AdaptiveIndex.on_disk(tmp_path / similarity, VECTORS * 1e-6, spec=whole(3000, similarity))
    AdaptiveIndex.on_disk(tmp_path / "cosine", VECTORS * 1e-6, spec=SPEC)
    with pytest.raises(UserError, match=r"65,504.*\n.*float32"):
        AdaptiveIndex.on_disk(tmp_path / "far", VECTORS * 1e6, spec=spec)


def test_other_vectors_or_options_do_not_go_on_with_a_build(tmp_path, monkeypatch):
    def stop(*_):
        raise Stop

    monkeypatch.setattr(disk_build._Build, "_trained", stop)
    with pytest.raises(Stop):
        AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    with pytest.raises(UserError, match="its building was interrupted"):
        DiskIndex.open(tmp_path)
    monkeypatch.undo()
    for vectors, options, said in [
        (VECTORS[1:], {"spec": SPEC}, "count, begins"),
        (VECTORS, {"spec": SPEC, "dtype": "float32"}, "dtype"),
        (VECTORS, {"recall": 0.8}, "spec, recall"),
    ]:
        with pytest.raises(UserError, match=said):
            AdaptiveIndex.on_disk(tmp_path, vectors, **options)
    assert AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC).live == 3000
    with pytest.raises(UserError, match="holds an index already"):
        AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)


@pytest.mark.parametrize("change", ["cut", "flip", "remove", "shape"])
def test_a_damaged_folder_is_refused(tmp_path, change):
    AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    for name in ("vectors-1.npy", "ids-1.npy", "codes-1.faiss", disk_files.DESCRIBED):
        path = tmp_path / name
        before = path.read_bytes()
        if change == "remove":
            path.unlink()
        elif change == "shape":
            np.save(path.with_suffix(".npy"), np.zeros((3, 4)))
        else:
            path.write_bytes(before[:-9] if change == "cut" else before[:-9] + b"x" + before[-8:])
        if path.exists() and path.read_bytes() == before:
            continue
        with pytest.raises(UserError):
            DiskIndex.open(tmp_path)
        path.write_bytes(before)


def test_a_description_that_names_other_folders_is_refused(tmp_path):
    AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    path = tmp_path / disk_files.DESCRIBED
    said = json.loads(path.read_text())
    del said["digest"]
    files = dict.fromkeys(said["files"], 1)
    np.save(tmp_path / "deleted-7.npy", np.array([3000]))
    noted = {**said["files"], "deleted-7.npy": disk_files.fingerprint(tmp_path / "deleted-7.npy")}
    for changes in (
        *({"codes": "../x"}, {"segments": []}, {"deleted": "/etc/passwd"}, {"dtype": "object"}),
        *(
            {"coded": "x"},
            {"coded": None},
            {"coded": -1},
            {"coded": 2999},
            {"coded": 3001},
            {"generation": "x"},
        ),
        *({"files": []}, {"files": files}, {"segments": [1, 1]}, {"segments": "1"}, {"deleted": 5}),
        *({"deleted": "ids-1.npy"}, {"deleted": "deleted-7.npy", "files": noted}, {"promise": {"a": 1}}),
    ):
        path.write_text(json.dumps({**said, **changes}))
        with pytest.raises(UserError, match=r"damaged|missing|changed"):
            DiskIndex.open(tmp_path)


def test_ids_that_are_not_there_change_nothing(tmp_path):
    index = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    before = content(tmp_path)
    for change in (
        lambda: index.delete([5, 3000, 4000]),
        lambda: index.update(QUERIES[:2], np.array([5, 3000])),
        lambda: index.add(QUERIES[:2], np.array([5, 3000])),
        lambda: index.add(QUERIES[:2], np.array([7000, 7000])),
        lambda: index.add(QUERIES[:2, :8], np.array([7000, 7001])),
        lambda: index.delete(np.arange(3000)),
    ):
        with pytest.raises(UserError):
            change()
        assert index.described.generation == 1
    assert content(tmp_path) == before and index.described.generation == 1
    with pytest.raises(UserError, match="its folder is it"):
        index.save(tmp_path / "copy")


NO_IDS = [["1"], [1.0], [True], [None], [2**63], [[1], [2, 3]], {6, 7}, "abc", [-1], [np.nan]]


@pytest.mark.parametrize("kept", ["memory", "disk"])
def test_what_is_no_whole_number_is_no_id(tmp_path, kept):
    if kept == "memory":
        index = AdaptiveIndex.build(VECTORS, None, SPEC)
    else:
        index = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    for ids in NO_IDS:
        with pytest.raises(UserError, match="ids"):
            index.delete(ids)
        with pytest.raises(UserError, match="ids"):
            index.add(QUERIES[:1], ids)
    index.add(QUERIES[:1], np.array([3000], np.uint64))
    index.delete(np.array([5], np.uint8))
    index.delete([])
    assert index.search(np.concatenate([QUERIES[:1], VECTORS[5:6]]), 1).ids[:, 0].tolist()[0] == 3000
    assert index.search(QUERIES[:0], 3).ids.shape == (0, 3)


def test_settings_that_are_saved_are_not_undone_by_another_writer(tmp_path):
    first = AdaptiveIndex.on_disk(tmp_path, VECTORS, spec=SPEC)
    second, third = DiskIndex.open(tmp_path), DiskIndex.open(tmp_path)
    second.configure("nprobe=9", ((16, 80), (32, 5)))
    second.add(QUERIES[:1], [5000])
    assert second.spec.effort == "nprobe=9" and DiskIndex.open(tmp_path).spec == SPEC
    second.save()
    third.configure("nprobe=3", SPEC.stages)
    for writer in (first, third):
        writer.delete([int(writer.ids[:1][0]) if writer is first else 7])
        assert DiskIndex.open(tmp_path).spec == second.spec
    assert first.spec == second.spec and third.spec.effort == "nprobe=3"


def test_a_folder_that_was_built_anew_is_seen(tmp_path):
    AdaptiveIndex.on_disk(tmp_path / "a", VECTORS[:1000], spec=SPEC)
    reader = DiskIndex.open(tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "old")
    AdaptiveIndex.on_disk(tmp_path / "a", VECTORS[1000:2000], spec=SPEC)
    assert reader.refresh() and not reader.refresh()
    assert reader.search(VECTORS[1500:1501], 1).ids.tolist() == [[500]]


def test_a_full_disk_loses_nothing(tmp_path):
    with tiny_disk(tmp_path / "disk", 1) as folder:
        index = AdaptiveIndex.on_disk(folder / "index", VECTORS, spec=SPEC)
        expected = index.search_stages(QUERIES).ids
        for _ in range(2):
            with pytest.raises(UserError, match="no space left"):
                index.add(draw(20_000), np.arange(20_000) + 5000)
            with pytest.raises(UserError, match="no space left"):
                (folder / "fill").write_bytes(b"0" * (620 << 10))
                index.compact()
            (folder / "fill").unlink()
            for one in (index, DiskIndex.open(folder / "index")):
                np.testing.assert_array_equal(one.search_stages(QUERIES).ids, expected)
        index.add(draw(100), np.arange(100) + 5000)
        assert DiskIndex.open(folder / "index").live == 3100


def test_a_build_on_a_disk_that_fills_up_goes_on_when_there_is_room(tmp_path, monkeypatch):
    monkeypatch.setattr(disk_build, "require_space", lambda *_: None)
    with tiny_disk(tmp_path / "disk", 1) as folder:
        (folder / "fill").write_bytes(b"0" * (900 << 10))
        with pytest.raises(UserError, match="no space left"):
            AdaptiveIndex.on_disk(folder / "index", VECTORS, spec=SPEC)
        (folder / "fill").unlink()
        assert AdaptiveIndex.on_disk(folder / "index", VECTORS, spec=SPEC).live == 3000


MEMORY = """
import sys
import time
from pathlib import Path
import numpy as np
from mrl_experiments.adaptive.retrieval.index import AdaptiveIndex
from mrl_experiments.adaptive.retrieval.spec import IndexSpec

def anonymous():
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon")) / 1024

def blocks():
    for number in range(30):
        yield np.random.default_rng(number).normal(size=(10_000, 256)).astype("f4")
        most.append(anonymous())

most = []
spec = IndexSpec((64,), "IVF64,PQ32x4fsr", ((64, 200), (256, 10)), effort="nprobe=8")
AdaptiveIndex.on_disk(sys.argv[1], next(blocks()), spec=spec)  # what libraries take once
start = anonymous()
index = AdaptiveIndex.on_disk(sys.argv[2], blocks(), spec=spec)
most.append(anonymous())
index.search_stages(np.random.default_rng(0).normal(size=(500, 256)).astype("f4"))
index.delete(np.arange(1000))
index.compact()
print(max(*most, anonymous()) - start)
"""


@pytest.mark.slow
def test_anonymous_memory_stays_far_below_the_vectors(tmp_path):
    command = [sys.executable, "-c", MEMORY, str(tmp_path / "small"), str(tmp_path / "large")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=True)
    size = (tmp_path / "large" / "vectors-2.npy").stat().st_size / 2**20
    assert size > 140 and float(done.stdout) < 110  # MiB; blocks, a sample, codes
    assert Path(tmp_path / "large" / disk_files.DESCRIBED).exists()
