"""Write `grounding-pairs.json`: answers that are or are not grounded in their source, by construction.

Grounded: the source's own sentence in another dress (case, punctuation, decomposition, line breaks, list
marks). Not grounded: its words in another order, its frame around other facts, another topic's sentence.
Run it by hand; the file it writes is what the tests read.
"""

import json
import random
import unicodedata
from pathlib import Path

SENTENCES = (
    "The pump was serviced in March and returned to full pressure after the second test.",
    "Invoice 4471 was paid on the third of May by bank transfer from the Lisbon office.",
    "Patients who took the higher dose reported fewer headaches but slept less in the first week.",
    "The café on Königstraße closes at 22:30 on weekdays and stays open late on Saturday.",
    "Version 3.14 of the parser rejects duplicate keys, while version 3.13 kept the last one.",
    "See https://example.org/docs/limits for the quota that applies to the free plan.",
    "The function os.path.join ignores every part before the last absolute one.",
    "Set retry_budget to five and max_wait_ms to two hundred before the rollout begins.",
    "Le rapport conclut que la température moyenne a augmenté de deux degrés depuis 1990.",
    "Мост закрыли на ремонт в июне, и движение перенесли на соседнюю улицу.",
    "The museum's east wing holds forty paintings that were restored between 2015 and 2019.",
    "Rainfall in the valley doubled in the last decade, and the river now floods every spring.",
    "The contract ends on 30 September unless either party gives ninety days' notice in writing.",
    "Three of the five engines failed inspection because of cracks near the fuel line.",
    "The committee voted seven to two to delay the vote on the harbour until after the audit.",
    "Copper prices fell four percent on Tuesday, and zinc followed on Wednesday morning.",
)
FACTS = (
    "quartz",
    "lighthouse",
    "seventeen",
    "violin",
    "monsoon",
    "turbine",
    "ledger",
    "orchard",
    "glacier",
    "beacon",
)


def grounded(sentence: str) -> dict[str, str]:
    """The same claim, dressed otherwise."""
    return {
        "upper": sentence.upper() if "://" not in sentence else sentence.replace("See", "SEE"),
        "list": "* " + sentence.replace(", ", ",\n  "),
        "quoted": "\u201c" + sentence.replace(" and ", " \u2014 and ").rstrip(".") + "!\u201d",
        "decomposed": unicodedata.normalize("NFD", sentence),
    }


def ungrounded(sentence: str, other: str, chance: random.Random) -> dict[str, str]:
    """The same words, or the same frame, for another claim."""
    words = sentence.rstrip(".").split()
    shuffled = words[:]
    while sum(a == b for a, b in zip(words, shuffled, strict=True)) > 1:
        chance.shuffle(shuffled)
    swapped = [w if n % 2 else chance.choice(FACTS) for n, w in enumerate(words)]
    return {"shuffled": " ".join(shuffled), "frame": " ".join(swapped), "topic": other}


def main() -> None:
    """Write the file."""
    chance = random.Random(3)
    rows = []
    for number, sentence in enumerate(SENTENCES):
        other = SENTENCES[(number + 5) % len(SENTENCES)]
        for kind, answer in grounded(sentence).items():
            rows.append({"kind": kind, "grounded": True, "answer": answer, "source": sentence})
        for kind, answer in ungrounded(sentence, other, chance).items():
            rows.append({"kind": kind, "grounded": False, "answer": answer, "source": sentence})
    path = Path(__file__).with_name("grounding-pairs.json")
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
