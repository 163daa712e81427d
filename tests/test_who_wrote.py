"""What tools and users say in the middle of an action is read, and never learnt as the model's own."""

import re

import numpy as np
import pytest
from test_conversations import LOGS, MARKED, imported

from ad_distill import UserError
from ad_distill.data.dataset import TrajectoryDataset, collate, windows_of
from ad_distill.data.kept import keep_lines, kept_file, model_rows, others_wrote
from ad_distill.data.store import Store, StoreWriter
from ad_distill.data.tokens import sample
from ad_distill.language.serializer import FIELDS, make_serializer
from ad_distill.language.tokenizers import build_tokenizer
from ad_distill.registry import SERIALIZERS
from ad_distill.rlhf.conversations import others_in
from ad_distill.rlhf.rollouts import Message, Rollout, conversation_text, text_store, token_store

ACTION, STATE = FIELDS.index("action"), FIELDS.index("state")


def talk(i):
    "The model says letters, the tool digits: nobody can take one for the other."
    said = [
        Message("user", "WHAT NOW"),
        Message("assistant", f'i "look" {"abcdefgh"[i % 8]}', by_model=True),
        Message("tool", f"7{i}0\n9 \\ {i % 3}", name="42"),
        Message("assistant", f"so {'klmnopqr'[i * 3 % 8]}.", by_model=True),
    ]
    if i % 4 == 3:
        said = said[:2]
    return Rollout("WHAT NOW", conversation_text(said[1:]), score=float(i % 2), messages=said)


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    return imported([talk(i) for i in range(24)], tmp_path_factory.getbasetemp())


@pytest.fixture(scope="module")
def tokenizer():
    transformers = pytest.importorskip("transformers")
    return transformers.PreTrainedTokenizerFast.from_pretrained(LOGS / "tokenizer")


def split_by_field(data, i):
    "The text of what is chosen in a window, and of what is seen."
    item = data[i]
    ids, field = item["input_ids"].numpy(), item["field"].numpy()
    return [data.stream.decode(ids[field == f]) for f in (ACTION, STATE)]


@pytest.mark.parametrize("cut", ["values", "lines"])
@pytest.mark.parametrize("name", sorted(set(SERIALIZERS) - {"coords", "bins"}))
def test_words_of_others_are_seen_in_text(name, cut, store, tokenizer):
    serializer = make_serializer(name, store.spaces)
    data = TrajectoryDataset(store, "language", windows_of(4, 3), 20, 1, serializer, tokenizer, cut=cut)
    for i in range(20):
        chosen, seen = split_by_field(data, i)
        actions = [a for e in data.trajectories(i) for a in e.action]
        own = [re.sub(r"tool \(42\).*?\n.*?\n", "", a) for a in actions]
        assert not re.search(r"\d", chosen), chosen
        assert chosen.count("look") == len(own) and chosen.count("so") == sum("so" in a for a in own)
        assert seen.count("tool") == sum("tool" in a for a in actions)


@pytest.mark.parametrize("name", SERIALIZERS)
def test_tokens_do_not_change(name, store, tmp_path):
    "Only the field does, of a tokenizer that was made for the store as well."
    serializer = make_serializer(name, store.spaces)
    made = build_tokenizer(serializer, sample(store))
    data = TrajectoryDataset(store, "language", windows_of(4, 3), 20, 1, serializer, made)
    anew = TrajectoryDataset(store, "language", windows_of(4, 3, shuffle_rewards=True), 20, 1, serializer, made)
    for i in range(20):
        ids, field, _ = data.stream.encode(data.trajectories(i))
        item, other = data[i], anew[i]
        assert ids.tolist() == item["input_ids"].tolist()
        now = item["field"].numpy()
        assert set(now[field != now]) <= {STATE} and set(field[field != now]) <= {ACTION}
        others = [w for e in data.episode[i] for w in others_wrote(store, 0)[e]]
        assert (field != now).any() == bool(others)
        kinds = [f[np.isin(f, (ACTION, STATE))].tolist() for f in (now, other["field"].numpy())]
        assert kinds[0] == kinds[1]  # windows that are written anew say the same


def test_a_model_has_no_loss_on_them(store, tokenizer):
    "With loss on actions alone, as a pretrained model is trained, no word of a tool is a target."
    serializer = make_serializer("plain", store.spaces)
    data = TrajectoryDataset(store, "language", windows_of(4, 3), 8, 1, serializer, tokenizer)
    batch = collate(data.__getitems__([*range(8)]))
    target = batch["input_ids"][batch["field"] == ACTION]
    assert not re.search(r"\d", tokenizer.decode(target))
    assert re.search(r"\d", tokenizer.decode(batch["input_ids"][batch["field"] == STATE]))


def test_tokens_of_others_have_no_loss_in_numbers(tokenizer, tmp_path):
    "RL Format, by the mask of an import with a chat template; the loss of a model is over the model's own tokens."
    tokenizer.chat_template = MARKED + "{% if add_generation_prompt %}[assistant]{% endif %}"
    try:
        store = imported([talk(i) for i in range(12)], tmp_path, tokenizer=tokenizer)
    finally:
        tokenizer.chat_template = None
    wrote = model_rows(store)
    assert 0 < wrote.sum() < len(wrote)
    data = TrajectoryDataset(store, windows=windows_of(2, 2), n=6, seed=1)
    at = np.append(0, np.cumsum(store.episode_lengths))
    for i, item in enumerate(data):
        expected = np.concatenate([wrote[at[e] : at[e + 1]] for e in data.episode[i]])
        assert item["learnt"].tolist() == expected.tolist()
        assert not re.search(r"\d", tokenizer.decode(item["action"][item["learnt"]]))
    asked = TrajectoryDataset(store, windows=windows_of(2, query=True), n=6, seed=1)[0]
    assert asked["learnt"].sum() < asked["mask"].sum()
    said = text_store(store)
    for a, others in zip(said[0].columns["action"], others_wrote(said, 0)):
        assert len(others) == ("tool" in a or "[" in a)
        assert all(re.search(r"\d", a[i:j]) for i, j in others)
        assert not re.search(r"\d", "".join(a[j] for j in range(len(a)) if not any(x <= j < y for x, y in others)))


def test_without_a_template_the_messages_tell(tokenizer, tmp_path):
    held = [talk(i) for i in range(4)]
    store = imported(held, tmp_path, tokenizer=tokenizer)
    mask, ids = model_rows(store), store[0].columns["action"]
    assert not re.search(r"\d", tokenizer.decode(ids[mask])) and re.search(r"\d", tokenizer.decode(ids[~mask]))
    assert not any("which tokens" in line for line in store.info.get("caveats", []))
    odd = Rollout("p", "q", score=1.0, messages=held[0].messages)  # nothing of it stands there
    store = imported([odd], tmp_path, tokenizer=tokenizer)
    assert model_rows(store) is None and any("which tokens" in line for line in store.info["caveats"])


def test_text_to_tokens_and_back(store, tokenizer, tmp_path):
    made = token_store(store, tokenizer, tmp_path / "tokens")
    ids, mask = made[0].columns["action"], model_rows(made)
    assert not re.search(r"\d", tokenizer.decode(ids[mask])) and "7" in tokenizer.decode(ids[~mask])
    back = text_store(made)
    assert [len(x) for x in others_wrote(back, 0)] == [len(x) for x in others_wrote(store, 0)]


def test_every_history_has_its_own(store, tokenizer, tmp_path):
    with StoreWriter(tmp_path / "two", store.spaces, {}) as writer:
        for i in range(2):
            writer.put(i, store[0])
    keep_lines(tmp_path / "two", 1, [{"others": [(0, 3)]}] * len(store[0]))
    made = token_store(Store.open(tmp_path / "two"), tokenizer, tmp_path / "tokens")
    wrote, n = model_rows(made), made[0].n_transitions
    assert wrote[:n].all() and not wrote[n:].all()
    data = TrajectoryDataset(made, windows=windows_of(3, 2), n=30, seed=1)
    starts = np.append(0, np.cumsum(made.episode_lengths))
    for h, episodes, item in zip(data.history, data.episode, data):
        at = made.episode_offset[h] + episodes
        assert item["learnt"].tolist() == np.concatenate([wrote[starts[e] : starts[e + 1]] for e in at]).tolist()
    assert len(set(data.history)) == 2


def test_a_text_form_of_before_is_made_anew(store, tokenizer, tmp_path):
    "It does not say who wrote, and the tokens now do."
    made = token_store(store, tokenizer, tmp_path / "tokens")
    lines = [{"mask": x.tolist()} for x in np.split(model_rows(made), np.cumsum(made.episode_lengths)[:-1])]
    kept_file(made.path, 0).unlink()
    kept_file(made.path, 0).parent.rmdir()
    assert not any(others_wrote(text_store(made), 0))
    keep_lines(made.path, 0, [{"mask": [*map(int, line["mask"])]} for line in lines])
    assert any(others_wrote(text_store(Store.open(made.path)), 0))


def test_a_rollout_tells_who_wrote():
    r = talk(0)
    assert ["42" in r.completion[a:b] for a, b in others_in(r)] == [True]
    assert others_in(talk(3)) is None  # nobody else speaks


def test_damage_is_one_line(store, tokenizer, tmp_path):
    made = token_store(store, tokenizer, tmp_path / "tokens")
    n = len(made[0])
    keep_lines(made.path, 0, [{"mask": [1]}] + [None] * (n - 1))
    with pytest.raises(UserError, match=r"came as the mask of \d+ tokens"):
        TrajectoryDataset(Store.open(made.path), windows=windows_of(2, 2), n=2)
    assert str(kept_file(made.path, 0)).endswith("rollouts/0.parquet")
    turns = imported([talk(i) for i in range(4)], tmp_path, turns=True)
    keep_lines(turns.path, 0, [{"others": [(0, 1)]}] * len(turns[0]))
    serializer = make_serializer("plain", turns.spaces)
    with pytest.raises(UserError, match="which has 2 steps"):
        TrajectoryDataset(Store.open(turns.path), "language", windows_of(2, 2), 2, 1, serializer, tokenizer)


def test_the_loss_is_the_models_own(store, tokenizer):
    "A language model of fresh weights, loss on actions alone: words of tools do not count, whatever they cost."
    transformers = pytest.importorskip("transformers")
    import torch

    from ad_distill.models.lm import LMModel, LMSettings

    serializer = make_serializer("plain", store.spaces)
    size = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2)
    lm = transformers.LlamaForCausalLM(transformers.LlamaConfig(vocab_size=len(tokenizer), **size))
    rest = {f: 0.0 for f in FIELDS if f != "action"}
    model = LMModel(lm, serializer, tokenizer, LMSettings(max_tokens=512, field_weights=rest))
    data = TrajectoryDataset(store, "language", windows_of(2, 2), 4, 1, serializer, tokenizer)
    batch = collate(data.__getitems__([0, 1, 2, 3]))
    with torch.no_grad():
        loss = model(**batch)["loss"]
        logits = lm(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, :-1]
    nll = torch.nn.functional.cross_entropy(logits.mT, batch["input_ids"][:, 1:], reduction="none")
    own = batch["field"][:, 1:] == ACTION
    assert torch.allclose(loss, nll[own].mean(), atol=1e-5)
    assert not re.search(r"\d", tokenizer.decode(batch["input_ids"][:, 1:][own]))
