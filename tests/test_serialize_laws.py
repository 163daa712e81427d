"""Laws of the serializers, over the registry, a zoo of spaces and settings; AD_DISTILL_EXAMPLES: how many examples."""

import copy
import json
import os
import time
from functools import lru_cache

import numpy as np
import pytest
from gymnasium.spaces import Box, Discrete, MultiDiscrete, Text
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ad_distill.language.codecs import ParseError
from ad_distill.language.serializer import FIELDS, fit_grades, make_serializer, serializer_from_json
from ad_distill.registry import SERIALIZERS
from ad_distill.registry import UserError
from ad_distill.trajectory import COLUMNS, History, Spaces, Trajectory, column_dtype

EXAMPLES = int(os.environ.get("AD_DISTILL_EXAMPLES", "2000"))
VARIETY = max(400, EXAMPLES // 10)  # serializers of each name
settings.register_profile(
    "laws", max_examples=EXAMPLES, deadline=None, database=None, suppress_health_check=list(HealthCheck)
)
laws = settings.get_profile("laws")
each_serializer = pytest.mark.parametrize("name", SERIALIZERS)
seeds = st.integers(0, 2**62)  # values are drawn by numpy from a seed: a hundred times faster than one by one

inf = np.inf
ZOO = [
    Discrete(5),
    Discrete(1),
    Discrete(12, start=-3),
    Discrete(2**40),
    MultiDiscrete([9, 9]),
    MultiDiscrete([3, 1, 12, 2], start=[-1, 5, 0, 7]),
    MultiDiscrete([[2, 3], [4, 5]]),
    Box(-inf, inf, (3,), np.float32),
    Box(0, 1, (1,), np.float32),
    Box(-inf, inf, (), np.float64),
    Box(np.array([-2.5, -inf], "f4"), np.array([2.5, 10], "f4")),
    Box(-1, 1, (2, 2), np.float16),
    Box(0, 255, (2,), np.uint8),
    Box(-(2**62), 2**62, (), np.int64),
    Text(200),
    Text(200),
]
ORDERS = [
    "state action reward",
    "state action reward logprob",
    "state reward action",
    "reward state action",
    "state action logprob reward",
    "logprob state reward action",
    "state logprob action reward",
]
OWN = {
    "plain": [{}, {"digits": 4}, {"delimiter": "=", "end": "***"}, {"delimiter": " "}, {"decimals": 2}],
    "coords": [
        {},
        {"digits": 2},
        {"decimals": 1, "scaled": True},
        {"delimiter": ":"},
        {"words": ("He", "He smiled", "é", " ", "\n", "x0=1", "reward: ", "#", "🙂", "e\u0301")},
    ],
    "compact": [{}, {"digits": None}, {"digits": 1}, {"decimals": 3, "scaled": True}],
    "json": [{}, {"digits": 5}, {"decimals": 17}],
    "prose": [{}, {"digits": 3}, {"decimals": 0}],
    "bins": [{}, {"bins": 3}, {"bins": 16, "limit": 50.0}, {"rewards": (-1, 1)}],
}
BOUND = [{}, {}, {"bind": "echo"}, {"bind": "grade"}, {"bind": "grade", "grades": (-1, 0.5)}, {"bind": "tag"}]
SNIPPETS = [
    "",
    " ",
    "\n",
    "\r\n",
    "\\",
    "\\n",
    "\\\\",
    "\\r",
    "###",
    "### truncated",
    "\n###\n",
    "reward: 1",
    "prompt: ",
    "completion: x",
    '"',
    '", ',
    "}\n{",
    "\\u00",
    "x0=1",
    "a0=65 ",
    "> ",
    "< ",
    "$1 ",
    "+3",
    "again ",
    " .",
    "|",
    "end",
    "limit\n",
    "s ",
    "b12",
    "It earned 0.",
    ". ",
    "Time ran out.",
    "He smiled",
    "é",
    "\u2028",
    "\x85",
    "\x00",
    "\x1f",
    "🙂",
    "\ufeff",
    "null",
    "nan",
    "-0",
    "\t",
    "٣",
    "e\u0301",
]


@lru_cache(None)
def build(name, state, action, order, own, bind, skip_zero, late_reward):
    "A serializer, or None where the settings contradict each other and it says so."
    try:
        return make_serializer(
            name,
            Spaces(ZOO[state], ZOO[action]),
            order=ORDERS[order],
            skip_zero=skip_zero,
            late_reward=late_reward,
            **OWN[name][own],
            **BOUND[bind],
        )
    except UserError as e:
        if bind and "bind=" in str(e):
            return None  # the reward stands before the action
        assert late_reward and ORDERS[order][:12] != "state action" or name == "json" and skip_zero, e
        return None


def pieces_of(s):
    "Literals and values as `s` writes them, each a few times, as many of the former as of the latter."
    if "pieces" not in s.__dict__:
        pieces = [p for slots in s.rows for x in slots for p in x.pieces]
        values = [v for p in pieces if not isinstance(p, str) and p.values is not None for v in p.write(p.values[:10])]
        s.__dict__["pieces"] = [p for p in pieces if isinstance(p, str)] * 5 + values
    return s.__dict__["pieces"]


ODD = [
    "0",
    "1",
    "-1",
    "00",
    "007",
    "-0",
    "1.5",
    "1e5",
    "1e400",
    "-1e-400",
    "3.4028235e+38",
    "3.4028236e38",
    "9" * 30,
    "9" * 5000,
    "0." + "1" * 50,
    "nan",
    "null",
    "inf",
    "unknown",
    "b0",
    "b7",
    "b99999",
    "bnan",
    "١",
    "1_0",
    "",
    "x4",
    "$1",
    "a0=300",
    "a0=255",
    "x0=104 x1=105",
    "x1=104",
    r"\n",
    r"\ud83d",
    r"\ud83d\ude42",
    r"\q",
]


def draw_odd_rows(rng, s):
    "Text of the right form with values that may be none."
    out = []
    for _ in range(rng.integers(5)):
        for slot in s.rows[int(rng.random() < 0.3)]:
            if slot.optional and rng.random() < 0.5:
                continue
            field = "action" if slot.field == "echo" else slot.field
            for p in slot.pieces:
                if isinstance(p, str):
                    out.append(p)
                elif p.values is not None and rng.random() < 0.8:
                    out.append(p.write(p.values[[rng.integers(len(p.values))]])[0])
                else:
                    out.append(
                        (s._prefix(field, 0, 1) if p.dtype != object and field in FIELDS else "")
                        + ODD[rng.integers(4 if rng.random() < 0.8 else len(ODD))]
                    )
    return "".join(out)


def draw_serializer(rng, name):
    "One of a few hundred: they take longer to make than to use."
    choice = np.random.default_rng([VARIETY, rng.integers(VARIETY)])
    while True:
        s = build(
            name,
            *choice.integers([len(ZOO), len(ZOO), len(ORDERS), len(OWN[name]), len(BOUND)]).tolist(),
            *(choice.random(2) < 0.5).tolist(),
        )
        if s:
            return s


def draw_floats(rng, size, dtype):
    "Numbers of all magnitudes, with special ones among them."
    info = np.finfo(dtype)
    kinds = [
        lambda: rng.normal(size=size),
        lambda: rng.integers(-3, 4, size),
        lambda: np.round(rng.random(size), 3),
        lambda: np.frombuffer(rng.bytes(int(np.prod(size)) * np.dtype(dtype).itemsize), dtype).reshape(size),
        lambda: rng.choice(
            [
                0.0,
                -0.0,
                1.0,
                info.max,
                info.min,
                info.tiny,
                info.smallest_subnormal,
                -info.smallest_subnormal,
                1 / 3,
                info.eps,
                0.1,
                1e-5,
                1e16,
            ],
            size,
        ),
    ]
    with np.errstate(all="ignore"):
        x = np.asarray(kinds[rng.integers(len(kinds))](), dtype).copy()
    x[~np.isfinite(x)] = 0
    return x


def draw_text(rng):
    return "".join(SNIPPETS[i] for i in rng.integers(len(SNIPPETS), size=rng.integers(6)))


def draw_values(rng, space, n):
    dtype = column_dtype(space)
    if isinstance(space, Text):
        return np.array([*(draw_text(rng) for _ in range(n)), None], object)[:-1]
    size = (n, *space.shape)
    if dtype.kind == "f":
        return draw_floats(rng, size, dtype)
    low, high = (
        (space.low, space.high)
        if isinstance(space, Box)
        else (space.start, space.start + (space.n if isinstance(space, Discrete) else space.nvec) - 1)
    )
    x = rng.integers(np.asarray(low, np.int64), np.asarray(high, np.int64), size, endpoint=True)
    return np.where(rng.random(size) < 0.2, high, x)


def draw_episode(rng, spaces, longest=5):
    n = int(rng.integers(longest + 1))
    reward, logprob = draw_floats(rng, n, np.float32), draw_floats(rng, n, np.float32)
    if not isinstance(spaces.action, Box):
        logprob = -abs(logprob)
    for x in (reward, logprob):
        x[rng.random(n) < 0.1] = np.nan
    done = np.zeros((2, n), bool)
    if n:
        done[:, -1] = rng.random(2) < 0.4
    return Trajectory(
        draw_values(rng, spaces.state, n), draw_values(rng, spaces.action, n), reward, logprob, *done, spaces
    )


def draw(seed, name, most=3, longest=5):
    rng = np.random.default_rng(seed)
    s = draw_serializer(rng, name)
    return rng, s, [draw_episode(rng, s.spaces, longest) for _ in range(rng.integers(most + 1))]


def assert_same(a, b):
    "Equal, the signs of zeros included."
    assert a == b
    for x, y in zip(a, b, strict=True):
        for k in COLUMNS:
            if x.columns[k].dtype.kind == "f":
                assert (np.signbit(x.columns[k]) == np.signbit(y.columns[k])).all() or np.isnan(x.columns[k]).any(), k


def assert_reads(s, text):
    "Any string parses, to something that is written and read again as it is, or raises the one error."
    try:
        found = s.parse(text)
    except ParseError as e:
        assert 0 <= e.offset <= len(text) and "offset" in str(e)
        str(e).encode()
        return
    assert_same(s.parse(s.serialize(found)), s.quantize(found))


@each_serializer
@laws
@given(seed=seeds)
def test_reading_inverts_writing(name, seed):
    rng, s, episodes = draw(seed, name)
    q = s.quantize(episodes)
    text = s.serialize(q)
    assert_same(s.parse(text), q)
    assert_same(s.quantize(q), q)
    assert s.serialize(episodes) == text
    if name != "bins" and not s.digits and s.decimals is None and "logprob" in s.order:
        assert_same(q, episodes)
    if episodes:
        history = History.from_episodes(episodes, task={"name": "t"}, source={"name": "s"}, seed=0, versions={})
        assert s.serialize(history) == text == "".join(map(s.serialize, episodes))
        assert_same(list(s.quantize(history)), q)


@each_serializer
@laws
@given(seed=seeds)
def test_streaming_equals_writing_whole(name, seed):
    rng, s, episodes = draw(seed, name, most=2, longest=3)
    late, early, sofar = s.late_reward, s.order.index("reward") < s.order.index("action"), ""
    logprob_early = "logprob" in s.order and s.order.index("logprob") < s.order.index("action")
    for i, e in enumerate(episodes):
        for t in range(len(e)):
            past = [*episodes[:i], e[:t]]
            given = {"reward": e.reward[t]} if early else {}
            if logprob_early:
                given["logprob"] = e.logprob[t]
            text = s.open_end(past, e.state[t], **given)
            assert text.startswith(sofar), "earlier text changed"
            before = {k: [v] for k, v in given.items()}
            if late and t:
                before = {"reward": e.reward[t - 1 : t], "logprob": e.logprob[t - 1 : t], "action": e.action[t - 1 : t]}
            assert text == sofar + s.before_action(e.state[t : t + 1], **before, first=[t == 0])[0]
            action = s.action_text(e.action[t])
            assert s.read_action(action) is None or s.read_action(action)[1] < len(action), "it has not ended yet"
            read, used = s.read_action(action + s.action_stop + draw_text(rng))
            assert used == len(action) and np.array_equal(read, s.quantize(e[t : t + 1]).action[0])
            sofar = (
                text
                + action
                + s.after_action(
                    e.reward[t : t + 1],
                    e.logprob[t : t + 1],
                    e.terminated[t : t + 1],
                    e.truncated[t : t + 1],
                    e.action[t : t + 1],
                )[0]
            )
            assert s.serialize(past[:-1] + [e[: t + 1]], open=True) == sofar
            found = s.parse(sofar)
            assert len(found) == i + 1 and len(found[-1]) == t + 1
        done = len(e) and (e.terminated[-1] or e.truncated[-1])
        if not done:
            sofar = s.serialize(episodes[: i + 1])
    assert sofar == s.serialize(episodes)


@each_serializer
@laws
@given(seed=seeds)
def test_every_character_has_a_field(name, seed):
    rng, s, episodes = draw(seed, name)
    text, label = s.labelled(episodes)
    assert text == s.serialize(episodes) and label.dtype == np.int8 and label.shape == (len(text),)
    for field in ("state", "action"):
        codecs, index = s._codecs(field)
        rows = [x for e in episodes for x in e.columns[field]]
        expected = "".join(
            c.write(np.array([x, None], object)[:1] if c.dtype == object else np.ravel(x)[i : i + 1])[0]
            for x in rows
            for c, i in zip(codecs, index)
        )
        assert "".join(c for c, f in zip(text, label) if f == FIELDS.index(field)) == expected


@each_serializer
@laws
@given(seed=seeds)
def test_mutated_text_parses_or_raises_the_one_error(name, seed):
    rng, s, episodes = draw(seed, name)
    text = s.serialize(episodes)
    for _ in range(rng.integers(1, 4)):
        a, b = sorted(rng.integers(len(text) + 1, size=2).tolist())
        b = min(b, a + int(rng.integers(1, 30)))
        text = [
            text[:a],
            text[:a] + text[b:],
            text[:b] + text[a:],
            text[:a] + draw_text(rng) + text[b:],
            text[:a] + chr(rng.integers(1, 0x3000)) + text[a:],
        ][rng.integers(5)]
    assert_reads(s, text)
    assert_acts(s, text[rng.integers(len(text) + 1) :])


def assert_acts(s, text):
    try:
        found = s.read_action(text)
    except ParseError:
        return
    if found:
        assert 0 <= found[1] <= len(text) - len(s.action_stop)


@each_serializer
@laws
@given(seed=seeds, text=st.text(max_size=60))
def test_any_string_parses_or_raises_the_one_error(name, seed, text):
    rng = np.random.default_rng(seed)
    s = draw_serializer(rng, name)
    kind = rng.random()
    if kind < 0.4:
        text = draw_odd_rows(rng, s)
    elif kind < 0.8:
        words = [*pieces_of(s), *SNIPPETS, *text.split()]
        text = "".join(
            words[i] + ["", " ", "\n"][j] for i, j in zip(rng.integers(len(words), size=12), rng.integers(3, size=12))
        )
    assert_reads(s, text)
    assert_reads(s, "\ud800".join(text))
    assert_acts(s, text)


@each_serializer
@pytest.mark.parametrize("late", [False, True])
def test_time_is_linear_in_the_text(name, late):
    s = make_serializer(name, Spaces(Text(9), Text(9)), late_reward=late, skip_zero=late)
    t = make_serializer(name, Spaces(Box(-1, 1, (3,)), Discrete(9)), late_reward=late, skip_zero=late)
    valid = [
        make.serialize([draw_episode(np.random.default_rng(i), make.spaces) for i in range(20)]) for make in (s, t)
    ]
    for serializer in (s, t):
        heads = [p for slots in serializer.rows for x in slots for p in x.pieces if isinstance(p, str)]
        for junk in (
            *heads,
            *(h + "1" for h in heads),
            "".join(heads),
            "\\",
            '"',
            "0",
            "x0=1 ",
            "1 ",
            "$1 ",
            "-",
            ".",
            "x",
            "\n",
            " ",
            *valid,
        ):
            start = time.process_time()
            try:
                serializer.parse(junk * (200_000 // max(1, len(junk))) + "!")
            except ParseError:
                pass
            assert time.process_time() - start < 5, f"{junk!r} takes long"


@each_serializer
def test_settings_survive_json(name):
    for order in ORDERS:
        for own in OWN[name]:
            for space in ZOO:
                s = make_serializer(name, Spaces(space, space), order=order, late_reward=False, skip_zero=False, **own)
                assert serializer_from_json(json.loads(json.dumps(s.to_json()))) == s == copy.deepcopy(s)


@laws
@given(
    text=st.text(st.sampled_from("Hesmild 🙂é\n")),
    words=st.lists(st.text(st.sampled_from("Hesmild 🙂é\n"), min_size=1, max_size=4), unique=True, max_size=6),
)
def test_coords_writes_the_longest_words_from_the_left(text, words):
    s = make_serializer("coords", Spaces(Text(9), Text(9)), words=words)
    written = s.action_text(text)
    ids = [int(unit.split("=")[1]) for unit in written.split()]
    assert s.read_action(written + s.action_stop) == (text, len(written))
    rest = text.encode()
    for i in ids:
        here = [w for w in words if rest.startswith(w.encode())]
        assert i == (256 + words.index(max(here, key=len)) if here else rest[0])
        rest = rest[len(words[i - 256].encode()) if i > 255 else 1 :]
    assert not rest


@pytest.mark.parametrize(
    "typed, settings",
    [
        ("coords", {}),
        ("coords skip_zero=true late_reward=True digits=2", {"skip_zero": True, "late_reward": True, "digits": 2}),
        ("bins limit=50.5 bins=16", {"limit": 50.5, "bins": 16}),
        ("bins rewards=-1,1", {"rewards": (-1, 1)}),
        ("plain delimiter==", {"delimiter": "="}),
        ("coords decimals=2 scaled=true", {"decimals": 2, "scaled": True}),
        ("compact digits=none names=r,c", {"digits": None, "names": ("r", "c")}),
        ("json order=state,action,reward,logprob", {"order": "state action reward logprob"}),
    ],
)
def test_settings_may_stand_behind_the_name(typed, settings):
    spaces = Spaces(MultiDiscrete([9, 9]), Discrete(5))
    assert make_serializer(typed, spaces) == make_serializer(typed.split()[0], spaces, **settings)


@pytest.mark.parametrize(
    "typed",
    [
        "",
        " ",
        "coords digits",
        "coords =2",
        "coords digit=2",
        "cords digits=2",
        "coords digits=2 digits=3",
        "coords digits=1.5",
        "bins rewards=1",
        "coords skip_zero=1",
        "coords decimals=-1",
        "coords decimals=1.5",
        "coords scaled=true",
        "coords decimals=2 scaled=2",
        "bins decimals=2",
    ],
)
def test_mistakes_behind_the_name_are_one_line(typed):
    with pytest.raises(UserError) as e:
        make_serializer(typed, Spaces(Discrete(3), Discrete(5)))
    assert "\n" not in str(e.value)
    with pytest.raises(UserError, match="twice"):
        make_serializer("coords digits=2", Spaces(Discrete(3), Discrete(5)), digits=2)


@each_serializer
def test_legal_actions_are_the_actions(name):
    for space in ZOO[:6]:
        s = make_serializer(name, Spaces(Discrete(2), space))
        legal = s.legal_actions()
        if isinstance(space, Discrete) and space.n > 2**30:
            assert legal is None
        else:
            assert len(set(legal)) == len(legal) == (space.n if isinstance(space, Discrete) else space.nvec.prod())
            read = [s.read_action(text + s.action_stop)[0] for text in legal]
            assert all(space.contains(np.asarray(a, space.dtype) if space.shape else a) for a in read)
    assert make_serializer(name, Spaces(Discrete(2), Text(9))).legal_actions() is None


@each_serializer
@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("bind", ["echo", "grade", "tag"])
def test_an_echo_follows_its_reward(name, bind, late):
    for i in range(len(ZOO)):
        rng, spaces = np.random.default_rng(i), Spaces(ZOO[-1 - i], ZOO[i])
        s = make_serializer(name, spaces, bind=bind, late_reward=late, skip_zero=False)
        assert serializer_from_json(json.loads(json.dumps(s.to_json()))) == s
        e = s.quantize(draw_echoed(rng, spaces))
        text, sofar = s.serialize([e, e]), ""
        assert s.serialize(s.parse(text)) == text
        for t in range(len(e)):
            now, past = slice(t, t + 1), slice(t - 1, t)
            before = dict(reward=e.reward[past], logprob=e.logprob[past], action=e.action[past]) if late and t else {}
            sofar += s.before_action(e.state[now], **before, first=[t == 0])[0] + s.action_text(e.action[t])
            ends = e.terminated[now], e.truncated[now]
            sofar += s.after_action(e.reward[now], e.logprob[now], *ends, action=e.action[now])[0]
        assert sofar + sofar == text


def draw_echoed(rng, spaces):
    def column(space):
        if isinstance(space, Text):
            return np.array([f"word {k}" for k in rng.integers(9, size=3)], object)
        space.seed(int(rng.integers(99)))
        return np.stack([space.sample() for _ in range(3)])

    done = np.array([False, False, True])
    reward, logprob = np.array([0, 1, 0.5], "f4"), np.full(3, -1, "f4")
    return Trajectory(column(spaces.state), column(spaces.action), reward, logprob, done, done & False, spaces)


@each_serializer
@pytest.mark.parametrize("bind", ["echo", "grade", "tag"])
def test_an_echo_that_contradicts_is_refused_where_it_stands(name, bind):
    spaces = Spaces(Discrete(5), Discrete(5))
    s = make_serializer(name, spaces, bind=bind)
    e = Trajectory(*[np.array(x) for x in ([1], [2], [0.7], [-1.0], [True], [False])], spaces)
    text = s.serialize(e)
    head = text.lower().index("again")
    at = text.index("2", head)
    changed = [text[:at] + "3" + text[at + 1 :]]
    if bind != "echo":
        changed.append(text[:head] + text[head:].replace("+3", "+2"))
    for other in changed:
        with pytest.raises(ParseError, match="echo") as found:
            s.parse(other)
        assert head < found.value.offset <= at


def test_grades_are_fitted_to_rewards():
    x = np.random.default_rng(0).normal(size=1000).astype("f4")
    bounds = fit_grades(np.append(x, np.nan))
    counts = np.bincount(np.searchsorted(np.array(bounds, "f4"), x, "right"))
    assert len(counts) == 5 and counts.min() > 150
    assert fit_grades(np.array([0, 1, 0, 1])) == (1,) and fit_grades(np.zeros(3)) == (0,)
    with pytest.raises(UserError, match="reward"):
        fit_grades(np.array([np.nan]))


def test_grades_are_settings():
    spaces = Spaces(Discrete(5), Discrete(5))
    s = make_serializer("compact bind=grade grades=-1,0,2.5", spaces)
    assert s.grades == (-1, 0, 2.5) and serializer_from_json(json.loads(json.dumps(s.to_json()))) == s
    rewards = np.array([-2, -1, -0.001, 2.5, np.nan], "f4")
    after = make_serializer("plain bind=grade grades=-1,0,2.5", spaces).after_action(rewards, action=np.arange(5))
    assert ["".join(a.split("again: ")[1].split()) for a in after] == ["0+0", "1+1", "2+1", "3+3", "4+?"]
    assert "grades" not in make_serializer("compact bind=grade", spaces).to_json()["settings"]
    for typed in ("bind=grade grades=1,0", "bind=grade grades=a", "bind=grade grades=nan", "grades=0.5", "bind=grad"):
        with pytest.raises(UserError, match="grade"):
            make_serializer(f"compact {typed}", spaces)
