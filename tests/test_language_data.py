"""Laws of Language Format data: tokens say what the text says, whole or bit by bit; the cache is never stale; both
formats give the same windows, and a seed always the same."""

import json
import os
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text
from test_serialize_laws import draw, draw_episode
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch.utils.data import DataLoader
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from ad_distill.language import tokens as tokens_module
from ad_distill.data.dataset import (
    InvertedRewards,
    Leap,
    ShuffledEpisodes,
    ShuffledRewards,
    Strided,
    TrajectoryDataset,
    Windows,
    ZeroedRewards,
    collate,
    windows_of,
)
from ad_distill.language.serializer import FIELDS, make_serializer
from ad_distill.registry import SERIALIZERS
from ad_distill.data.store import Store, StoreWriter
from ad_distill.data.tokens import sample
from ad_distill.language.tokenizers import build_tokenizer, check_tokenizer, load_tokenizer
from ad_distill.data.tokens import Tokens, tokenize
from ad_distill.language.serializer import MARKUP
from ad_distill.language.tokens import CUTS, TokenStream
from ad_distill.registry import UserError
from ad_distill.trajectory import History, Spaces, Trajectory

EXAMPLES = int(os.environ.get("AD_DISTILL_EXAMPLES", "2000")) // 20
SPACES = {
    "grid": Spaces(MultiDiscrete([9, 9]), Discrete(5)),
    "box": Spaces(Box(-8, 8, (3,), np.float32), Box(-2, 2, (1,), np.float32)),
    "text": Spaces(Text(200), Text(200)),
    "mixed": Spaces(Box(-1, 1, (2,), np.float32), Text(50)),
}
each_serializer = pytest.mark.parametrize("name", SERIALIZERS)
each_space = pytest.mark.parametrize("kind", SPACES)


@pytest.fixture(scope="module")
def pretrained():
    "A tokenizer in the manner of GPT-2 that has seen other text, and joins much of ours."
    t = Tokenizer(models.BPE())
    t.pre_tokenizer, t.decoder = pre_tokenizers.ByteLevel(add_prefix_space=True), decoders.ByteLevel()
    text = [
        'The agent said: "no way"...\n\n',
        "state: 4\naction: 2\nreward: 1\n",
        "x0=4 x1=3 a=2 r=0\n",
        '{"state": [4, 3], "action": 21, "reward": 0.25}\n',
        "x1 y22 a3 $1 .\n",
    ] * 20
    t.train_from_iterator(
        text,
        trainers.BpeTrainer(
            vocab_size=600,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
            special_tokens=["</s>"],
        ),
    )
    return PreTrainedTokenizerFast(tokenizer_object=t, eos_token="</s>")


def history(spaces, lengths, i=0, seed=0):
    rng, episodes = np.random.default_rng([seed, i]), []
    for n in lengths:
        while len(e := draw_episode(rng, spaces, n)) < n:
            pass
        episodes.append(e)
    return History.from_episodes(
        episodes, task={"name": "toy", "params": {}, "instance": i}, source={"name": "toy", "params": {}}, seed=i
    )


def make_store(path, spaces, lengths=((4, 2, 3, 5, 1, 6), (2,) * 9, (3, 1) * 5)):
    with StoreWriter(path, spaces, {"toy": True}) as w:
        for i, n in enumerate(lengths):
            if not w.has(i):
                w.put(i, history(spaces, n, i))
    return Store.open(path)


def parts(store, name="compact", **settings):
    serializer = make_serializer(name, store.spaces, **settings)
    return dict(serializer=serializer, tokenizer=build_tokenizer(serializer, sample(store)))


def bytes_of(stream, ids):
    "Of each token, how many bytes it stands for; only for byte-level tokenizers."
    return np.array([len(t) for t in stream.tokenizer.convert_ids_to_tokens(ids.tolist())], int)


def streamed(stream, e):
    "The tokens of an episode that happens bit by bit."
    s, ids = stream.serializer, []
    early = [k for k in ("reward", "logprob") if k in s.order and s.order.index(k) < s.order.index("action")]
    for t in range(len(e)):
        now, past = slice(t, t + 1), slice(t - 1, t)
        before = {k: e.columns[k][now] for k in early}
        if s.late_reward and t:
            before = dict(reward=e.reward[past], logprob=e.logprob[past], action=e.action[past])
        ids += stream.before_action(e.state[now], **before, first=[t == 0])[0]
        ids += stream.actions(e.action[now])[0]
        ends = e.terminated[now], e.truncated[now]
        ids += stream.after_action(e.reward[now], e.logprob[now], *ends, action=e.action[now])[0]
    return ids


def first_of(found, wanted, size):
    "Whether the field of each token is that of its first byte that is no markup; `wanted` (bytes,), `size` (tokens,)."
    of_tokens = np.split(wanted, np.cumsum(size)[:-1])
    return all(f == next((k for k in w if k != MARKUP), MARKUP) for f, w in zip(found.tolist(), of_tokens))


def check_stream(stream, episodes):
    s, text = stream.serializer, stream.serializer.serialize(episodes)
    ids, field, count = stream.encode(episodes)
    assert len(ids) == len(field) == count.sum() and len(count) == len(episodes) and stream.decode(ids) == text
    cuts = np.cumsum(count)
    for e, part in zip(episodes, np.split(ids, cuts[:-1]) if len(cuts) else ()):
        assert stream.decode(part) == s.serialize(e)
        if len(e) and e.done[-1]:
            assert streamed(stream, e) == part.tolist()
    _, label = s.labelled(episodes)
    wanted = np.repeat(label, [len(c.encode()) for c in text])  # of each byte
    if stream.cut == "lines":
        assert first_of(field, wanted, bytes_of(stream, ids))
        return
    found = np.repeat(field, bytes_of(stream, ids))
    blank = (
        np.isin(np.frombuffer(text.encode(), np.uint8), [32, 10]) if stream.words else np.zeros(len(wanted), bool)
    )  # words carry the one behind them
    assert (found == wanted)[~blank].all() and (found[blank] != MARKUP).sum() == ((found != wanted) & blank).sum() + (
        (wanted != MARKUP) & blank
    ).sum()


@each_serializer
def test_tokens_are_those_of_the_text_and_of_its_parts(name):
    for seed in range(EXAMPLES):
        rng, s, episodes = draw(seed, name)
        if not episodes:
            continue
        tokenizer = s.__dict__.get("tokenizer") or s.__dict__.setdefault(
            "tokenizer", build_tokenizer(s, [draw_episode(rng, s.spaces) for _ in range(5)])
        )
        stream = TokenStream(s, tokenizer)
        check_stream(stream, episodes)
        if s.bind != "grade":  # its words are cut where the stream knows that they are an echo's
            assert tokenizer(s.serialize(episodes))["input_ids"] == stream.encode(episodes)[0].tolist()


@each_serializer
@pytest.mark.parametrize("cut", CUTS)
def test_pretrained_tokenizers_write_the_same_bit_by_bit(name, cut, pretrained, tmp_path):
    pretrained.save_pretrained(tmp_path)
    tokenizer = load_tokenizer(tmp_path)  # takes the blank away that it puts before every text
    for seed in range(EXAMPLES // 2):
        _, s, episodes = draw(seed, name)
        if episodes:
            check_stream(TokenStream(s, tokenizer, cut), episodes)


def test_a_line_is_cut_as_its_tokenizer_cuts_it(pretrained, tmp_path):
    pretrained.save_pretrained(tmp_path)
    tokenizer, texts = load_tokenizer(tmp_path), Spaces(Text(200), Text(200))
    said = Trajectory(
        ["The agent said", "no way", "state: 4", ""],
        ["it said: no way.", "no", '"no"  way 12', ""],
        [0.25, 1, 0, -2],
        [np.nan] * 4,
        [False] * 3 + [True],
        [False] * 4,
        texts,
    )
    for name in ("plain", "prose"):
        s = make_serializer(name, texts)
        lines, values = (TokenStream(s, tokenizer, cut) for cut in CUTS[::-1])
        ids = lines.encode(said)[0].tolist()
        assert ids == tokenizer(s.serialize(said))["input_ids"] != values.encode(said)[0].tolist()
        assert lines.hash != values.hash
        assert [lines.action_text(a) for a in lines.actions(said.action)] == [a + "\n" for a in said.action]
    with pytest.raises(UserError, match="lines"):
        TokenStream(s, tokenizer, "line")


@each_serializer
@each_space
def test_tokenizers_know_everything_and_come_back_from_disk(name, kind, tmp_path):
    serializer = make_serializer(name, SPACES[kind])
    rng = np.random.default_rng(0)
    episodes = [draw_episode(rng, SPACES[kind]) for _ in range(20)]
    tokenizer = build_tokenizer(serializer, episodes)
    tokenizer.save_pretrained(tmp_path)
    again, plain = load_tokenizer(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    check_tokenizer(again, serializer, episodes)
    every = [chr(c) for c in [*range(0x300), 0x661, 0x2028, 0xFEFF, 0x1F642, 0x10FFFF]] + [
        "<pad>",
        "<eos>",
        "a  b \n\n c",
        serializer.serialize(episodes),
    ]
    for text in every:
        ids = tokenizer(text)["input_ids"]
        assert tokenizer.decode(ids) == text and not {tokenizer.pad_token_id, tokenizer.eos_token_id} & set(ids)
        assert again(text)["input_ids"] == plain(text)["input_ids"] == ids
    assert TokenStream(serializer, again).hash == TokenStream(serializer, tokenizer).hash
    assert build_tokenizer(serializer, episodes).get_vocab() == tokenizer.get_vocab()
    stream = TokenStream(serializer, tokenizer)
    if stream.words:
        return
    digits = [t for t in tokenizer.get_vocab() if sum(c.isdigit() for c in t) > 1]
    assert not digits, "digits are single"


def rewards_of(episodes):
    return sorted(map(str, np.concatenate([e.reward for e in episodes]).tolist()))


@each_serializer
@each_space
def test_both_formats_give_the_same_windows(name, kind, tmp_path):
    store = make_store(tmp_path / "store", SPACES[kind])
    given, kw = parts(store, name), dict(n=40, seed=3)
    serializer = given["serializer"]
    for ablations in (
        (),
        (ShuffledEpisodes(),),
        (ZeroedRewards(),),
        (ShuffledRewards(),),
        (InvertedRewards(),),
        (ShuffledEpisodes(), ShuffledRewards()),
    ):
        for choice in (Strided(2), Leap(0.7, jump_from=0.4, jump_to=0.4, rest=Strided(2))):
            windows = Windows(3, choice, ablations=ablations)
            data = TrajectoryDataset(store, "language", windows, **given, **kw)
            for i, item in enumerate(data.__getitems__(list(range(40)))):
                history = store[int(data.history[i])]
                kept = [history[k] for k in sorted(data.episode[i].tolist())]
                text = given["tokenizer"].decode(item["input_ids"])
                assert text == data.text(i)
                assert len(set(data.episode[i].tolist())) == 3
                if not {ZeroedRewards(), InvertedRewards()} & set(ablations):
                    assert rewards_of(serializer.quantize(kept)) == rewards_of(
                        serializer.quantize(data.trajectories(i))
                    )
                if not ablations:
                    assert text == serializer.serialize(kept)
                found = serializer.parse(text)
                assert sorted(map(len, found)) == sorted(map(len, kept))
                if ZeroedRewards() in ablations:
                    assert not any(e.reward.any() for e in found)
                assert (item["labels"] == item["input_ids"]).all()
                assert item["attention_mask"].all() and item["field"].max() < len(FIELDS)
            if kind not in ("grid", "box"):
                continue
            numbers = TrajectoryDataset(store, "rl", windows, **kw)
            assert (numbers.episode == data.episode).all()
            for i in range(40):
                episodes = data.trajectories(i)
                for k in ("state", "reward"):
                    column = np.concatenate([e.columns[k] for e in episodes])
                    assert np.array_equal(column, numbers[i][k].numpy(), equal_nan=k == "reward")


LEAPS = (
    Windows(6, Leap(0.5, jump_from=0.2, jump_to=0.3, rest=Strided(2))),
    Windows(6, Leap(1.0, jump_from=0.5, jump_to=0.15, rest=Strided(2, from_start=1.0)), part=(0.1, 0.9)),
    Windows(2, Leap(1.0, rest=Strided(1, from_start=0))),
)


@pytest.mark.parametrize("windows", LEAPS, ids=str)
def test_windows_that_jump(windows):
    n_episodes, n, leap = np.array([40, 90, 300]), 4000, windows.choice
    history, episode = windows.lay(n_episodes, n, seed=3)
    low, high = (np.floor(n_episodes * p).astype(int)[history, None] for p in windows.part)
    early = episode < low + np.ceil((high - low) * leap.jump_from)
    late = episode >= high - np.ceil((high - low) * leap.jump_to)
    jumped = (early | late).all(1) & (early.sum(1) < windows.episodes) & early[:, 0]
    assert abs(jumped.mean() - leap.jump) < 0.05 and (np.diff(episode, axis=1) > 0).all()
    assert (episode >= low).all() and (episode < high).all()
    straight = (np.diff(episode, axis=1) == leap.rest.stride).all(1)
    assert (jumped | straight).all()
    kinds = np.bincount(early[jumped & ~straight].sum(1), minlength=windows.episodes)[1:] / (jumped & ~straight).sum()
    assert abs(kinds - 1 / (windows.episodes - 1)).max() < 0.05, (
        "as many before the jump as after it, and all in between"
    )
    if leap.rest.from_start == 1:
        assert (episode[:, 0] == low[:, 0]).all()
    again = windows.lay(n_episodes, n, seed=3)
    assert (again[0] == history).all() and (again[1] == episode).all()


def test_windows_that_do_not_jump_are_as_they_were():
    n_episodes, n = np.array([40, 90, 300]), 4000
    plain, leaping = (
        windows_of(6, 2, jump=j, jump_from=0.2, jump_to=0.2).lay(n_episodes, n, seed=3) for j in (0.0, 0.5)
    )
    assert (plain[0] == leaping[0]).all()
    assert 0.4 < (plain[1] == leaping[1]).all(1).mean() < 0.6
    straight = (np.diff(leaping[1], axis=1) == 2).all(1)
    assert (plain[1] == leaping[1])[straight].mean() > 0.99  # a leap may by chance look straight
    for wrong in (
        dict(jump=2.0),
        dict(jump=0.5, episodes=1),
        dict(jump_to=-0.1),
        dict(zero_rewards=True, shuffle_rewards=True),
    ):
        with pytest.raises(UserError):
            windows_of(**wrong)
    with pytest.raises(UserError, match="jump_from"):
        Windows(6, Leap(1.0, rest=Strided(2))).lay(np.array([30]), 10, 0)


N_EPISODES = np.array([40, 90, 25, 60])

# flat settings -> checksum of 200 windows with seed 7, as they were when windows had thirteen flat fields
LAID = {
    '{"episodes": 5, "stride": 4}': 3665322883,
    '{"episodes": 5, "stride": 4, "from_start": 1.0, "part": [0.1, 0.9], "shuffle_episodes": true}': 899733608,
    '{"episodes": 4, "stride": 3, "jump": 0.5, "jump_from": 0.3, "jump_to": 0.2}': 1963499207,
    '{"episodes": 4, "stride": 3, "jump": 0.5, "jump_from": 0.3, "jump_to": 0.3, "shuffle_episodes": true}': 2613113094,
    '{"episodes": 6, "scatter": true}': 1351626025,
    '{"episodes": 6, "scatter": true, "part": [0.2, 1.0], "shuffle_episodes": true}': 3366219365,
    '{"episodes": 5, "stride": 4, "sort": true}': 2642307568,
    '{"episodes": 4, "stride": 3, "jump": 0.5, "jump_from": 0.3, "jump_to": 0.2, "sort": true}': 2454408728,
    '{"episodes": 6, "scatter": true, "sort": true, "skip": 0.4}': 1742900409,
}


@pytest.mark.parametrize("name", LAID)
def test_a_seed_gives_the_windows_that_it_always_gave(name):
    flat = json.loads(name)

    def returns(history):
        return np.sin(np.arange(N_EPISODES[history]) * (history + 1)).round(1)

    laid = windows_of(**flat).lay(N_EPISODES, 200, 7, returns)
    assert zlib.crc32(np.column_stack(laid).astype("<i8").tobytes()) == LAID[name]


def test_padding_and_batches(tmp_path):
    store = make_store(tmp_path / "store", SPACES["grid"])
    given = parts(store)
    data = TrajectoryDataset(store, "language", Windows(2, Strided(1)), n=50, **given)
    batch = data.__getitems__(list(range(50))).batch
    size = batch["attention_mask"].sum(1)
    assert size.min() < size.max() == batch["input_ids"].shape[1]
    for i in range(50):
        n = int(size[i])
        assert (batch["attention_mask"][i, :n] == 1).all() and not batch["attention_mask"][i, n:].any()
        assert (batch["labels"][i, n:] == -100).all() and (batch["labels"][i, :n] == batch["input_ids"][i, :n]).all()
        assert {k: v.tolist() for k, v in data[i].items()} == {k: v[i, :n].tolist() for k, v in batch.items()}
    alone = collate([data[i] for i in range(50)])
    assert all((alone[k] == v).all() and v.dtype == torch.int64 for k, v in batch.items())
    for workers in (0, 2):
        ids = torch.cat(
            [b["input_ids"].flatten() for b in DataLoader(data, 8, collate_fn=collate, num_workers=workers)]
        )
        assert (
            ids.tolist()
            == torch.cat([b["input_ids"].flatten() for b in DataLoader(data, 8, collate_fn=collate)]).tolist()
        )
    again = TrajectoryDataset(store, "language", Windows(2, Strided(1)), n=50, **given)
    assert (again.__getitems__(list(range(50))).batch["input_ids"] == batch["input_ids"]).all()


def test_empty_episodes_and_uneven_histories(tmp_path):
    store = make_store(tmp_path / "store", SPACES["grid"], [(0, 3, 0, 0, 2), (1,) * 5, (0, 0, 0, 0, 0)])
    given = parts(store)
    data = TrajectoryDataset(store, "language", Windows(3, Strided(1, from_start=0)), n=100, **given)
    for i in range(100):
        assert given["tokenizer"].decode(data[i]["input_ids"]) == data.text(i)


def content(tokens):
    return tuple(np.array(x).tolist() for x in (tokens.ids, tokens.field, tokens.offset))


def count_encoded(monkeypatch):
    "How many histories are tokenized from now on."
    seen, encode = [], TokenStream.encode
    monkeypatch.setattr(
        TokenStream, "encode", lambda self, x: (seen.append(1) if isinstance(x, History) else None, encode(self, x))[1]
    )
    return seen


def test_cache(tmp_path, monkeypatch):
    path, lengths = tmp_path / "store", [(4, 2, 3, 5, 1, 6), (2,) * 9, (3, 1) * 5]
    store = make_store(path, SPACES["grid"], lengths[:2])
    given = parts(store)
    stream, seen = TokenStream(**given), count_encoded(monkeypatch)
    first = tokenize(store, stream)
    assert len(seen) == 2 and first.ids.dtype == np.uint16 and first.field.dtype == np.uint8
    whole = stream.encode([e for h in store for e in h])
    assert content(first) == (whole[0].tolist(), whole[1].tolist(), [0, *np.cumsum(whole[2]).tolist()])
    assert tokenize(Store.open(path), TokenStream(**given)).path == first.path and len(seen) == 2, "hit"

    other = tokenize(store, TokenStream(**parts(store, "compact", late_reward=False)))
    zero = tokenize(store, stream, zero_rewards=True)
    assert len({first.path, other.path, zero.path}) == 3 and len(seen) == 6, "other settings are other tokens"
    assert content(first) == content(tokenize(store, stream)) and len(seen) == 6

    grown = make_store(path, SPACES["grid"], lengths)
    longer = tokenize(grown, stream)
    assert len(seen) == 7, "only the new history is tokenized"
    assert longer.path != first.path and not first.path.exists()
    fresh = make_store(tmp_path / "fresh", SPACES["grid"], lengths)
    assert content(longer) == content(tokenize(fresh, stream))


@pytest.mark.parametrize("harm", ["cut off", "not there", "foreign", "wrong length"])
def test_damaged_tokens_are_made_again(tmp_path, harm):
    store = make_store(tmp_path / "store", SPACES["grid"])
    stream = TokenStream(**parts(store))
    tokens = tokenize(store, stream)
    good, file = content(tokens), tokens.path / "ids.npy"
    (store.path / "tokens" / "0123456789abcdef.tmp").mkdir()  # of a process that was killed
    data = file.read_bytes()
    file.unlink()
    if harm == "cut off":
        file.write_bytes(data[:-10])
    if harm == "foreign":
        file.write_bytes(b"\x80\x04N.")
    if harm == "wrong length":
        np.save(file, np.zeros(5, np.uint16))
    assert Tokens.open(tokens.path) is None
    assert content(tokenize(store, stream)) == good
    assert not list((store.path / "tokens").glob("*.tmp"))


def test_tokens_of_other_histories_or_other_code_are_not_used(tmp_path, monkeypatch):
    store = make_store(tmp_path / "store", SPACES["grid"])
    stream = TokenStream(**parts(store))
    before = tokenize(store, stream)
    with StoreWriter(tmp_path / "other", SPACES["grid"], {"toy": True}) as w:
        for i in range(3):
            w.put(i, history(SPACES["grid"], (2,) * 9, i, seed=5))
    (store.path / "tokens").rename(tmp_path / "other" / "tokens")
    other = Store.open(tmp_path / "other")
    after = tokenize(other, stream)
    assert after.path != before.path and stream.decode(after.ids) == stream.serializer.serialize(
        [e for h in other for e in h]
    )
    pieces = tokens_module._pieces
    monkeypatch.setattr(tokens_module, "_pieces", lambda *a: pieces(*a)[:-1])
    assert tokenize(other, TokenStream(stream.serializer, stream.tokenizer)).path != after.path


TWO = """
import sys
from pathlib import Path
from ad_distill.language.tokens import CUTS, TokenStream
from ad_distill.data.tokens import tokenize
from ad_distill.language.serializer import make_serializer
from ad_distill.data.store import Store
from ad_distill.language.tokenizers import load_tokenizer
store = Store.open(sys.argv[1])
tokens = tokenize(store, TokenStream(make_serializer("compact", store.spaces), load_tokenizer(sys.argv[2])))
print(tokens.path.name, len(tokens.ids), int(tokens.ids.sum()))
"""


def test_two_processes_at_once(tmp_path):
    store = make_store(tmp_path / "store", SPACES["grid"], [(3,) * 40] * 20)
    given = parts(store)
    given["tokenizer"].save_pretrained(tmp_path / "tokenizer")
    args = [sys.executable, "-c", TWO, str(store.path), str(tmp_path / "tokenizer")]
    both = [subprocess.Popen(args, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    out = [p.communicate()[0] for p in both]
    assert [p.returncode for p in both] == [0, 0] and out[0] == out[1] != ""
    tokens = tokenize(store, TokenStream(**given))
    assert out[0].split() == [tokens.path.name, str(len(tokens.ids)), str(int(tokens.ids.sum()))]
    assert len(list((store.path / "tokens").iterdir())) == 2  # the tokens and the lock


def test_mistakes(tmp_path, pretrained):
    store = make_store(tmp_path / "store", SPACES["grid"])
    given = parts(store)
    make = lambda **kw: TrajectoryDataset(store, "language", Windows(2, Strided(1)), **{**given, **kw})
    longest = max(len(make()[i]["input_ids"]) for i in range(200))
    make(max_tokens=longest + 20)
    lower = Tokenizer(models.WordLevel({"<unk>": 0, "x4": 1}, unk_token="<unk>"))
    lower.pre_tokenizer = pre_tokenizers.Whitespace()
    before = sorted((store.path / "tokens").iterdir())
    for call, said in (
        (lambda: make(max_tokens=10), "10"),
        (lambda: make(serializer=None), "serializer"),
        (lambda: make(tokenizer=None), "tokenizer"),
        (
            lambda: make(tokenizer=PreTrainedTokenizerFast(tokenizer_object=lower, unk_token="<unk>")),
            "has no token for",
        ),
        (lambda: make(serializer="compcat"), "compact"),
        (lambda: make(serializer=make_serializer("compact", SPACES["box"])), "spaces"),
        (lambda: make(tokenizer="gpt2"), "load_tokenizer"),
        (lambda: TrajectoryDataset(store, windows=Windows(2, Strided(1)), tokenizer=given["tokenizer"]), "rl"),
        (lambda: TrajectoryDataset(store, windows=Windows(2, Strided(1))).text(0), "text"),
        (lambda: load_tokenizer(tmp_path), "no tokenizer"),
    ):
        with pytest.raises(UserError, match=said) as e:
            call()
        assert "\n" not in str(e.value)
    assert sorted((store.path / "tokens").iterdir()) == before, "nothing was tokenized"


def test_key_is_plain_json_and_nothing_is_pickled(tmp_path):
    store = make_store(tmp_path / "store", SPACES["text"])
    tokens = tokenize(store, TokenStream(**parts(store, "plain")))
    key = json.loads((tokens.path / "key.json").read_text())
    assert key["histories"] == len(store) and key["serializer"]["name"] == "plain"
    for f in tokens.path.glob("*.npy"):
        np.load(f, allow_pickle=False)
