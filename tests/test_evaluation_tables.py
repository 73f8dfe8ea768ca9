"""Tables of what an evaluation found, as evaluate.py prints them."""

from mrl_experiments.evaluation_tables import tables
from mrl_experiments.results import ResultRow


def rows(values, metric="top1", setting=None, **changed):
    """Return a row for each dim of `values`."""
    row = {
        "run": "mrl_s0", "method": "mrl", "model": "resnet10t", "dataset": "digits", "split": "val",
        "evaluation": "knn", "reduction": "prefix", "trained": True, "seed": 0, **changed,
    }  # fmt: skip
    return [
        ResultRow(dim=dim, metric=metric, value=value, setting=setting or {}, **row)
        for dim, value in values.items()
    ]


def lines(*parts):
    (table,) = tables([row for part in parts for row in part])
    return table.strip().splitlines()


def test_a_table_by_dim_marks_the_fewest_dims_that_are_enough():
    title, heading, *body, said = lines(
        rows({32: 360.0}, "samples"),
        rows({8: 0.5, 16: 0.792, 32: 0.8}, setting={"k": 1}),
        rows({8: 0.01}, "top1_std", setting={"k": 1}),
        rows({8: 0.25, 16: 0.5, 32: 0.75}, setting={"k": 5}),
        rows({8: 0.125}, setting={"k": 1, "draw": 0}),
    )
    assert title == "mrl_s0  digits/val  knn  360 samples"
    assert heading.split() == ["dims", "bytes", "top-1", "[%]", "k=1", "k=5"]
    assert [line.split() for line in body] == [
        ["8", "32", "50.00", "±", "1.00", "25.00"],
        ["16", "64", "79.20", "50.00", "<-", "enough"],
        ["32", "128", "80.00", "75.00"],
    ]
    assert said == (
        "16 of 32 dims are within 1 % of all: 79.20 and 80.00 (top-1 [%] k=1), 64 and 128 bytes per vector"
    )


def test_of_bits_less_is_better_and_costs_stand_beside_them():
    _, heading, *body, said = lines(
        rows({8: 0.5, 16: 0.6}), rows({8: 2.0, 16: 1.99}, "bits_per_byte"), rows({8: 8e3, 16: 16e3}, "macs"),
        rows({8: 1.0, 16: 1.0}, "network_macs"),
    )  # fmt: skip
    assert "bits per byte" in heading and heading.endswith("multiply-adds")
    assert body[0].split() == ["8", "32", "2.000", "8,000", "<-", "enough"]
    assert said.startswith("8 of 16 dims")


def test_where_no_fewer_dims_are_enough_that_is_said():
    *_, said = lines(rows({8: 0.5, 16: 0.6}))
    assert said == "no fewer than all 16 dims are within 1 % of 60.00 (top-1 [%])"


def test_one_dim_says_nothing_of_enough_and_many_settings_are_counted():
    assert "enough" not in "".join(lines(rows({8: 0.5})))
    many = [rows({8: 0.5, 16: 0.5}, setting={"within": f"class {number}"}) for number in range(9)]
    assert lines(*many)[-1] == "3 more settings are in the file"


def choice(policy, dim, top1, used):
    setting = {"policy": policy}
    return [*rows({dim: top1}, setting=setting), *rows({dim: used}, "expected_dim", setting=setting)]


def test_choices_are_lines_with_the_cheapest_that_is_near_the_best():
    table = lines(
        choice("single", 8, 0.5, 8), choice("single", 16, 0.8, 16), choice("joint", 16, 0.799, 9),
        choice("oracle", 16, 0.99, 5),
    )  # fmt: skip
    assert [line.split() for line in table[2:-1]] == [
        ["8", "50.00", "8.0", "policy=single"],
        ["16", "80.00", "16.0", "policy=single"],
        ["16", "79.90", "9.0", "policy=joint", "<-", "enough"],
    ]
    assert table[-1].startswith("the cheapest within 1 % of the best: 16 dims, policy=joint: 79.90 and 80.00")


def test_of_many_choices_the_best_of_each_dim_are_shown():
    many = [
        rows({8: 0.1 + shortlist / 1000, 16: 0.5}, "mAP@10", {"index": "flat", "shortlist": shortlist})
        for shortlist in range(40)
    ]
    assert lines(*many[:1])[-1].startswith("the cheapest within 1 % of the best: 16 dims: 50.00")
    assert lines(rows({8: 0.1}, "mAP@10", {"index": "flat"}))[-1].endswith("index=flat")  # none to compare
    table = lines(*many)
    assert len(table) == 2 + 2 + 2 and "shortlist=39" in table[2]
    assert table[-2] == "the best of each dim; all 80 choices are in the file"


def test_each_split_and_subnetwork_has_a_table_and_nothing_measured_has_none():
    both = rows({8: 0.5}) + rows({8: 0.5}, split="shift") + rows({8: 0.5}, label="native widths")
    assert len(list(tables(both))) == 3
    assert list(tables(rows({8: 360.0}, "samples"))) == []
