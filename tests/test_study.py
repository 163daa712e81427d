"""The serializer study: cells resume, what is registered takes part, the table is complete, bits are true."""

import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from ad_distill.data.dataset import Strided, TrajectoryDataset, Windows
from ad_distill.models.lm import LMModel, LMSettings, small_lm
from ad_distill.language.forms import Plain
from ad_distill.language.serializer import FIELDS, make_serializer, register_serializer
from ad_distill.registry import SERIALIZERS
from ad_distill.experiments.study import (
    POINTS,
    Cell,
    ablation_cells,
    cell_stores,
    field_bits,
    run_cell,
    run_cells,
    study_cells,
)
from ad_distill.experiments.study_table import VIEWS, load_cells, plot_study, ranking, save_cells, study_table
from ad_distill.data.tokens import sample
from ad_distill.language.tokenizers import build_tokenizer
from ad_distill.registry import UserError


TINY = Cell(
    "bandit",
    source="ucb",
    histories=16,
    held_back=4,
    episodes=12,
    windows={"episodes": 12, "stride": 1, "from_start": 1.0},
    model={"width": 16, "layers": 1, "heads": 2},
    training={"max_steps": 12, "per_device_train_batch_size": 2},
    play={"n_episodes": 12, "n_instances": 3, "streams": 2, "last": 6},
)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    folder = tmp_path_factory.mktemp("study")
    return folder, run_cells(study_cells(TINY, (0, 1), ("compact", "json")), folder, processes=1)


def without_clock(record):
    return {**record, "points": [{k: v for k, v in p.items() if k != "cpu_seconds"} for p in record["points"]]}


def with_clock(record):
    "As if every cell had taken the same time, `json` a tenth more: the machine's own clock depends on what else runs."
    whole = 1.1 if record["cell"]["serializer"].startswith("json") else 1.0
    points = [{**p, "cpu_seconds": share * whole} for share, p in zip(POINTS, record["points"], strict=True)]
    return {**record, "points": points}


def test_a_cell_is_its_settings():
    assert TINY.digest == Cell(**json.loads(json.dumps(asdict(TINY)))).digest
    others = [
        replace(TINY, seed=1),
        replace(TINY, serializer="plain"),
        replace(TINY, windows={**TINY.windows, "episodes": 11}),
        replace(TINY, params={"n_arms": 3}),
    ]
    assert len({c.digest for c in [TINY, *others]}) == 5


def test_killed_and_run_again(study, tmp_path):
    cells = study_cells(TINY, (0, 1), ("compact", "json"))
    same = f"study_cells(Cell(**{asdict(TINY)!r}), (0, 1), ('compact', 'json'))"
    code = "from ad_distill.experiments.study import *; "
    code += f"run_cells({same}, {str(tmp_path)!r}, processes=1)"
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True, stderr=subprocess.DEVNULL)
    while not list(tmp_path.glob("*.json")) and process.poll() is None:
        time.sleep(0.01)  # by progress, not by a clock
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    done = {p: p.read_bytes() for p in tmp_path.glob("*.json")}
    assert 1 <= len(done) < len(cells), "it was not killed in the middle"
    records = run_cells(cells, tmp_path, processes=2)
    assert all(p.read_bytes() == old for p, old in done.items()), "a finished cell was run again"
    assert [without_clock(r) for r in records] == [without_clock(r) for r in study[1]], "not what an unbroken run gives"
    assert len(load_cells(tmp_path)) == 4 and not list((tmp_path / "work").iterdir())


def test_histories_are_held_back(study):
    train, held_back = cell_stores(TINY, study[0])
    key = lambda h: (h.columns["action"].tobytes(), h.columns["reward"].tobytes(), h.task["instance"])
    assert (len(train), len(held_back)) == (TINY.histories, TINY.held_back)
    assert not {key(h) for h in train} & {key(h) for h in held_back}


def test_a_new_serializer_takes_part(study, tmp_path):
    before = dict(SERIALIZERS)
    try:

        @register_serializer("arrow")
        @dataclass(frozen=True)
        class Arrow(Plain):
            "Like `plain`, with arrows."

            delimiter: str = "->"

        assert "arrow" in {c.serializer for c in study_cells(TINY)}
        assert {c.ablation for c in ablation_cells(TINY, ["arrow"], (0,))} >= {
            "rewards",
            "loss",
            "logprob",
            "order",
            "delimiter",
            "digits",
        }
        record = run_cell(replace(TINY, serializer="arrow"), study[0])
        rows = study_table([*study[1], record])
        assert (
            set(rows["serializer"]) == {"compact", "json", "arrow"}
            and rows[rows.serializer == "arrow"]["score"].notna().any()
        )
    finally:
        SERIALIZERS.clear()
        SERIALIZERS.update(before)


def test_a_form_that_is_impossible_is_a_row(study, tmp_path):
    record = run_cell(replace(TINY, serializer="json skip_zero=true", seed=7), study[0])
    assert "late_reward" in record["error"]
    rows = study_table([replace_form(record), *study[1][:1]])
    assert rows[rows["serializer"] == "json"]["seeds"].eq(0).all() and len(rows) == 4
    (study[0] / f"{replace(TINY, serializer='json skip_zero=true', seed=7).digest}.json").unlink()


def replace_form(record):
    return {**record, "cell": {**record["cell"], "serializer": "json"}}


def test_bits_by_hand():
    """A model that says the same wherever it stands: the bits are those of its one distribution, summed over tokens."""
    import tempfile

    with tempfile.TemporaryDirectory() as d:
        _, store = cell_stores(TINY, d)
        writer = make_serializer("plain", store.spaces)
        tokenizer = build_tokenizer(writer, sample(store))
        model = LMModel(small_lm(tokenizer, width=16, layers=1), writer, tokenizer)
        with torch.no_grad():
            rows = torch.randn(len(tokenizer), 16, generator=torch.Generator().manual_seed(0))
            for p in model.parameters():
                p.zero_()
            embedding = model.lm.get_input_embeddings().weight
            embedding.copy_(rows)
            embedding[:, 0] = 1  # alike in all tokens, so that ...
            model.lm.model.norm.weight[0] = 1  # ... the last layer's first coordinate alone, normalized, decides
        windows = Windows(6, Strided(1, from_start=0.0))
        data = TrajectoryDataset(store, "language", windows, 10, 3, serializer=writer, tokenizer=tokenizer)
        found = field_bits(model, data, batch=3)
        spent, tokens, transitions = np.zeros(len(FIELDS)), 0, 0
        for i in range(len(data)):
            item = data[i]
            with torch.no_grad():
                logits = model.lm(input_ids=item["input_ids"][None]).logits[0].double()
            p = torch.softmax(logits, -1)
            for at in range(1, len(item["input_ids"])):
                spent[int(item["field"][at])] -= math.log2(float(p[at - 1, item["input_ids"][at]]))
            tokens += len(item["input_ids"])
            transitions += sum(len(e) for e in writer.parse(data.text(i)))
    assert transitions == 60 and found["tokens"] == pytest.approx(tokens / 60)
    assert found["bits"] == pytest.approx(spent.sum() / 60, rel=1e-4)
    for f, bits in zip(FIELDS, spent):
        if f == "echo":  # no form of the study has one
            assert bits == 0
            continue
        assert found[f"bits_{f}"] == pytest.approx(bits / 60, rel=1e-4, abs=1e-9)


def test_a_field_without_weight_does_not_count(tmp_path):
    train, _ = cell_stores(TINY, tmp_path)
    writer = make_serializer("plain", train.spaces)
    tokenizer = build_tokenizer(writer, sample(train))
    torch.manual_seed(0)
    lm = small_lm(tokenizer, width=16, layers=1)
    data = TrajectoryDataset(train, "language", Windows(6, Strided(1)), 4, serializer=writer, tokenizer=tokenizer)
    whole = field_bits(LMModel(lm, writer, tokenizer), data)
    actions = field_bits(
        LMModel(lm, writer, tokenizer, LMSettings(field_weights={f: float(f == "action") for f in FIELDS})), data
    )
    assert actions["bits"] == actions["bits_action"] == whole["bits_action"] < whole["bits"] and math.isnan(
        actions["bits_state"]
    )


def test_what_a_cell_holds(study):
    for r in study[1]:
        assert [p["transitions"] for p in r["points"]] == [round(12 * 2 * 12 * share) for share in POINTS]
        cpu = [p["cpu_seconds"] for p in r["points"]]
        assert all(0 < a < b for a, b in zip(cpu, cpu[1:]))
        assert (
            all(len(p["scores"]) == 3 for p in r["points"])
            and 0 <= r["parse_failure"] <= 1
            and 0 <= r["reward_accuracy"] <= 1
        )
        json.dumps(r, allow_nan=False)


def test_table_and_figure(study, tmp_path):
    ablated = run_cells(ablation_cells(TINY, ranking(study[1], "bandit"), (0, 1), ["rewards"]), study[0], processes=1)
    measured = [with_clock(r) for r in (*study[1], *ablated)]
    records = load_cells(save_cells(measured, tmp_path / "cells.parquet"))
    table = study_table(records)
    assert {
        "task",
        "view",
        "serializer",
        "ablation",
        "value",
        "seeds",
        "transitions",
        "cpu_seconds",
        "tokens",
        "bits",
        *(f"bits_{f}" for f in FIELDS if f != "echo"),
        "reward_accuracy",
        "reward_accuracy_guess",
        "parse_failure",
        "score",
        "score_low",
        "score_high",
        "reference",
        "difference",
        "difference_low",
        "difference_high",
    } <= set(table)
    assert len(table) == 3 * len(VIEWS) and set(table["view"]) == set(VIEWS)
    for view, rows in table.groupby("view"):
        forms = rows[rows["ablation"] == ""]
        assert forms["difference"].isna().sum() == 1, "the best one is compared with itself"
        assert (forms[forms["seeds"] == forms["seeds"].max()]["difference"].dropna() <= 0).all(), (
            "the best one is not the best of those that have as many seeds"
        )
        assert (rows["score_low"] <= rows["score"]).all() and (rows["score"] <= rows["score_high"]).all()
    last = table[table["view"] == VIEWS[0]].set_index(["serializer", "ablation"])["score"]
    mine = [np.mean(r["points"][-1]["scores"]) for r in records if r["cell"]["serializer"] == "json"]
    assert last["json", ""] == pytest.approx(np.mean(mine))
    same_time = table[(table["view"] == VIEWS[1]) & (table["ablation"] == "")]
    assert same_time["cpu_seconds"].tolist() == pytest.approx([1.0] * 2)
    figure = plot_study(table)
    assert [ax.get_xlabel() for ax in figure.axes][0].startswith("score")


def test_a_task_with_fields_that_do_not_count(study):
    """As of the story task, whose prompts have no weight: None in the file, NaN in the table, and still a figure."""
    known = map(with_clock, study[1])
    records = [{**r, "points": [{**p, "bits_state": None} for p in r["points"]]} for r in known]
    table = study_table(records)
    assert table["bits_state"].isna().all() and table["bits_action"].notna().all()
    plot_study(table)


def test_mistakes_are_told(tmp_path):
    with pytest.raises(UserError, match="no such file"):
        load_cells(tmp_path / "nothing.parquet")
    with pytest.raises(UserError, match="multiple of 12"):
        run_cell(replace(TINY, training={**TINY.training, "max_steps": 10}), tmp_path)
    with pytest.raises(UserError, match="asked for"):
        run_cell(replace(TINY, play={**TINY.play, "n_instances": 10**6}), tmp_path)
    assert not list(Path(tmp_path).glob("*.json"))
