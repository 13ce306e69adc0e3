"""Golden values of opencharacter-eval, from packages that nobody here wrote.

    pip install -r xtask/golden/eval_requirements.txt
    python3 xtask/golden/make_eval_golden.py

Writes opencharacter-eval/tests/data: ordinal Krippendorff's alpha (krippendorff), Bradley-Terry strengths (choix),
Porter stems (nltk, as rouge-score uses it), Rouge-L (rouge-score, with stemming), and what Python itself makes of the
texts that PersonaGym's reference code formats and reads. All texts are made up here, from a list of words, a seed and
some awkward pieces.
"""

import json
import random
import re
from pathlib import Path

import choix
import krippendorff
import numpy as np
from nltk.stem.porter import PorterStemmer
from rouge_score import rouge_scorer

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "opencharacter-eval" / "tests" / "data"

BASES = """act add adopt agree allow angry argue arrive baker beauty begin believe bless bounce brave bright build busy
carry change chase choose city clear clever colour comfort commit compose confess conflate connect consider convey
create cry curious dance dare decide defend depend desire develop die differ digital direct divide dream dye early
easy effect electric employ enjoy envy equal excel excite expect express fail faith fancy fast fear feed file final
fit fix flow fly folly force form free friend fuzz gentle gift glory good govern grace grand grateful great grief
grow happy harmony hate heal help hesitate holy honest hop hope horse house human hurry ideal idle imagine inform
inspire intense invent island jealous join journey joy judge just keep kind know labour lad lady large laugh lazy
learn leave legal lie light like live local logic lone lose love loyal luck marry master meet memory mercy merry
mild model modern moral motor move mystery name nation nature near need news noble note object obey observe odd
offer open operate opera order organ own pain paint part pass patient peace perfect permit person pity plan play
please plenty poet polite poor possible practise praise predict prefer press price pride prison promise proud prove
provide pure quarrel quick quiet radical rage rain rate rational read ready real reason receive regret relate rely
remember repeat reply report rescue resolve rest reveal revive rich ride ring rise roll root rude ruin run sad safe
sail save say scare sea secret see seem sense sensible serious serve settle severe shape share sharp shine ship short
sign silent simple sincere sing sky sleep slow small smile social soft solid sore speak spirit spread stable stand
start state steady storm story strange stray strong study succeed suffer suggest sunny support sure surprise swim
sympathy syzygy talk taste teach tear tell tender terrible thank think threat tie tidy time tire touch tough trade
travel treat trouble true trust try turn typical ugly unite use vale valid value vary view violent visit vivid voice
wait walk want warm waste watch water weak wealth weary weave weep wet whisper wicked wide wild will win wise wish
wonder work worry worth wound write yard yearn yell yield young zeal""".split()
SUFFIXES = ["", "s", "es", "ies", "ed", "ied", "eed", "ing", "ings", "y", "ly", "er", "ers", "est", "ness", "ful", "fully",
            "less", "ment", "ments", "ement", "ation", "ational", "tional", "ator", "ization", "izer", "ize", "izing",
            "alism", "ally", "al", "ality", "ive", "iveness", "ivity", "ous", "ously", "ousness", "fulness", "able",
            "ability", "ibly", "ible", "ance", "ence", "ent", "ently", "icate", "ical", "icity", "ion", "ism", "ate",
            "ology", "logy", "ll", "e", "ee", "ying", "ied's", "sses", "bli", "alli"]
SPECIAL = """sky skies dying lying tying news inning innings outing outings canning cannings howe proceed exceed succeed
a ab is was this yes yy yyy yyyy eye eyes aye 1 22 333 4444 1990s 2nd a1b2ed b4ying ies ied eed ing ed oed owed shoed
dies ties lies tied died feed agreed bled sing bed red spy fly flies enjoyed""".split()
AWKWARD = ["", " ", "!!!", "...", "naïve café", "Straße", "İstanbul", "K2", "ΣΊΣΥΦΟΣ", "3.14", "1,000,000", "don't",
           "it\u2019s", "state-of-the-art", "e\u0301te\u0301", "日本語", "emoji 🙂 here", "\t tab \n newline", "A.I.", "x_y",
           "ﬁne ligature", "\u00a0nbsp\u00a0", "0", "U.S.A."]


def krippendorff_cases():
    draw = random.Random(1)
    cases = []
    for number in range(80):
        items, raters = draw.randint(2, 25), draw.randint(2, 5)
        levels = draw.randint(2, 5)
        missing = draw.choice([0.0, 0.2, 0.6])
        noise = draw.choice([0, 1, 4])
        ratings = []
        for _ in range(items):
            truth = draw.randint(1, levels)
            row = [min(5, max(1, truth + draw.randint(-noise, noise))) for _ in range(raters)]
            ratings.append([None if draw.random() < missing else value for value in row])
        matrix = np.array([[np.nan if v is None else v for v in row] for row in ratings], dtype=float).T
        pairable = [v for row in ratings if sum(x is not None for x in row) > 1 for v in row if v is not None]
        if len(set(pairable)) > 1:
            alpha = float(krippendorff.alpha(reliability_data=matrix, level_of_measurement="ordinal"))
        else:
            alpha = None  # the package divides zero by zero, or refuses
        cases.append({"ratings": ratings, "alpha": alpha})
    return cases


def bradley_terry_cases():
    draw = random.Random(2)
    cases = []
    for _ in range(15):
        systems = draw.randint(2, 6)
        truth = [draw.gauss(0, 1) for _ in range(systems)]
        games = []
        for _ in range(draw.randint(5, 120)):
            first, second = draw.sample(range(systems), 2)
            chance = 1 / (1 + np.exp(truth[second] - truth[first]))
            credit = 0.5 if draw.random() < 0.2 else float(draw.random() < chance)
            games.append([first, second, credit])
        # A tie is half a win for each; doubled, every count is whole. `systems` is the imaginary one.
        wins = [(s, systems) for s in range(systems)] + [(systems, s) for s in range(systems)]
        for first, second, credit in games:
            wins += {1.0: [(first, second)] * 2, 0.0: [(second, first)] * 2, 0.5: [(first, second), (second, first)]}[credit]
        found = choix.opt_pairwise(systems + 1, wins, alpha=0.0, method="BFGS", tol=1e-12)[:systems]
        cases.append({"systems": systems, "games": games, "strengths": [float(x) for x in found - found.mean()]})
    return cases


def words():
    return sorted({base + suffix for base in BASES for suffix in SUFFIXES if "'" not in suffix} | set(SPECIAL))


def stems():
    draw = random.Random(3)
    stemmer = PorterStemmer()
    chosen = sorted(set(draw.sample(words(), 2500)) | set(SPECIAL))
    return {word: stemmer.stem(word) for word in chosen}


def sentence(draw, vocabulary):
    parts = []
    for _ in range(draw.choice([0, 1, 4, 6, 9, 12, 16, 20])):
        parts.append(draw.choice(AWKWARD) if draw.random() < 0.12 else draw.choice(vocabulary))
        if draw.random() < 0.15:
            parts[-1] = parts[-1].capitalize() + draw.choice([",", ".", "!", "?", ";", " \u2014"])
    return " ".join(parts)


def changed(draw, text, vocabulary):
    kept = []
    for word in text.split(" "):
        roll = draw.random()
        if roll < 0.15:
            continue
        kept.append(draw.choice(vocabulary) if roll < 0.3 else word)
    if draw.random() < 0.3:
        draw.shuffle(kept)
    return " ".join(kept)


def rouge_pairs():
    draw = random.Random(4)
    vocabulary = draw.sample(words(), 260)
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    rows = []
    while len(rows) < 500:
        prediction = sentence(draw, vocabulary)
        count = draw.choice([1, 1, 1, 2, 3])
        references = [changed(draw, prediction, vocabulary) if draw.random() < 0.85 else sentence(draw, vocabulary)
                      for _ in range(count)]
        scores = [scorer.score(reference, prediction)["rougeL"] for reference in references]
        best = max(score.fmeasure for score in scores)
        first = scores[0]
        rows.append({"prediction": prediction, "references": references, "rouge_l": best,
                     "first": [first.precision, first.recall, first.fmeasure]})
    return rows


PIECES = ["(1) Evaluation:", "(2) Evaluation: ", "(12) Evaluation:", "( 3) Evaluation:", "(a) Evaluation:", "Evaluation:",
          "(4)  Evaluation:", "(5) evaluation:", "Therefore, the final score is 4.", "Therefore, the final score is\n 3",
          "Therefore, the final score is **4**", "therefore, the final score is 2", "Therefore, the final score is: 5",
          "Therefore, the final score is 45", "Therefore, the final score is 0", "Therefore, the final score is high",
          "The answer is fine.", "\n", "\n\n", " ", "(", ")", "5"]


def paper_code():
    draw = random.Random(5)
    texts = AWKWARD + ["it's", 'say "x"', "both ' and \"", "a\\b", "\r\n", "\x00\x7f\x9f", "\u200b\u2028\u3000", "{persona}"]
    lists = []
    for _ in range(40):
        chosen = draw.choices(texts, k=draw.randint(0, 4))
        lists.append([chosen, repr(chosen)])
    replies = []
    for _ in range(200):
        reply = draw.choice(["", " "]).join(draw.choices(PIECES, k=draw.randint(0, 9)))
        found = re.findall(r"\(\d+\) Evaluation:(.*?)(?=\(\d+\) Evaluation:|$)", reply, re.DOTALL)
        found = [text.strip() for text in found]
        scores = [re.search(r"Therefore, the final score is\s*(\d+)", text) for text in found]
        replies.append([reply, found, [int(score.group(1)) if score else 0 for score in scores]])
    return {"lists": lists, "evaluations": replies}


def write(name, text):
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / name).write_text(text + "\n", encoding="utf-8")


def main():
    write("krippendorff.json", json.dumps(krippendorff_cases()))
    write("bradley_terry.json", json.dumps(bradley_terry_cases()))
    write("stems.json", json.dumps(stems(), indent=0))
    write("paper_code.json", json.dumps(paper_code()))
    write("rouge.jsonl", "\n".join(json.dumps(row, ensure_ascii=False) for row in rouge_pairs()))


if __name__ == "__main__":
    main()
