"""Texts per second of deduplication with datasketch, for the figures of similarity_bench.rs.

    pip install datasketch
    python3 datasketch_peer.py OUT.jsonl [TEXTS]

Keeps the first of similar texts, as `Index::insert_all` does: word triples, threshold 0.8, as many hash functions (27
bands of 4 rows), candidates confirmed on the whole sets. Runs on one core.
"""

import json
import re
import sys
import time

from datasketch import MinHash, MinHashLSH

WORD = re.compile(r"[^\W_]+")


def shingles(text):
    words = WORD.findall(text.lower().replace("'", "").replace("\u2019", ""))
    if len(words) < 3:
        return {" ".join(words)}
    return {" ".join(words[place : place + 3]) for place in range(len(words) - 2)}


def main():
    path = sys.argv[1]
    limit = int(sys.argv[2]) if len(sys.argv) > 2 else 20_000
    with open(path, encoding="utf-8") as lines:
        texts = [json.loads(line)["persona"] for _, line in zip(range(limit), lines)]
    begin = time.perf_counter()
    index = MinHashLSH(num_perm=108, params=(27, 4))
    kept = {}
    for number, text in enumerate(texts):
        these = shingles(text)
        signature = MinHash(num_perm=108)
        signature.update_batch([shingle.encode() for shingle in these])
        others = (kept[other] for other in index.query(signature))
        if not any(len(these & other) / len(these | other) >= 0.8 for other in others):
            index.insert(number, signature)
            kept[number] = these
    seconds = time.perf_counter() - begin
    print(f"datasketch: {len(texts)} texts, {len(texts) / seconds:.0f} texts/s, {len(kept)} kept")


main()
