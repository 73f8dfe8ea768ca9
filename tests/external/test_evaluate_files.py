"""python evaluate.py embeddings=...: from files to rows and lines of the report."""

import numpy as np
import pytest
from commands import run
from composing import composed
from sklearn.datasets import load_digits
from sklearn.neighbors import KNeighborsClassifier

from mrl_experiments.embeddings import META, load
from mrl_experiments.errors import UserError
from mrl_experiments.evaluate import _finite, evaluate
from mrl_experiments.examples import read_sheets
from mrl_experiments.external.vector_file import labels_beside, read_vectors
from mrl_experiments.notices import print_once
from mrl_experiments.report.aggregate import aggregate, grids
from mrl_experiments.report.all_tables import TABLES
from mrl_experiments.report.prepare import tidy
from mrl_experiments.results import Measurement, read_rows
from mrl_experiments.runs import Run


def evaluated(root, *overrides, evaluation="knn", reduction="prefix"):
    groups = [f"root={root}", f"evaluation={evaluation}", f"reduction={reduction}"]
    cfg = composed("evaluate", *groups, *overrides)
    evaluate(cfg, evaluation, reduction)
    (file,) = (root / "runs").glob(f"*/results/{evaluation}-*-{reduction}.csv")
    return read_rows(file)


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder with pixels of digits as embeddings of width 64, in three files."""
    folder = tmp_path_factory.mktemp("files") / "digits"
    folder.mkdir()
    pixels, labels = load_digits(return_X_y=True)
    np.savez(folder / "pixels.npz", embeddings=pixels[:400], labels=labels[:400])
    np.save(folder / "database.npy", pixels[400:1300].astype(np.float16))
    np.save(folder / "database.labels.npy", labels[400:1300])
    np.savez(folder / "train.npz", embeddings=pixels[1300:], labels=labels[1300:])
    return folder


@pytest.fixture
def files(digits):
    return [f"embeddings={digits}/pixels.npz", f"database={digits}/database.npy"]


def test_rows_are_those_of_an_independent_search_and_say_where_they_come_from(tmp_path, files, digits):
    rows = evaluated(tmp_path, *files, "evaluation.k=[1,5]")
    pixels, labels = load_digits(return_X_y=True)
    for dim in (8, 64):
        unit = pixels[:, :dim] / np.linalg.norm(pixels[:, :dim], axis=1, keepdims=True).clip(1e-9)
        cosines = unit[:400] @ unit[400:1300].T
        nearest = cosines > cosines.max(axis=1, keepdims=True) - 1e-7  # equals of another class count against
        own = labels[:400, None] == labels[400:1300]
        expected = (nearest & own).any(axis=1) & ~(nearest & ~own).any(axis=1)
        expected = expected.mean()
        (row,) = [r for r in rows if (r.dim, r.metric, str(r.setting)) == (dim, "top1", "k=1")]
        assert row.value == pytest.approx(expected, abs=0.006)  # a zero prefix has no direction
    assert {row.dim for row in rows} == {8, 12, 16, 24, 32, 48, 64}
    assert {row.dim for row in rows if row.trained} == {64}
    found = {(r.run, r.method, r.model, r.dataset, r.split, r.seed) for r in rows}
    assert found == {("external_pixels_digits", "external", "pixels", "digits", "test", None)}


def test_given_names_and_sizes_are_used(tmp_path, files):
    names = ["names.method=mrl", "names.model=org/model 2", "names.dataset=ten", "names.split=v2"]
    rows = evaluated(tmp_path, *files, *names, "names.seed=3", "names.dims=[8,64]", "evaluation.k=[1]")
    (row,) = [row for row in rows if row.dim == 8 and row.metric == "top1"]
    assert (row.method, row.model, row.dataset, row.split, row.seed) == ("mrl", "org/model 2", "ten", "v2", 3)
    assert row.run == "mrl_org-model-2_ten_s3"
    assert {r.dim for r in rows if r.trained} == {8, 64}


@pytest.mark.parametrize(
    "evaluation", ["retrieval", "probe", "funnel", "adaptive_retrieval", "auto_retrieval"]
)
def test_every_evaluation_that_needs_no_classifier_runs(tmp_path, files, evaluation):
    quick = {
        "probe": ["evaluation.solver.iterations=2"],
        "funnel": ["evaluation.max_queries=20", "evaluation.timed=5"],
        "adaptive_retrieval": ["evaluation.max_queries=20", "evaluation.timed=5"],
        "auto_retrieval": ["evaluation.max_queries=200", "evaluation.max_loss=0.5"],
    }.get(evaluation, [])
    rows = evaluated(tmp_path, *files, *quick, "dims=[8,16,32,64]", evaluation=evaluation)
    assert {row.dataset for row in rows} == {"digits"} and len(rows) > 2


def test_images_and_texts_of_any_model_are_compared(tmp_path):
    """Two files of, say, CLIP: images, and three prompts of each class."""
    random = np.random.default_rng(0)
    classes = random.normal(size=(20, 32))
    texts, images = np.repeat(np.arange(20), 3), random.integers(0, 20, 300)
    names = np.array([f"class {number:02}" for number in range(20)])
    np.save(tmp_path / "clip.npy", classes[images] + random.normal(size=(300, 32)))
    np.save(tmp_path / "clip.labels.npy", names[images])
    features = classes[texts] * 2 + random.normal(size=(60, 32)) * 0.5
    np.savez(tmp_path / "prompts.npz", embeddings=features, labels=names[texts])
    files = [f"embeddings={tmp_path}/clip.npy", f"database={tmp_path}/prompts.npz", "names.dims=[8,32]"]
    zero_shot = {
        (r.dim, r.metric): r.value for r in evaluated(tmp_path / "out", *files, evaluation="zero_shot")
    }
    cross = {
        (r.dim, r.metric, str(r.setting)): r.value
        for r in evaluated(tmp_path / "out", *files, evaluation="cross_modal")
    }
    spans = evaluated(tmp_path / "out", *files, evaluation="cosine_span")
    assert sum(row.metric != "samples" for row in spans) == 4 * 3  # also between sizes
    own = texts == images[:, None]
    for dim in (8, 32):
        stored = np.load(tmp_path / "clip.npy")[:, :dim], features[:, :dim]
        image, text = (part / np.linalg.norm(part, axis=1, keepdims=True) for part in stored)
        means = text.reshape(20, 3, dim).mean(axis=1)
        nearest = (image @ (means / np.linalg.norm(means, axis=1, keepdims=True)).T).argmax(axis=1)
        assert zero_shot[dim, "top1"] == pytest.approx((nearest == images).mean())
        hits = np.take_along_axis(own, (image @ text.T).argmax(axis=1)[:, None], axis=1).mean()
        assert cross[dim, "recall@1", "direction=image_to_text"] == pytest.approx(hits)
    assert 0.3 < zero_shot[8, "top1"] < zero_shot[32, "top1"]
    with pytest.raises(UserError, match=r"needs something else to search in(.|\n)*evaluation=zero_shot"):
        evaluated(tmp_path / "other", files[0], evaluation="zero_shot")


def test_classifiers_are_asked_for_where_there_are_none(tmp_path, files):
    with pytest.raises(UserError, match="no classifiers"):
        evaluated(tmp_path, *files, evaluation="linear")


def test_reductions_are_fitted_on_the_training_file_or_the_database(tmp_path, files, digits):
    from_database = evaluated(tmp_path / "a", *files, "dims=[8]", reduction="svd")
    from_train = evaluated(tmp_path / "b", *files, f"train={digits}/train.npz", "dims=[8]", reduction="svd")
    pixels, _ = load_digits(return_X_y=True)
    for rows, fitted_on in ((from_database, pixels[400:1300]), (from_train, pixels[1300:])):
        directions = np.linalg.svd(fitted_on, full_matrices=False)[2][:8]
        short = pixels[:1300] @ directions.T
        short /= np.linalg.norm(short, axis=1, keepdims=True)
        nearest = (short[:400] @ short[400:].T).argmax(axis=1)
        labels = load_digits(return_X_y=True)[1]
        top1 = (labels[400:1300][nearest] == labels[:400]).mean()
        (row,) = [r for r in rows if (r.metric, str(r.setting)) == ("top1", "k=1")]
        assert row.value == pytest.approx(top1, abs=0.006) and not row.trained
    assert from_database != from_train


def test_files_are_copied_once_and_others_are_refused_under_their_name(tmp_path, files, digits):
    evaluated(tmp_path, *files)
    folder = Run(tmp_path / "runs" / "external_pixels_digits").embeddings("digits", "database")
    before = (folder / META).stat().st_mtime_ns
    evaluated(tmp_path, *files)
    pixels, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "other.npz", embeddings=pixels[400:900], labels=labels[400:900])
    others = [files[0], f"database={tmp_path}/other.npz"]
    with pytest.raises(UserError, match=r"other vectors than(.|\n)*names\.model="):
        evaluated(tmp_path, *others)
    assert (folder / META).stat().st_mtime_ns == before
    evaluated(tmp_path / "named", *others, "names.model=few")
    assert len(load(tmp_path / "named/runs/external_few_digits/embeddings/digits/database")) == 500
    rows = evaluated(
        tmp_path, "run=external_pixels_digits", evaluation="retrieval"
    )  # as any run, from now on
    assert {row.split for row in rows} == {"test"}


def test_string_labels_mean_the_same_in_every_file(tmp_path, files, digits):
    names = np.array([f"digit {n}" for n in "3716250489"])
    for file in ("pixels.npz", "database.npy"):
        part = read_vectors(digits / file)
        path = (tmp_path / file).with_suffix(".npz")
        np.savez(path, embeddings=part.features, labels=names[part.labels])
    text = [f"embeddings={tmp_path}/pixels.npz", f"database={tmp_path}/database.npz"]
    assert values(evaluated(tmp_path / "a", *text)) == values(evaluated(tmp_path / "b", *files))


def values(rows):
    return [(row.dim, row.metric, str(row.setting), row.value) for row in rows]


def bad(array, row, value):
    changed = np.array(array, dtype=np.float64)
    changed[row] = value
    return changed


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (bad(x, 7, np.nan), y), r"1 of 400 embeddings hold NaN(.|\n)*first sample 7"),
        (lambda x, y: (bad(x, 7, 1e300), y), "NaN or infinite values"),
        (lambda x, y: (bad(x, 5, 0), y), r"zeros only(.|\n)*leave these samples out"),
        (lambda x, y: (x[:, :32], y), r"differ in width: .*q\.npz has 32, .*database\.npy has 64"),
        (lambda x, y: (x, y.astype(str)), r"labels differ in kind \(test: strings, database: integers"),
        (lambda x, y: (x, y + 100), "400 of 400 queries have a label that is missing from the database"),
    ],
)
def test_bad_values_are_refused(tmp_path, digits, change, message):
    with np.load(digits / "pixels.npz") as part:
        features, labels = change(part["embeddings"], part["labels"])
    np.savez(tmp_path / "q.npz", embeddings=features, labels=labels)
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path, f"embeddings={tmp_path}/q.npz", f"database={digits}/database.npy")
    assert not list(tmp_path.glob("runs/*/results/*"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["run=x"], "both run= and embeddings="),
        (["embeddings=null"], "nothing to evaluate"),
        (["embeddings=null", "run=x", "train=y"], "train=y has no meaning with run="),
        (["queries=[val]"], "queries=.* has no meaning with embeddings="),
        (["variant=flip"], "variant=flip has no meaning"),
        (["names.split=database"], "names.split=database"),
        (["names.dataset=a/b"], "names.dataset=a/b"),
        (["names.dims=[8,65]"], r"names.dims=\[8, 65\](.|\n)*1 to the embeddings' width 64"),
    ],
)
def test_bad_options_are_refused(tmp_path, files, options, message):
    with pytest.raises(UserError, match=message):
        evaluated(tmp_path, *files, *options)


def test_a_trained_run_of_the_same_name_is_left_alone(tmp_path, files):
    config = tmp_path / "runs" / "mrl_pixels_digits_s0" / "config.yaml"
    config.parent.mkdir(parents=True)
    config.write_text("{loss: {name: mrl}, model: {name: pixels}, data: {name: digits}, seed: 0}\n")
    with pytest.raises(UserError, match=r"holds another run(.|\n)*names\.model="):
        evaluated(tmp_path, *files, "names.method=mrl", "names.seed=0")


def test_the_report_shows_their_lines(tmp_path, files):
    rows = evaluated(tmp_path, *files) + evaluated(tmp_path, *files, reduction="svd")
    (table,) = [table for table in TABLES if table.name == "table02"]
    (grid,) = grids(table, aggregate(tidy(rows)), aggregate(tidy([])), {})
    assert grid.block.title == "digits test · pixels"
    assert [column.key for column in grid.columns] == [("external",), ("external_svd",)]
    assert [row for (row,) in grid.index] == [8, 16, 32, 64]
    (alone,) = grids(
        table, aggregate(tidy([row for row in rows if row.reduction == "svd"])), aggregate(tidy([])), {}
    )
    assert alone.index == grid.index


def test_vectors_without_labels_go_from_files_to_tables(tmp_path, digits, capsys):
    """Of judged documents, and of the vectors alone; ids lie in one file, and beside the other."""
    pixels, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "queries.npz", embeddings=pixels[:40], id=np.arange(40))
    np.save(tmp_path / "documents.npy", pixels[400:700])
    (tmp_path / "documents.ids.txt").write_text("".join(f"doc {row}\n" for row in range(300)))
    relevant = [
        (query, row) for query in range(40) for row in np.flatnonzero(labels[400:700] == labels[query])
    ]
    (tmp_path / "qrels.tsv").write_text("".join(f"{query}\tdoc {row}\t1\n" for query, row in relevant))
    files = [
        f"embeddings={tmp_path}/queries.npz",
        f"database={tmp_path}/documents.npy",
        "names.dataset=digits",
    ]
    judged = [*files, f"evaluation.qrels={tmp_path}/qrels.tsv"]
    rows = evaluated(tmp_path, *judged, evaluation="ir")
    rows += evaluated(tmp_path, *judged, evaluation="ir", reduction="svd")
    rows += evaluated(tmp_path, *files, evaluation="agreement", reduction="svd")
    found = {(row.reduction, row.dim, row.metric): row.value for row in rows}
    assert found["svd", 64, "nDCG@10"] == pytest.approx(found["prefix", 64, "nDCG@10"], abs=1e-6)
    assert found["svd", 8, "nDCG@10"] > found["prefix", 8, "nDCG@10"] and found["svd", 64, "overlap@10"] == 1
    assert "nDCG@10 [%]" in capsys.readouterr().out
    for name, column in (("table-ir", "nDCG@10_lost_ci95"), ("table-agreement", "rank_correlation")):
        (table,) = [table for table in TABLES if table.name == name]
        (grid,) = grids(table, aggregate(tidy(rows)), aggregate(tidy([])), {})
        assert column in [one.metric for one in grid.columns]
    with pytest.raises(UserError, match=r"evaluation\.qrels="):
        evaluated(tmp_path, *files, evaluation="ir")


@pytest.mark.slow
def test_the_example_from_a_model_to_the_report(tmp_path):
    done = run("scripts/write_digit_embeddings.py", "--arch", "resnet10t", "--out", tmp_path / "digits")
    assert done.returncode == 0, done.stderr
    where = [f"embeddings={tmp_path}/digits/test.npz", f"database={tmp_path}/digits/database.npz"]
    done = run("evaluate.py", *where, "names.model=resnet10t", f"root={tmp_path}/out", "evaluation=knn")
    assert done.returncode == 0, done.stderr
    rows = read_rows(tmp_path / "out/runs/external_resnet10t_digits/results/knn-digits-prefix.csv")
    top1 = {row.dim: row.value for row in rows if (row.metric, str(row.setting)) == ("top1", "k=1")}
    assert top1[8] < 0.6 < top1[512]  # with random weights
    done = run("report.py", f"root={tmp_path}/out")
    assert done.returncode == 0, done.stderr
    assert "external" in (tmp_path / "out/report/tables.md").read_text()


def test_a_file_searched_in_itself_finds_others_than_the_query(tmp_path, digits, capsys):
    """Also in a copy of the file, and against sklearn on all other rows."""
    (tmp_path / "copy.npz").write_bytes((digits / "pixels.npz").read_bytes())
    pixels, labels = (part[:400] for part in load_digits(return_X_y=True))
    unit = pixels / np.linalg.norm(pixels, axis=1, keepdims=True)
    nearest = KNeighborsClassifier(2).fit(unit, labels).kneighbors(unit, return_distance=False)
    expected = np.mean([labels[next(n for n in row if n != i)] == labels[i] for i, row in enumerate(nearest)])
    for number, database in enumerate((digits / "pixels.npz", tmp_path / "copy.npz")):
        files = [f"embeddings={digits}/pixels.npz", f"database={database}"]
        print_once.cache_clear()
        rows = evaluated(tmp_path / str(number), *files, "dims=[64]", "evaluation.k=[1]")
        (top1,) = [row.value for row in rows if row.metric == "top1"]
        assert top1 == pytest.approx(expected) and top1 < 1
        assert "all of 400 queries (test) are the database itself" in capsys.readouterr().out


def test_one_file_is_searched_in_itself(tmp_path, digits):
    """As if it were named twice, and copied once."""
    file = f"{digits}/pixels.npz"
    for reduction in ("prefix", "svd"):
        alone = evaluated(tmp_path / "a", f"embeddings={file}", reduction=reduction)
        twice = evaluated(tmp_path / "b", f"embeddings={file}", f"database={file}", reduction=reduction)
        assert values(alone) == values(twice)
    (folder,) = (tmp_path / "a/runs").glob("*/embeddings/digits/[a-z]*")
    assert folder.name == "test"
    evaluated(tmp_path / "a", f"embeddings={file}", evaluation="examples")


def test_vectors_without_labels_are_refused_by_what_reads_labels(tmp_path, digits, capsys):
    """Before any work; labels that are added later are read, and a line says how to call the vectors."""
    pixels, labels = load_digits(return_X_y=True)
    np.save(tmp_path / "x.npy", pixels[:300])
    files = [f"embeddings={tmp_path}/x.npy", f"database={digits}/pixels.npz"]
    for evaluation in ("knn", "retrieval", "examples", "few_shot", "probe", "stream", "funnel"):
        with pytest.raises(UserError, match=r"/test has no labels(.|\n)*x\.labels\.npy(.|\n)*=agreement"):
            evaluated(tmp_path / "out", *files, evaluation=evaluation)
    assert "rows call the model x and the data " in capsys.readouterr().out
    with pytest.raises(UserError, match="digits/database has no labels"):
        named = ["names.dataset=digits", "names.model=y"]
        evaluated(tmp_path / "out", f"embeddings={digits}/pixels.npz", f"database={tmp_path}/x.npy", *named)
    np.save(labels_beside(tmp_path / "x.npy"), labels[:300])
    assert evaluated(tmp_path / "out", *files)
    assert "rows call" not in capsys.readouterr().out


def test_two_hundred_vectors_are_enough_for_some_indexes(tmp_path, digits, capsys):
    pixels, labels = load_digits(return_X_y=True)
    np.savez(tmp_path / "few.npz", embeddings=pixels[400:600], labels=labels[400:600])
    files = [f"embeddings={digits}/pixels.npz", f"database={tmp_path}/few.npz", "dims=[8,32,64]"]
    quick = ["evaluation.max_queries=20", "evaluation.timed=2"]
    rows = evaluated(tmp_path / "out", *files, *quick, evaluation="adaptive_retrieval")
    found = {str(row.setting).split()[0] for row in rows if row.setting}
    assert found == {"index=flat", "index=hnsw32"}
    assert "index=ivf is left out at [8, 32, 64] dims" in capsys.readouterr().out


def test_a_value_that_does_not_exist_gets_no_row(capsys):
    values = [Measurement(8, "top1", 0.5, {"k": 1}), Measurement(8, "nll", float("nan"), {"k": 1})]
    assert list(_finite(values, "val")) == values[:1]
    assert "val 8 dims k=1: nll is nan and gets no row" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", ["npz", "parquet", "npy"])
def test_examples_show_the_texts_and_the_names_of_classes_that_files_have(tmp_path, digits, suffix):
    pixels, labels = load_digits(return_X_y=True)
    names, texts = (np.array([f"{word} {label}" for label in labels[:99]]) for word in ("digit", "a drawn"))
    file = tmp_path / f"queries.{suffix}"
    if suffix == "npz":
        np.savez(file, embeddings=pixels[:99], labels=names, texts=texts)
    elif suffix == "npy":
        np.save(file, pixels[:99])
        np.save(labels_beside(file), names)
    else:
        pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
        columns = {"embedding": pixels[:99].tolist(), "label": names.tolist(), "text": texts.tolist()}
        parquet.write_table(pyarrow.table(columns), file)
    evaluated(tmp_path, f"embeddings={file}", f"database={file}", evaluation="examples")
    (rows,) = tmp_path.glob("runs/*/results/examples-*-prefix.csv")
    (sheet,) = read_sheets(rows)
    assert {sample.name for sample in sheet.examples.samples} <= {*names.tolist()}
    for sample in sheet.examples.samples:
        assert sample.text == ("" if suffix == "npy" else texts[sample.row]) and not sample.picture
