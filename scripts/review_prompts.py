"""Human-rated review sentences -> ad_distill/rlhf/reviews/openings.txt, the prompts of the task `review_rlhf`.

The sentences come with the source distribution of vaderSentiment 3.3.2 (MIT, see LICENSE.txt beside the list):

    pip download --no-binary :all: --no-deps vaderSentiment==3.3.2
    python scripts/review_prompts.py vaderSentiment-3.3.2.tar.gz

From a sentence of 10 words or more the first 3 to 6 are kept. `--check` writes nothing and exits with 1 if the list
is another one.
"""
import argparse
import html
import io
import random
import re
import sys
import tarfile
from pathlib import Path

OUT = Path(__file__).resolve().parent.parent / "ad_distill" / "rlhf" / "reviews" / "openings.txt"
FILES = {"movieReviewSnippets_GroundTruth.txt": 160, "amazonReviewSnippets_GroundTruth.txt": 96}  # -> openings of each
WORD = re.compile(r"[A-Za-z]+(?:'[a-z]+)?$")
HARD = re.compile(r"[A-Z]\w*'?\w* [A-Z]|[a-z]+[A-Z]")  # names of two words, words run together
COARSE = ("ass", "crap", "damn", "dumb", "fat", "hell", "kill", "sex", "stupid", "suck", "whore")


def members(archive):
    "The files of `FILES` out of the distribution."
    with tarfile.open(archive) as outer:
        name = next(n for n in outer.getnames() if n.endswith("hutto_ICWSM_2014.tar.gz"))
        inner = outer.extractfile(name).read()
    with tarfile.open(fileobj=io.BytesIO(inner)) as data:
        for name in FILES:
            found = next(n for n in data.getnames() if n.endswith(name))
            yield name, data.extractfile(found).read().decode("latin-1")


def sentences(text):
    "The third column, as plain text."
    for line in text.splitlines():
        *_, sentence = line.rstrip("\t").split("\t")
        yield html.unescape(sentence).replace("''", "").replace("`", "'").strip()


def opening(sentence, rng):
    "Its first words, or None."
    words, n = (sentence[:1].upper() + sentence[1:]).split(), rng.randint(3, 6)
    first = words[:n]
    if len(words) < 10: return None
    if not all(WORD.match(w) for w in first): return None
    text = " ".join(first)
    coarse = any(w.lower().startswith(c) for w in first for c in COARSE)
    return None if coarse or HARD.search(text) else text


def openings(archive):
    "All of the list."
    rng, found = random.Random(0), {}
    for name, text in members(archive):
        new = {}
        for sentence in sentences(text):
            said = opening(sentence, rng)
            if said and said.lower() not in found: new.setdefault(said.lower(), said)
        found |= {k: new[k] for k in rng.sample(sorted(new), FILES[name])}
    return sorted(found.values())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--check", action="store_true")
    args = parser.parse_args()
    text = "\n".join(openings(args.archive)) + "\n"
    if args.check: sys.exit(0 if OUT.read_text(encoding="utf-8") == text else f"{OUT} is another list")
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(text, encoding="utf-8")


if __name__ == "__main__": main()
