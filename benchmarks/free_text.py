"""Acting in free text on a language model with a real vocabulary, over a context that grows, against `generate`."""
import resource
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch
from harness import compare
from real import big_tokenizer, cut_model

STREAMS, TOKENS = 4, 24
WORDS = "abcdefghijklmnopqrstuvwxyz"


def writing_model(layers):
    "A model that writes letters with a blank before each, so that its text is cut into the tokens it has written."
    from ad_distill.language.serializer import make_serializer
    from ad_distill.models.lm import LMModel, LMSettings
    from ad_distill.rlhf.rollouts import text_spaces
    tokenizer, lm = big_tokenizer(), cut_model(layers)
    said = [tokenizer.convert_tokens_to_ids("Ġ" + w) for w in WORDS]
    head = torch.zeros_like(lm.lm_head.weight)
    head[said] = torch.randn(len(said), head.shape[1])
    lm.lm_head.weight = torch.nn.Parameter(head)
    settings = LMSettings(episodes=1000, max_tokens=8192, max_action_tokens=TOKENS, cut="lines")
    return LMModel(lm, make_serializer("plain", text_spaces()), tokenizer, settings).eval()


def acting(model, episodes):
    "Play episodes of one completion each, which ends with its last token; how many tokens were written."
    from ad_distill.models.lm_agent import LMAgent

    class Writer(LMAgent):
        n = 0

        def _draw_tokens(self, active, logits):
            self.n += 1
            tokens, logprobs = super()._draw_tokens(active, logits)
            return (tokens if self.n % TOKENS else [end] * len(active)), logprobs

    end = model.tokenizer.convert_tokens_to_ids("Ċ")
    agent = Writer(model, range(STREAMS))
    state, done = np.array(["The film number 7 was one of"] * STREAMS, object), np.ones(STREAMS, bool)
    for _ in range(episodes):
        action, _ = agent.act(state)
        agent.observe(state, action, np.full(STREAMS, .5), done, ~done, state)
    if agent.n != TOKENS * episodes or agent.failed.any(): raise AssertionError("completions have another length")
    return STREAMS * TOKENS * episodes


def generating(model, episodes):
    "The same by `generate`: as many tokens are read and written, keys and values are kept from one call to the next."
    from transformers import DynamicCache

    from ad_distill.models.lm_context import cache_argument
    state = np.array(["The film number 7 was one of"], object)
    stream = model.stream
    read = stream.before_action(state)[0] + stream.after_action(np.full(1, .5), terminated=np.ones(1, bool))[0]
    chunk = torch.tensor([read] * STREAMS)
    ids, cache = chunk[:, :0], {cache_argument(model.lm): DynamicCache()}
    for _ in range(episodes):
        ids = torch.cat([ids, chunk], 1)
        with torch.inference_mode():
            ids = model.lm.generate(input_ids=ids, attention_mask=torch.ones_like(ids), do_sample=True, top_k=0,
                                    max_new_tokens=TOKENS, pad_token_id=0, **cache)
    return STREAMS * TOKENS * episodes


def act_free_text_vs_generate(quick: bool) -> dict:
    layers, episodes, pairs = (1, 1, 1) if quick else (4, 12, 3)
    model = writing_model(layers)
    result = compare(lambda: acting(model, episodes), lambda: generating(model, episodes), pairs)
    what = (f"{layers} layers of width 576 with 49,152 tokens, {STREAMS} streams, {episodes} completions of {TOKENS} "
            "tokens, each behind all that came before; theirs: transformers' generate, with a cache")
    return {**result, "unit": "tokens per CPU-second", "target": {"ratio": .8}, "what": what}


def peak(way, layers, episodes):
    "Bytes that a process of its own took at most."
    code = f"import free_text as f; f.{way}(f.writing_model({layers}), {episodes}); print(f.used())"
    out = subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=Path(__file__).parent, check=True,
                         stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True).stdout
    return int(out.split()[-1])


def used():
    "Most memory that this process had, in bytes."
    status = Path("/proc/self/status")  # on Linux rusage remembers the parent's, from before this program was begun
    if not status.exists(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def act_memory_vs_generate(quick: bool) -> dict:
    layers, episodes = (1, 1) if quick else (4, 12)
    ours, theirs = (peak(way, layers, episodes) for way in ("acting", "generating"))
    what = (f"peak memory of a process that acts in free text, {layers} layers of width 576 with 49,152 tokens, "
            f"{STREAMS} streams, {episodes} completions of {TOKENS} tokens; theirs: transformers' generate")
    return {"ratio": ours / theirs, "ours": ours, "theirs": theirs, "unit": "bytes", "target": {"ratio": 1.2},
            "lower_is_better": True, "what": what}
