"Training by `accelerate launch` with two CPU processes, through the installed command line."

import json
import subprocess
import sys


def run(*command, cwd):
    done = subprocess.run([sys.executable, "-m", *command], cwd=cwd, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def test_two_processes(tmp_path):
    run(
        "ad_distill",
        "generate",
        "dark_room",
        "-p",
        "size",
        "5",
        "--source",
        "q_learning",
        "--histories",
        "20",
        "--episodes",
        "60",
        "--out",
        "histories",
        cwd=tmp_path,
    )
    settings = [
        "train",
        "histories",
        "--stride",
        "10",
        "--episodes",
        "4",
        "--steps",
        "6",
        "--batch",
        "2",
        "-s",
        "logging_steps",
        "1",
    ]
    # accelerate starts several processes by --multi_gpu (torchrun); without a GPU they are CPU processes
    launch = [
        "accelerate.commands.launch",
        "--multi_gpu",
        "--num_processes",
        "2",
        "--num_machines",
        "1",
        "--mixed_precision",
        "no",
        "--dynamo_backend",
        "no",
        "--main_process_port",
        "0",
    ]
    run(*launch, "-m", "ad_distill", *settings, "--out", "two", cwd=tmp_path)
    two = json.loads((tmp_path / "two" / "training.json").read_text())
    assert (two["processes"], two["steps"]) == (2, 6)
    # two processes with batches of two see what one with batches of four sees, in the same order: they learn the same
    run(
        "ad_distill",
        *[{"2": "4"}.get(w, w) if settings[i - 1] == "--batch" else w for i, w in enumerate(settings)],
        "--out",
        "one",
        cwd=tmp_path,
    )
    one = json.loads((tmp_path / "one" / "training.json").read_text())
    losses = [[e["loss_action"] for e in s["log"] if "loss_action" in e] for s in (one, two)]
    assert len(losses[0]) == len(losses[1]) == 6
    run(
        "ad_distill",
        "evaluate",
        "two",
        "--task",
        "dark_room",
        "-p",
        "size",
        "5",
        "--episodes",
        "3",
        "--instances",
        "2",
        "--out",
        "table.csv",
        cwd=tmp_path,
    )
    weights = []
    from safetensors.numpy import load_file

    for name in ("one", "two"):
        weights.append(load_file(tmp_path / name / "model.safetensors"))
    assert weights[0].keys() == weights[1].keys()
    assert max(abs(weights[0][k] - weights[1][k]).max() for k in weights[0]) < 1e-3
