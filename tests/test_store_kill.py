"""A store survives kill -9, a full disk and cuts anywhere, and ends with the same bytes as an unbroken run."""

import os, random, resource, shutil, signal, subprocess, sys, time, warnings
from pathlib import Path

import numpy as np, pytest
from gymnasium.spaces import Discrete, MultiDiscrete, Text

from ad_distill.data.store import Store, StoreFull, StoreWriter
from ad_distill.registry import UserError
from ad_distill.trajectory import History, Spaces

N = 40
INFO = dict(task=dict(name="walk", params={}), source=dict(name="random", params={}), seed=0)
SPACES = dict(grid=Spaces(MultiDiscrete([9, 9]), Discrete(5)), text=Spaces(Text(99), Text(99)))


def history(i, spaces):
    rng = np.random.default_rng(i)
    lengths = rng.integers(1, 12, 8)
    n, ends = lengths.sum(), np.cumsum(lengths) - 1
    if spaces == SPACES["grid"]:
        state, action = rng.integers(0, 9, (n, 2)), rng.integers(0, 5, n)
    else:
        state, action = ([f"{word} {x}\n###" for x in rng.integers(0, 9, n)] for word in ("prompt", "completion"))
    columns = dict(
        state=state,
        action=action,
        reward=rng.random(n),
        logprob=np.full(n, -1.0),
        terminated=np.zeros(n, bool),
        truncated=np.isin(np.arange(n), ends),
    )
    return History(
        columns,
        lengths,
        spaces,
        dict(name="walk", params={}, instance=i),
        dict(name="random", params={}),
        i,
        {"numpy": "x"},
    )


def order(i_have, seed):
    "What is missing, in the order in which four workers might finish it."
    left = [i for i in range(N) if not i_have(i)]
    rng = random.Random(seed)
    for a in range(0, len(left), 4):
        block = left[a : a + 4]
        rng.shuffle(block)
        yield from block


def write(path, spaces, seed=0, said=lambda i: None):
    with StoreWriter(path, spaces, INFO) as writer:
        for i in order(writer.has, seed):
            writer.put(i, history(i, spaces))
            said(i)


def in_child(f):
    "Run f in a forked process; its pid."
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        f()
        status = 0
    finally:
        os._exit(status)


def bytes_of(path):
    return {str(p.relative_to(path)): p.read_bytes() for p in sorted(Path(path).rglob("*")) if p.is_file()}


@pytest.fixture(scope="module", params=SPACES)
def unbroken(request, tmp_path_factory):
    path = tmp_path_factory.mktemp(request.param) / "unbroken"
    with StoreWriter(path, SPACES[request.param], INFO) as writer:
        for i in range(N):
            writer.put(i, history(i, SPACES[request.param]))
    return path


def spaces_of(path):
    return Store.open(path).spaces


def test_order_does_not_matter(unbroken, tmp_path):
    write(tmp_path / "s", spaces_of(unbroken), seed=3)
    assert bytes_of(tmp_path / "s") == bytes_of(unbroken)
    assert sorted(p.name for p in (tmp_path / "s").iterdir()) == ["index.jsonl", "store.json", "transitions.arrow"]


@pytest.mark.parametrize("trial", range(12))
def test_kill(unbroken, tmp_path, trial):
    path, spaces, rng, kills = tmp_path / "s", spaces_of(unbroken), random.Random(trial), 0
    while True:
        receive, send = os.pipe()
        still = rng.randrange(N) if kills == 0 else None  # the first one waits there: it cannot end before it is killed
        said = lambda i: (os.write(send, bytes([i])), i == still and signal.pause())
        pid = in_child(lambda: write(path, spaces, rng.random(), said))
        os.close(send)
        time.sleep(rng.random() * 0.008 * (1 + kills / 10))
        os.kill(pid, signal.SIGKILL)
        status = os.waitpid(pid, 0)[1]
        with os.fdopen(receive, "rb") as f:
            put = set(f.read())
        if (path / "store.json").exists():
            store = Store.open(path)
            assert all(store[i] == history(i, spaces) for i in range(len(store)))
            aside = {int(p.stem) for p in (path / "parts").glob("*.part")}
            assert put <= set(range(len(store))) | aside  # what `put` returned from is there
            if len(store) == N and status == 0:
                break
        else:
            assert not put
        kills += 1
        assert kills < 2000
    write(path, spaces)  # it may have been killed between the last history and the end
    assert bytes_of(path) == bytes_of(unbroken) and kills > 0


def resumed(path, unbroken):
    with warnings.catch_warnings(record=True):
        write(path, spaces_of(unbroken), seed=1)
    return bytes_of(path) == bytes_of(unbroken)


def test_cuts_anywhere(unbroken, tmp_path):
    "Every state in which a kill can leave the two files: any part of a history, or all of it and any part of its line."
    whole, path, rng = bytes_of(unbroken), tmp_path / "s", random.Random(0)
    store, lines = Store.open(unbroken), whole["index.jsonl"].splitlines(keepends=True)
    for k in (0, 1, 17, N - 1):
        start, size, before = int(store._offset[k]), int(store._size[k]), sum(map(len, lines[:k]))
        cuts = [(start + d, before) for d in {0, 1, 7, 8, 300, size - 1, size, *rng.sample(range(size), 8)}]
        whole_line = len(lines[k])
        cuts += [
            (start + size, before + d) for d in {1, 2, whole_line - 1, whole_line, *rng.sample(range(whole_line), 5)}
        ]
        for data, index in cuts:
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            (path / "store.json").write_bytes(whole["store.json"])
            (path / "transitions.arrow").write_bytes(whole["transitions.arrow"][:data])
            (path / "index.jsonl").write_bytes(whole["index.jsonl"][:index])
            assert len(Store.open(path)) == k + (index == before + len(lines[k]))
            assert resumed(path, unbroken), (k, data, index)


def test_cuts_while_it_is_made(unbroken, tmp_path):
    whole, path = bytes_of(unbroken), tmp_path / "s"
    first = int(Store.open(unbroken)._offset[0])
    for data in (0, 1, 100, first):
        for temporary in (None, b"", whole["store.json"][:20], whole["store.json"]):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir()
            (path / "transitions.arrow").write_bytes(whole["transitions.arrow"][:data])
            (path / "index.jsonl").write_bytes(b"")
            if temporary is not None:
                (path / "store.json.tmp").write_bytes(temporary)
            with pytest.raises(UserError, match="not a store"):
                Store.open(path)
            assert resumed(path, unbroken)


def test_power_cut(unbroken, tmp_path):
    "Files that reached the disk in any order: data missing or zeroed under a longer index, damaged parts."
    path, store = tmp_path / "s", Store.open(unbroken)
    whole, (first, at30, at35) = bytes_of(unbroken)["transitions.arrow"], store._offset[[0, 30, 35]].tolist()
    for left in (whole[: at30 + 99], whole[:at35] + bytes(5000), whole[:first]):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(unbroken, path)
        (path / "transitions.arrow").write_bytes(left)
        assert resumed(path, unbroken)
    shutil.rmtree(path)
    with StoreWriter(path, spaces_of(unbroken), INFO) as writer:
        for i in (1, 2, 3, 5):
            writer.put(i, history(i, spaces_of(unbroken)))
    for i, keep in ((1, 0), (2, 50), (3, -1)):
        part = path / f"parts/{i:08}.part"
        part.write_bytes(part.read_bytes()[:keep])
    (path / "parts/00000009.tmp").write_bytes(b"half")
    assert resumed(path, unbroken)


def test_a_reader_of_a_growing_store(unbroken, tmp_path):
    path, spaces, seen, (wait, go) = tmp_path / "s", spaces_of(unbroken), set(), os.pipe()
    # it goes on after every read that found more
    pid = in_child(lambda: write(path, spaces, said=lambda i: i % 4 or os.read(wait, 1)))
    while os.waitpid(pid, os.WNOHANG) == (0, 0):
        if (path / "store.json").exists():
            store = Store.open(path)
            store.verify()
            if len(store) not in seen:
                os.write(go, b".")
            seen.add(len(store))
    os.close(wait), os.close(go)
    assert len(seen) >= N // 4 and len(Store.open(path)) == N


def test_one_writer(unbroken, tmp_path):
    "The lock holds against another process, and dies with its own, even where that one left a worker behind."
    path, spaces = tmp_path / "s", spaces_of(unbroken)
    ready, tell = os.pipe()

    def parent_and_worker():
        with StoreWriter(path, spaces, INFO) as writer:
            writer.put(0, history(0, spaces))
            in_child(lambda: (os.write(tell, os.getpid().to_bytes(4, "little")), signal.pause()))
            signal.pause()

    pid = in_child(parent_and_worker)
    worker = int.from_bytes(os.read(ready, 4), "little")
    with pytest.raises(UserError, match="another process is writing"), StoreWriter(path, spaces, INFO):
        pass
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    with StoreWriter(path, spaces, INFO) as writer:
        assert len(writer) == 1
    os.kill(worker, signal.SIGKILL)


def limited(path, spaces, limit, said):
    "Write under a limit on the size of files: 7 when it was told that there is no room."
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    try:
        write(path, spaces, 5, said)
    except StoreFull as e:
        assert "no room left" in str(e) and str(path) in str(e)
        os._exit(7)


def test_full_disk(unbroken, tmp_path):
    whole, spaces = bytes_of(unbroken), spaces_of(unbroken)
    largest, path = max(map(len, whole.values())), tmp_path / "s"
    for limit in (0, 1, 200, 1000, *range(1500, largest, largest // 12), largest - 1):
        shutil.rmtree(path, ignore_errors=True)
        receive, send = os.pipe()
        pid = in_child(lambda: limited(path, spaces, limit, lambda i: os.write(send, bytes([i]))))
        os.close(send)
        status = os.waitpid(pid, 0)[1]
        with os.fdopen(receive, "rb") as f:
            put = set(f.read())
        assert os.waitstatus_to_exitcode(status) == 7, limit
        if (path / "store.json").exists():
            store = Store.open(path)
            assert all(store[i] == history(i, spaces) for i in range(len(store)))
            assert put <= set(range(len(store))) | {int(p.stem) for p in (path / "parts").glob("*.part")}
            assert not list((path / "parts").glob("*.tmp"))
        assert resumed(path, unbroken)


def test_a_writer_goes_on_after_a_full_disk(unbroken, tmp_path):
    "Room is made while it waits: the same writer may try again."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    old, spaces = signal.signal(signal.SIGXFSZ, signal.SIG_IGN), spaces_of(unbroken)
    try:
        with StoreWriter(tmp_path / "s", spaces, INFO) as writer:
            for i in range(N):
                if i % 10 == 5:
                    resource.setrlimit(resource.RLIMIT_FSIZE, (writer._end + 100, hard))
                    with pytest.raises(StoreFull):
                        writer.put(i, history(i, spaces))
                    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
                writer.put(i, history(i, spaces))
    finally:
        signal.signal(signal.SIGXFSZ, old)
    assert bytes_of(tmp_path / "s") == bytes_of(unbroken)


def test_a_cut_index_loses_nothing(unbroken, tmp_path):
    "Whole histories behind the end of the index are said and kept; made again they are the same bytes."
    lines, path = (unbroken / "index.jsonl").read_bytes().splitlines(keepends=True), tmp_path / "s"
    for n in (0, 17, N - 1):
        shutil.rmtree(path, ignore_errors=True)
        shutil.copytree(unbroken, path)
        (path / "index.jsonl").write_bytes(b"".join(lines[:n]))
        with pytest.warns(UserWarning, match="the index was cut"):
            Store.open(path).verify()
        with pytest.warns(UserWarning, match=f"holds {N - n} more"), StoreWriter(path, spaces_of(unbroken), INFO):
            pass
        (kept,) = path.glob("cut-*.arrow")
        assert kept.read_bytes()[-1000:] == (unbroken / "transitions.arrow").read_bytes()[-1000:]
        assert resumed(path, unbroken)


def test_a_changed_digit_of_the_index_is_found(unbroken, tmp_path):
    shutil.copytree(unbroken, tmp_path / "s")
    index = tmp_path / "s/index.jsonl"
    data, rng = index.read_bytes(), random.Random(0)
    digits = [i for i, c in enumerate(data) if chr(c).isdigit()]
    for i in rng.sample(digits, 50):
        other = str((int(chr(data[i])) + rng.randint(1, 9)) % 10).encode()
        index.write_bytes(data[:i] + other + data[i + 1 :])
        with pytest.raises(UserError, match="index.jsonl is damaged"):
            Store.open(tmp_path / "s")


@pytest.mark.parametrize("name", ["parts", "index.jsonl", "transitions.arrow", "store.json"])
def test_links_in_a_store_are_refused(unbroken, tmp_path, name):
    path, outside = tmp_path / "s", tmp_path / "outside"
    shutil.copytree(unbroken, path)
    (path / "parts").mkdir()
    (path / "parts/00000001.part").write_bytes(b"not yours")
    shutil.move(path / name, outside)
    (path / name).symlink_to(outside)
    before = bytes_of(tmp_path)
    with pytest.raises(UserError, match="is a link"), StoreWriter(path, spaces_of(unbroken), INFO):
        pass
    assert bytes_of(tmp_path) == before
    if name != "parts":
        with pytest.raises(UserError, match="is a link"):
            Store.open(path)


def test_flipped_bits_are_found_at_the_first_reading(tmp_path):
    path = tmp_path / "s"
    write(path, SPACES["grid"])
    file, at = path / "transitions.arrow", int(Store.open(path)._columns["reward"].begin[7]) * 4
    data = bytearray(file.read_bytes())
    data[at] ^= 1
    file.write_bytes(data)
    store = Store.open(path)
    for read in (lambda: store[7], lambda: store.gather("reward", 7, 0), store.verify):
        with pytest.raises(UserError, match="history 7 is not what was written"):
            read()


def test_damaged_stores():
    "A small part of the campaign that is run by hand."
    command = [sys.executable, Path(__file__).parent / "campaigns/stores.py", "--seed", "1", "--count", "120"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
