"""Makes the stores, models and expectations in this folder with the commit that they stand for; README.md says how.

    cd <clone of d6ca0f0>; PYTHONPATH=$PWD OMP_NUM_THREADS=1 python <here>/make_compat.py [expect | NAME ...]
"""
import json
import shutil
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
LOGS = HERE.parent
TINY = ["-s", "width", 16, "-s", "layers", 1, "-s", "heads", 2, "--steps", 40, "--batch", 4, "-s", "warmup_steps", 5,
        "-s", "logging_steps", 20]

STORES = {  # name: command without --out; what comes from a log reads a shortened copy of it
    "room": "generate dark_room -p size 5 -p horizon 8 --source q_learning --histories 6 --episodes 30 --seed 3",
    "key": "generate dark_key_to_door -p size 3 -p horizon 12 --source noise --histories 4 --episodes 20 --seed 4",
    "bandit": "generate bandit -p n_arms 5 -p n_bandits 50 --source ucb --histories 6 --episodes 40 --seed 5",
    "gauss": "generate bandit_gaussian -p n_arms 4 -p n_bandits 50 --source thompson --histories 4 "
        "--episodes 30 --seed 6",
    "cartpole": "generate gym:CartPole-v1 -p variants 16 -p max_steps 20 --source random --histories 4 "
        "--episodes 14 --seed 7",
    "cartppo": "generate gym:CartPole-v1 -p variants 16 -p max_steps 20 -p random_steps 50 --source ppo -s "
        "n_envs 2 -s n_steps 16 "
               "-s batch_size 32 -s n_epochs 2 -s hidden 8 --histories 3 --episodes 14 --seed 8",
    "story": "generate story_rlhf --source rloo --histories 3 --episodes 48 --seed 9",
    "trlx": "import trlx logs/complete",
    "text": "import trlx logs/text_only",
    "vader": "import trlx logs/text_only --reward vader",
    "trl": "import trl log/dense",
}

MODELS = {  # name: store, settings of its own
    "rl_bandit": ("bandit", "--model rl --episodes 12 --stride 3"),
    "rl_bandit_shuffled": ("bandit", "--model rl --episodes 12 --stride 3 -s shuffle_rewards true -s from_start 0.5"),
    "rl_gauss": ("gauss", "--model rl --episodes 8 --stride 2 -s zero_rewards true -s inputs "
        "state,action,reward,logprob"),
    "rl_room": ("room", "--model rl --stride 3 --episodes 4"),
    "rl_room_jump": ("room", "--model rl --stride 3 --episodes 4 -s jump 0.5 -s jump_from 0.3 -s jump_to "
        "0.2 -s part 0.1,1.0"),
    "rl_key": ("key", "--model rl --stride 2 --episodes 4 -s shuffle_episodes true"),
    "rl_cartpole": ("cartpole", "--model rl --stride 2 --episodes 3 -s scatter true"),
    "rl_cartppo": ("cartppo", "--model rl --stride 2 --episodes 3 -s context 40"),
    "rl_story": ("story", "--model rl --stride 4 --episodes 5 -s width 4"),
    "lm_room_compact": ("room", "--model lm --serializer compact --stride 3 --episodes 4 -s jump 0.5 -s "
        "jump_from 0.3 -s jump_to 0.3"),
    "lm_room_coords": ("room", "--model lm --serializer coords -z skip_zero true --stride 3 --episodes 3 -s "
        "from_start 0.6"),
    "lm_key_json": ("key", "--model lm --serializer json -z order reward,state,action --stride 2 --episodes "
        "2 -s shuffle_rewards true"),
    "lm_bandit_prose": ("bandit", "--model lm --serializer prose --stride 3 --episodes 8 -s "
        "shuffle_episodes true -s part 0,0.8"),
    "lm_cartpole_bins": ("cartpole", "--model lm --serializer bins -z bins 15 -z limit 4 --stride 2 "
        "--episodes 2 -s zero_rewards true"),
    "lm_story_plain": ("story", "--model lm --serializer plain --episodes 6 -s scatter true -s sort true -s "
        "max_action_tokens 30 "
                                "-s skip 0.4"),
    "lm_story_coords": ("story", "--model lm --serializer coords --stride 5 --episodes 3 -s sort true -s "
        "max_action_tokens 40 "
                                 "-s slide 2"),
    "lm_text_plain": ("text", "--model lm --serializer plain --stride 2 --episodes 3 -s vocab_size 300 -s words false"),
    "lm_trl_plain": ("trl", "--model lm --serializer plain --stride 4 --episodes 3 -s scatter true -s vocab_size 300"),
    "lm_based": ("room", "--model lm --serializer compact --base models/lm_room_compact --stride 2 --episodes 3"),
}


def run(*args, cwd):
    print("ad_distill", *args, flush=True)
    subprocess.run([sys.executable, "-m", "ad_distill", *map(str, args)], cwd=cwd, check=True)


def shortened_logs(to):
    "The first files of each run in tests/data."
    for folder in (to, HERE / "log"): shutil.rmtree(folder, ignore_errors=True)
    for kind in ("complete", "text_only"):
        for path in sorted((LOGS / "trlx_logs" / kind).iterdir())[:2 if kind == "complete" else 1]:
            (to / kind / path.name).mkdir(parents=True)
            shutil.copy(path / "config.json", to / kind / path.name)
            first = min(f for f in path.iterdir() if f.name != "config.json")
            shutil.copy(first, to / kind / path.name)
    shutil.copytree(LOGS / "trlx_logs" / "tokenizer", to / "tokenizer")
    shutil.copytree(LOGS / "trl_logs" / "dense", HERE / "log" / "dense")  # no tokenizer near it: text


def set_aside():
    "A store whose generation was cut off: history 2 is missing, and 3, which was ready before it, waits in `parts`."
    from ad_distill.store import Store, StoreWriter
    whole = Store.open(HERE / "stores" / "bandit")
    with StoreWriter(HERE / "stores" / "bandit_parted", whole.spaces, whole.info) as writer:
        for i in (0, 1, 3): writer.put(i, whole[i])


def make(names):
    shortened_logs(HERE / "logs")
    for name, command in STORES.items():
        if name not in names: continue
        shutil.rmtree(HERE / "stores" / name, ignore_errors=True)
        run(*command.split(), "-q", "--out", f"stores/{name}", cwd=HERE)
    for folder in ("logs", "log"): shutil.rmtree(HERE / folder)
    if "bandit" in names:
        shutil.rmtree(HERE / "stores" / "bandit_parted", ignore_errors=True)
        set_aside()
    commands = {"stores": {k: c.split() for k, c in STORES.items()}, "models": {}}
    for name, (store, own) in MODELS.items():
        sizes = [*map(str, TINY)][3 * ("-s width" in own) or 9 * ("--base" in own):]  # a base has its own
        commands["models"][name] = ["train", f"stores/{store}", *own.split(), *sizes, "--seed", "1"]
        if name not in names: continue
        shutil.rmtree(HERE / "models" / name, ignore_errors=True)
        run(*commands["models"][name], "-q", "--out", f"models/{name}", cwd=HERE)
        shutil.rmtree(HERE / "models" / name / "checkpoints", ignore_errors=True)
    for path in (HERE / "stores").glob("**/tokens"):  # caches; one is kept
        if path.parent.name != "room": shutil.rmtree(path)
    for path in (HERE / "stores").glob("*/text"):  # a store of its own; one is kept
        if path.parent.name != "story": shutil.rmtree(path)
    (HERE / "commands.json").write_text(json.dumps(commands, indent=1) + "\n")


if __name__ == "__main__":
    import ad_distill
    print("made with", ad_distill.__file__)
    if sys.argv[1:] != ["expect"]: make(sys.argv[1:] or [*STORES, *MODELS])
    sys.path.insert(0, str(HERE.parent.parent))
    import test_compat
    (HERE / "expected.json").write_text(json.dumps(test_compat.facts(), indent=1) + "\n")
