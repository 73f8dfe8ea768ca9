import csv
from importlib import resources

from mrl_experiments import cost

DATABASE = {"imagenet1k": 1_281_167, "imagenet4k": 4_202_000}


def printed():
    """Every MFLOPs value of Tables 8 to 14: (data set, size, setting, value)."""
    path = resources.files("mrl_experiments.paper") / "published.csv"
    with path.open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["metric"] == "MFLOPs"]
    return [row for row in rows if "table08" <= row["table"] <= "table14"]


def stages(row):
    options = dict(part.split("=", 1) for part in row["setting"].split())
    if "stages" in options:
        return [tuple(map(int, stage.split(":"))) for stage in options["stages"].split(">")]
    scan = (int(row["dim"]), int(options.get("shortlist", 100)))
    # Tables 11 and 12 print one value for each shortlist size: that of the smallest re-rank.
    return [scan, (2 * scan[0], 10)] if "rerank" in options else [scan]


def test_every_printed_cost_of_retrieval_is_reproduced():
    rows = printed()
    assert {row["table"] for row in rows} == {f"table{number:02}" for number in range(8, 15)}
    for row in rows:
        ours = cost.search_macs(DATABASE[row["dataset"]], stages(row)) / 1e6
        decimals = len(row["value"].partition(".")[2])
        assert abs(ours - float(row["value"])) <= 0.5000001 * 10**-decimals, row


def test_heads_and_indexes():
    assert cost.head_macs(2048, 1000) == 2_048_000
    assert cost.index_bytes(1_281_167, 16) == 1_281_167 * 64
