"""Random conversations: through a log, a store, windows of both formats and all serializers, and back as they were.

By hand: `python tests/campaigns/conversations.py --seed 0 --count 2000`. Of every variant a store holds a few rollouts:
as text, a step a turn, or tokens. What no store can hold (half characters, nobody who learns) is refused."""

import json, math, random, shutil, traceback, warnings
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from harness import main

from ad_distill.data.dataset import Strided, TrajectoryDataset, Windows
from ad_distill.data.tokens import sample
from ad_distill.language.serializer import make_serializer
from ad_distill.language.tokenizers import build_tokenizer
from ad_distill.logs.core import Reader, Run
from ad_distill.logs.importing import import_log
from ad_distill.logs.jsonl import JsonLines
from ad_distill.registry import SERIALIZERS, UserError
from ad_distill.rlhf.conversations import stored_rollouts, turn_rewards, turn_texts
from ad_distill.rlhf.rollouts import Message, Rollout, conversation_text

ROLES = ("system", "user", "assistant", "tool", "développeur", "", "user: x")
SAID = [
    *(
        "",
        " ",
        "\n",
        "é",
        "🙂",
        "\u2028",
        "\x00",
        "\r\n",
        "user: hi",
        "\nassistant: no",
        "<|im_end|>",
        '"}',
        "\\n",
        "###",
    ),
    *("\n###\n", "reward: 1\n", "</think>", "<tool_call>", "ﷺ", "e\u0301", "\u202e", "It rains. " * 9, "0", "NaN"),
]
NAMES = ("", "", "", "Ada", "sky", "a:b", "é\n")
LETTERS = "ab \n\t\"'\\{}[]:,.#<>|é🙂\u2028\x00\x1f\x7f\u0301"
FORMS = "text", "turns", "turns", "tokens"


@dataclass(frozen=True)
class Held(Reader):
    "Rollouts in memory."

    held: tuple = ()
    name = "held"

    def runs(self, path, tokenizer=None, problems=None):
        yield Run("a", {}, [Path(path)], lambda file: iter(self.held))


def text(rng):
    if rng.random() < 0.002:
        return "half \ud800"
    if rng.random() < 0.5:
        return rng.choice(SAID)
    return "".join(rng.choice(LETTERS) for _ in range(rng.randrange(30)))


def anything(rng, depth=2):
    "A value of an extra field."
    kind = rng.randrange(7 if depth else 5)
    if kind == 5:
        return [anything(rng, depth - 1) for _ in range(rng.randrange(3))]
    if kind == 6:
        return {text(rng): anything(rng, depth - 1) for _ in range(rng.randrange(3))}
    return (None, rng.random() < 0.5, rng.randrange(-(2**40), 2**40), rng.randrange(99) / 8, text(rng))[kind]


def half(rng):
    "A number whose sums are exact, or one that is not known."
    return math.nan if rng.random() < 0.2 else rng.randrange(-16, 17) / 2


def call(rng):
    return {
        "name": rng.choice(("add", "", "é")),
        "arguments": {text(rng): anything(rng, 1) for _ in range(rng.randrange(3))},
    }


def message(rng):
    return Message(
        rng.choice(ROLES),
        text(rng),
        rng.choice(NAMES),
        rng.choice(("", "", "Hm.\n", "</think>")),
        [call(rng) for _ in range(rng.choice((0, 0, 0, 1, 2)))],
        rng.random() < 0.6,
        half(rng) if rng.random() < 0.5 else math.nan,
        {f"own {i}": anything(rng) for i in range(rng.choice((0, 0, 1, 3)))},
    )


def with_tokens(rng, r):
    n = rng.randrange(1, 6)
    r.prompt_ids = [rng.randrange(9) for _ in range(rng.randrange(1, 4))]
    r.completion_ids = [rng.randrange(9) for _ in range(n)]
    r.mask = rng.choice((None, [rng.random() < 0.7 for _ in range(n)]))
    if rng.random() < 0.5 and any(r.mask or [True]):
        r.logprobs = [-rng.randrange(32) / 4 if wrote else math.nan for wrote in r.mask or [True] * n]
    if rng.random() < 0.5:
        r.prompt = r.completion = None
    return r


def made(rng, form):
    "A rollout as a reader may give it."
    said = [message(rng) for _ in range(rng.randrange(1, 7))] if rng.random() < 0.8 else None
    n = next((i for i, m in enumerate(said or ()) if m.by_model), None)
    told = n is not None and rng.random() < 0.5
    r = Rollout(conversation_text(said[:n]), conversation_text(said[n:])) if told else Rollout(text(rng), text(rng))
    r.messages, r.more = said, rng.choice((None, {text(rng): anything(rng)}))
    r.score, r.ended = half(rng), rng.choice((True, False, None))
    r.iteration, r.optimizer_step = rng.randrange(-1, 4), rng.randrange(-1, 4)
    if n is not None and rng.random() < 0.5:  # each turn is paid
        for m in said:
            m.reward = rng.randrange(-16, 17) / 2
        r.score = sum(m.reward for m in said if m.by_model)
    return with_tokens(rng, r) if form == "tokens" else r


def logged(rng, m):
    "A message as chat templates take it, in one of the forms that mean the same."
    parts = [{"type": "text", "text": m.content}]
    row = {"role": m.role, "content": rng.choice((m.content, parts)), **m.more}
    if not m.content and rng.random() < 0.3:
        row["content"] = None
    if m.name:
        row["name"] = m.name
    if m.reasoning:
        row[rng.choice(("reasoning", "reasoning_content", "thinking"))] = m.reasoning
    for c in m.tool_calls:
        function = rng.choice((c, {**c, "arguments": json.dumps(c["arguments"])}))
        row.setdefault("tool_calls", []).append(rng.choice((function, {"type": "function", "function": function})))
    return row


def known(x):
    "Without what is null: a reader of tables cannot tell it from what is not there."
    if isinstance(x, dict):
        return {k: known(v) for k, v in x.items() if v is not None}
    return [known(v) for v in x] if isinstance(x, list) else x


def as_log(rng, file, n):
    "A log of lines of JSON; the rollouts that it means."
    held, lines = [], []
    for i in range(n):
        said = [message(rng) for _ in range(rng.randrange(1, 6))]
        if rng.random() < 0.98:
            said.append(Message("assistant", text(rng)))
        for m in said:
            m.by_model, m.reward, m.more = m.role == "assistant", math.nan, known(m.more)
            m.tool_calls = known(m.tool_calls)
        lines.append({"said": [logged(rng, m) for m in said], "mark": half(rng), "step": i})
        n = next((k for k, m in enumerate(said) if m.by_model), len(said))
        r = Rollout(conversation_text(said[:n]), conversation_text(said[n:]), score=lines[-1]["mark"], ended=None)
        r.messages, r.iteration, r.optimizer_step = said, i, max(i - 1, -1)
        held.append(r)
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return held


def same(a, b):
    "NaN equals NaN, in lists and messages too; what is JSON once was JSON before."
    return all(repr(getattr(a, f.name)) == repr(getattr(b, f.name)) for f in fields(a))


def columns(e):
    return [*e.state], [*e.action], e.reward


def alike(a, b):
    "Whether two episodes hold the same transitions."
    return (
        len(a) == len(b)
        and all(np.array_equal(x, y) for x, y in zip(columns(a)[:2], columns(b)[:2]))
        and bool(np.array_equal(a.reward, b.reward, equal_nan=True))
    )


def writer(name, spaces):
    order = "state action reward"
    try:
        return make_serializer(name, spaces, order=order, digits=None)
    except UserError:
        return make_serializer(name, spaces, order=order, rewards=(-64, 64), bins=257)  # halves are bins


def wrong_transitions(form, held, history):
    for r, e in zip(held, history, strict=True):
        turns = turn_texts(r) if form == "turns" else None
        if form == "tokens":
            right = e.action.tolist() == r.completion_ids and e.state[-1, : len(r.prompt_ids)].tolist() == r.prompt_ids
        else:
            right = [*zip(e.state, e.action)] == (turns or [(r.prompt, r.completion)])
        paid = turn_rewards(r) if turns else [0.0] * (len(e) - 1) + [r.score]
        if not right or not np.array_equal(e.reward, np.array(paid, np.float32), equal_nan=True):
            return "transitions"
    return ""


def wrong_text(history):
    for name in SERIALIZERS:
        s = writer(name, history.spaces)
        for window in (history[:], history[1:]):
            back = s.parse(s.serialize(window))
            if len(back) != len(window) or not all(map(alike, window, back)):
                return f"serializer {name}"
    return ""


def wrong_windows(rng, store):
    "Windows of numbers hold the transitions, windows of text decode to what the serializer writes."
    cut = dict(windows=Windows(2, Strided(1)), n=3, seed=rng.randrange(99))
    serializer = writer(rng.choice([*SERIALIZERS]), store.spaces)
    tokenizer = build_tokenizer(serializer, sample(store))
    data = TrajectoryDataset(store, "language", serializer=serializer, tokenizer=tokenizer, **cut)
    for i in range(len(data)):
        ids = data[i]["input_ids"][data[i]["attention_mask"].bool()]
        if tokenizer.decode(ids, clean_up_tokenization_spaces=False) != data.text(i):
            return f"window as text ({serializer.name})"
    if store.spaces.action.__class__.__name__ == "Text":
        return ""
    data = TrajectoryDataset(store, **cut)
    for i in range(len(data)):
        item, episodes = data[i], data.trajectories(i)
        for k in ("state", "action", "reward", "logprob"):
            meant = np.concatenate([e.columns[k] for e in episodes])
            if not np.array_equal(
                np.asarray(item[k])[np.asarray(item["mask"])], meant, equal_nan=k in ("reward", "logprob")
            ):
                return f"window of numbers ({k})"
    return ""


def passed(rng, work):
    "What of a variant was wrong, if anything, and a word for it."
    form, n = rng.choice(FORMS), rng.randrange(2, 6)
    from_log = form != "tokens" and rng.random() < 0.4
    what = f"{form} of a log" if from_log else form
    file = work / "log.jsonl"
    if from_log:
        held, reader = as_log(rng, file, n), JsonLines(messages="said", score="mark")
    else:
        held = [made(rng, form) for _ in range(n)]
        file.write_text("")
        reader = Held(tuple(held))
    try:
        store, _ = import_log(reader, file, work / "store", turns=form == "turns")
    except UserError as e:
        mine = any("\ud800" in repr(r) or "\\ud800" in repr(r) for r in held)
        nobody = from_log and any(not any(m.by_model for m in r.messages) for r in held)
        return ("" if mine or nobody else "refused what is none of ours"), f"{what}: {e}", True
    store.verify()
    back = [*stored_rollouts(store, 0)]
    wrong = "" if len(back) == n and all(map(same, held, back)) else "rollouts"
    wrong = wrong or wrong_transitions(form, held, store[0]) or wrong_text(store[0]) or wrong_windows(rng, store)
    return wrong, what, False


def one(seed, work):
    "Outcome of one variant, and what it was."
    rng = random.Random(seed)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            wrong, what, refused = passed(rng, work)
    except Exception as e:
        traceback.print_exc(limit=-4)
        return "traceback", f"{e!r}"[:200]
    if wrong:
        return "silent", f"{what}: {wrong}"[:300]
    one_line = len(what.splitlines()) == 1
    return ("traceback" if not one_line else "refused" if refused else "right"), what[:200]


if __name__ == "__main__":
    main(one, __doc__)
