"""Damaged datasets of Minari: every one is read rightly, or refused in one line, or its bad episodes are left out.

By hand: `python tests/campaigns/minari_datasets.py --seed 0 --count 1000`."""

import json, os, random, shutil, traceback, warnings

import h5py, minari, numpy as np
from gymnasium.spaces import Box, Dict, Discrete, Text, Tuple
from harness import main, picked
from minari.data_collector import EpisodeBuffer

from ad_distill.data.minari import from_minari, to_minari
from ad_distill.data.store import Store, StoreWriter
from ad_distill.registry import UserError
from ad_distill.trajectory import History, Spaces

SPACES = (
    (Box(-9, 9, (2,), np.float32), Discrete(3, start=1)),
    (Dict(a=Box(-9, 9, (2,), np.float64), b=Discrete(2)), Box(-9, 9, (2,), np.float32)),
    (Text(4, charset="abc"), Tuple([Discrete(2), Text(3, charset="abc")])),
)
DTYPES = ("float64", "float32", "int64", "int8", "uint8", "bool", "complex64", "S3", "float16")
VALUES = (None, -1, 0, 1, 7, 10**12, 2**63, 1.5, True, "", "7", "x" * 3000, [], {}, [3], float("nan"), {"a": 1})


def nested(space, values):
    "Values of steps as Minari takes them."
    if isinstance(space, Dict):
        return {k: nested(s, [v[k] for v in values]) for k, s in space.spaces.items()}
    if isinstance(space, Tuple):
        return tuple(nested(s, [v[i] for v in values]) for i, s in enumerate(space.spaces))
    return values


def made(work, spaces, data_format):
    "A dataset of four episodes in the folder `work`."
    os.environ["MINARI_DATASETS_PATH"] = str(work)
    rng, buffers = np.random.default_rng(0), []
    for space in spaces:
        space.seed(0)
    for n in (3, 3, 1, 3):  # of one length, so that a count does not tell them apart
        end = (np.arange(n) == n - 1).tolist()
        observations, actions = (nested(s, [s.sample() for _ in range(k)]) for s, k in zip(spaces, (n + 1, n)))
        buffers.append(
            EpisodeBuffer(
                observations=observations,
                actions=actions,
                rewards=rng.random(n).tolist(),
                terminations=end,
                truncations=[False] * n,
                infos={"clock": np.arange(n + 1.0).tolist()},
            )
        )
    observation, action = spaces
    minari.create_dataset_from_buffers(
        "a-v0", buffers, observation_space=observation, action_space=action, data_format=data_format
    )
    return work / "a-v0" / "data"


def ours(work, spaces, data_format):
    "A dataset that a store was exported to: two histories of three episodes, one of them without steps."
    rng, spaces = np.random.default_rng(0), Spaces(Discrete(3, start=1), Box(-9, 9, (2,), np.float32))
    with StoreWriter(work / "source", spaces, {"seed": 0}) as writer:
        for i, lengths in enumerate(((2, 0, 3), (1, 2, 2))):
            n = sum(lengths)
            values = dict(state=rng.integers(1, 4, n), action=rng.random((n, 2)), reward=rng.random(n))
            flags = dict(terminated=np.zeros(n, bool), truncated=np.isin(np.arange(n), np.cumsum(lengths) - 1))
            columns = dict(**values, logprob=-rng.random(n), **flags)
            task, source = {"name": "walk", "params": {}}, {"name": "random", "params": {}}
            writer.put(i, History(columns, lengths, spaces, task, source, i, {}))
    os.environ["MINARI_DATASETS_PATH"] = str(work)
    to_minari(Store.open(work / "source"), "a-v0", data_format)
    return work / "a-v0" / "data"


def edit_json(rng, text):
    "Change one thing in JSON; where it holds JSON as text, often in there."
    d = json.loads(text)
    inner, (*way, last) = picked(rng, d)
    x = inner[last]
    if isinstance(x, str) and x.startswith("{") and rng.random() < 0.8:
        inner[last] = edit_json(rng, x)[0]
    elif rng.random() < 0.3 and last != "ad_distill":  # without it, it is the dataset of somebody else
        del inner[last]
    else:
        inner[last] = rng.choice(VALUES)
    return json.dumps(d), f"{'/'.join(map(str, (*way, last)))}"


def of_file(rng, file):
    "Cut a file, or remove it."
    data = file.read_bytes()
    if file.suffix == ".arrow" and rng.random() < 0.3:
        (file.parent / "part-9.arrow").write_bytes(data)
        return f"two {file.name}"
    if rng.random() < 0.3:
        file.unlink()
        return f"no {file.name}"
    file.write_bytes(data[: rng.randrange(len(data))])
    return f"cut {file.name}"


def other_dtype(rng, values):
    "The same numbers in another dtype; what is no number any more where it cannot hold them."
    try:
        other = values.astype(rng.choice(DTYPES))
    except (ValueError, TypeError):
        return np.zeros(len(values))
    return other if other.dtype.kind in "cS" or (other == values).all() else other.astype("S3")


def of_hdf5(rng, path):
    "Change one thing in the arrays."
    with h5py.File(path / "main_data.hdf5", "a") as f:
        names = []
        f.visit(names.append)
        name, kind = rng.choice(names), rng.randrange(5)
        x = f[name]
        if kind == 0 or not isinstance(x, h5py.Dataset):
            keys = list(x.attrs)
            if kind > 2 and keys:
                key = rng.choice(keys)
                x.attrs[key] = rng.choice([-1, 0, 7, 2**40, "x", 1.5, [1, 2]])
                return f"{name}.{key}"
            del f[name]
            return f"no {name}"
        values = x[()]
        del f[name]
        if kind == 1:
            values = values[: rng.randrange(len(values))]
        elif kind == 2:
            values = other_dtype(rng, values)
        elif kind == 3:
            values = np.stack([values, values], -1) if values.dtype.kind in "fiub" else values[:1]
        else:
            f.create_group(name)
            return f"group {name}"
        f[name] = values
        return f"{kind} {name} {values.dtype}"


def mutate(rng, path, data_format):
    "Change one thing in a dataset; a word for it."
    kind = rng.randrange(10)
    if kind < 3:
        text, what = edit_json(rng, (path / "metadata.json").read_text())
        (path / "metadata.json").write_text(text)
        return f"json {what}"
    if kind > 4 and data_format == "hdf5":
        return of_hdf5(rng, path)
    return of_file(rng, rng.choice(sorted(p for p in path.rglob("*") if p.is_file())))


def columns(store):
    "Every episode of a store."
    return [repr([c.tolist() for c in h[e].columns.values()]) for h in store for e in range(len(h))]


def one(seed, work):
    "Outcome of one variant, and what was changed."
    rng = random.Random(seed)
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    warnings.simplefilter("ignore")
    data_format = rng.choice(("hdf5", "hdf5", "arrow"))
    path = rng.choice((made, made, ours))(work, rng.choice(SPACES), data_format)
    want = columns(from_minari("a-v0", work / "right"))
    what, skip, notes = mutate(rng, path, data_format), rng.random() < 0.3, []
    try:
        store = from_minari("a-v0", work / "store", skip_bad=skip, notes=notes)
        got = columns(store)
        to_minari(store, str(work / "again"), data_format)
        if "space" in what:  # values are read as it says now
            got, want = ([x[x.rindex("], [") :] for x in each] for each in (got, want))
        rest = iter(want)
        right = all(x in rest for x in got) and len(got) + len(notes) >= len(want)  # in order, none of them twice
        outcome, said = ("right" if right else "silent"), str(notes)
    except UserError as e:
        outcome, said = ("refused" if len(str(e).splitlines()) == 1 else "traceback"), str(e)
    except Exception as e:
        traceback.print_exc(limit=-4)
        outcome, said = "traceback", repr(e)
    return outcome, f"{data_format} {what} ({said[:160]})"


if __name__ == "__main__":
    main(one, __doc__)
