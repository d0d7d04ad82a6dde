"""Our reading of what the original authors released: polarity of personas, recorded verdicts, reasons that state nothing.

    python -m benchmarks.released_outputs FOLDER [--show]

FOLDER holds `amazon/` and `yelp/` with the authors' own files (3_personas, 4_selected_personas, 1_aspects, 2.5_grouped and
3.5_history, each .jsonl.gz). The labels below were written by hand from the whole text of each persona or verdict, before
the function was run on it; they are keyed by item and persona, and no text of the data stands here.

FIRST was drawn before `stated_polarity` was written: all of Yelp by hash, Amazon half by hash and half, also by hash, of the
personas with any negative word, as too few would be critical otherwise. READ was read while it was written. FRESH was
drawn and labelled after it was finished, and no rule was changed since.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from persona4rec_pipeline.alignment.verdicts import VerdictOption, read_verdict
from persona4rec_pipeline.personas.polarity import stated_polarity
from persona4rec_pipeline.personas.stated import what_is_stated

DATASETS = ("amazon", "yelp")
ASPECT_FILES = ("1_aspects", "2.5_grouped", "3.5_history")
MAX_PERSONAS = 7
# How silence is told, written apart from the rules that are measured: what still holds it was kept wrongly, what is removed
# whole without it was perhaps removed wrongly.
_SILENCE = re.compile(
    r"\b(?:not|n't|no|cannot|unable|without|unclear|null|unspecified|unknown)\b.{0,40}?\b(?:stat(?:e|ed|ing)|specif\w+|mention\w*|provid\w+|"
    r"explicit\w*|determin\w+|inferred|evidence|information|details?|express|indicat(?:e|ed))\b|^\W*(?:null|none|n/a)?\W*$",
    re.IGNORECASE,
)

Labels = Mapping[tuple[str, str], str]

# (dataset, polarity) -> item/persona ...
FIRST: Labels = {
    ("amazon", "appreciative"): """
        0062250167/P6 0008403643/P5 0008314713/P3 0061233005/P2 0062267531/P1 0008407045/P4 0062275127/P1
        0007554850/P3 0060837020/P2
    """,
    ("amazon", "critical"): """
        000844496X/P5 0062060007/P2 0060887184/P3 0060937750/P5 0062310631/P5 0062310674/P4 000852386X/P4
    """,
    ("amazon", "mixed"): """
        0060850523/P2 0062280589/P5 0008523819/P6 0062059971/P2
    """,
    ("yelp", "appreciative"): """
        gQCKrqkalAc--4cuW_C_Ow/P1 IP_E4SHLClorhNg4o5bw9Q/P2 7M4acncueqDznH9AwgPjeg/P3 L-43PIGGgYV6BoK-GaW4Vw/P5
        uQJNNTRWTj1SYtapTL0y_A/P5 gQCKrqkalAc--4cuW_C_Ow/P5 -0TffRSXXIlBYVbb5AwfTg/P1 xMR0IwVAbJzRt9TSlQoHRg/P6
        WMkiheTT-8kRslImVLWMVw/P1 dzNHPZmXHFc6_6BZQVYAeA/P7 FIFi_8eNmc-jPHZVHPS3NQ/P5 4R2KR_-FybS7oegGrXjHVg/P2
        bMMf5bjTAT8LrwhE84ZuNw/P7 lRznUOtLYY2GP_dvc7kmYQ/P2 FJl6LCHbqiM9mvSwDjFAjw/P4 lRznUOtLYY2GP_dvc7kmYQ/P5
        FIFi_8eNmc-jPHZVHPS3NQ/P3 bK0j7YtVyN98UnM_8fUONg/P5 KxccJ1WW9J-I7TxHQazA_Q/P2 xQE1fuwKCXJEBcJgSSCNbw/P1
        7M4acncueqDznH9AwgPjeg/P6 7M4acncueqDznH9AwgPjeg/P1 uVri4t3oyA7gqbX5q7_0LA/P2
    """,
    ("yelp", "critical"): """
        CUIPL9NOTvrMTmO2tYeiBw/P5 QrIV69RPS4LTpIwPoL22_w/P4 bMMf5bjTAT8LrwhE84ZuNw/P3 xM-HnG-yurTNI38ui0Akzw/P1
        bMMf5bjTAT8LrwhE84ZuNw/P5 bKaBjDbtwQh_T-3ZpKJxRQ/P7 uVri4t3oyA7gqbX5q7_0LA/P7 dzNHPZmXHFc6_6BZQVYAeA/P6
        4SQ5uczVt66-GGGeNQRfEA/P3 4SQ5uczVt66-GGGeNQRfEA/P7 xM-HnG-yurTNI38ui0Akzw/P4
    """,
    ("yelp", "mixed"): """
        lPOS2nfG4TuOFQmBEOiNwQ/P5 L0cREFNSrDZbozJYWwn5_A/P5 WMkiheTT-8kRslImVLWMVw/P3 lPOS2nfG4TuOFQmBEOiNwQ/P1
        WHzeDa97M_eU1FEZaLJ_tw/P1 r5yb5JfWV4TryNZlMBHPng/P6
    """,
}
READ: Labels = {
    ("amazon", "appreciative"): """
        0062267531/P3 0062292072/P6 0008390800/P5 0008407045/P6 000852386X/P2 0062060007/P3 006231064X/P5
        0008525315/P1 0062310674/P7
    """,
    ("amazon", "critical"): """
        0008390800/P4 0062310674/P5 0060899220/P4
    """,
    ("amazon", "mixed"): """
        0008486921/P6 0062292072/P7 0008525315/P3
    """,
    ("yelp", "appreciative"): """
        lQTdARrqdKMAcDp1PWpQ9A/P2 xMR0IwVAbJzRt9TSlQoHRg/P2 Tk9KD_DDpcMeceID_VrutQ/P5 4R2KR_-FybS7oegGrXjHVg/P1
        dwh4dy4zyrf-NTqaCYjH6A/P3 dwh4dy4zyrf-NTqaCYjH6A/P4 WGfnSTCWAzk1xqtkJVB7RA/P7 CVJsqDS_XmI0CGbLC1EclQ/P2
        dzNHPZmXHFc6_6BZQVYAeA/P3 L-43PIGGgYV6BoK-GaW4Vw/P2 FHNIvNgh3fS7VZQq2Y3dsA/P5 bK0j7YtVyN98UnM_8fUONg/P2
    """,
    ("yelp", "critical"): """
        Tk9KD_DDpcMeceID_VrutQ/P4 xQE1fuwKCXJEBcJgSSCNbw/P6 uVri4t3oyA7gqbX5q7_0LA/P3 IP_E4SHLClorhNg4o5bw9Q/P3
        Tk9KD_DDpcMeceID_VrutQ/P3 FIFi_8eNmc-jPHZVHPS3NQ/P2 7NwFNLC0SwX1SwQYlfF5yw/P6
    """,
    ("yelp", "mixed"): """
        Tozj3jTcnclmQKlNViY7SA/P1 WMkiheTT-8kRslImVLWMVw/P2 r5yb5JfWV4TryNZlMBHPng/P5 IP_E4SHLClorhNg4o5bw9Q/P5
        uQJNNTRWTj1SYtapTL0y_A/P2 QrIV69RPS4LTpIwPoL22_w/P1
    """,
}
FRESH: Labels = {
    ("amazon", "appreciative"): """
        0008403643/P2 0060837020/P3 0008390800/P1 0062292072/P3 0008496757/P4 0008368090/P1 0008462097/P2
        006231064X/P4 0062073559/P3 0060837020/P1 0062073583/P2
    """,
    ("amazon", "critical"): """
        0060853980/P5
    """,
    ("amazon", "mixed"): """
        0008368090/P5 0008525315/P2 0008407045/P7
    """,
    ("yelp", "appreciative"): """
        1TMkNxmaJuMCZh1osxizPA/P7 ILvJAuSP0sYWJKAQ-Goh4Q/P5 Qt_gJJ0BmFB1lwfp1XS-sw/P5 4R2KR_-FybS7oegGrXjHVg/P7
        WGfnSTCWAzk1xqtkJVB7RA/P4 ILvJAuSP0sYWJKAQ-Goh4Q/P7 r3X75SK37buS94mDls3q_Q/P4 xQE1fuwKCXJEBcJgSSCNbw/P4
        1TMkNxmaJuMCZh1osxizPA/P1 dwh4dy4zyrf-NTqaCYjH6A/P5 -2-ih3mE8KPyeKVIzpBfPQ/P1 r5yb5JfWV4TryNZlMBHPng/P3
        Tk9KD_DDpcMeceID_VrutQ/P1 -0TffRSXXIlBYVbb5AwfTg/P4
    """,
    ("yelp", "critical"): """
        lPOS2nfG4TuOFQmBEOiNwQ/P7 xM-HnG-yurTNI38ui0Akzw/P3 CVJsqDS_XmI0CGbLC1EclQ/P4 WHzeDa97M_eU1FEZaLJ_tw/P4
        QrIV69RPS4LTpIwPoL22_w/P2 bK0j7YtVyN98UnM_8fUONg/P7 WGfnSTCWAzk1xqtkJVB7RA/P5
    """,
    ("yelp", "mixed"): """
        lPOS2nfG4TuOFQmBEOiNwQ/P2 4SQ5uczVt66-GGGeNQRfEA/P4 r7PzCQmfs2jq-VmZjUwKjg/P3 WGfnSTCWAzk1xqtkJVB7RA/P3
    """,
}

# The persona number that each recorded verdict names, in the order of the rows.
VERDICTS = {
    "amazon": "23637331347311344713523654352211431272136312151212",
    "yelp": "31671223451713553351233262121267371441512222333126",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument(
        "--show", action="store_true", help="Print every text that is judged otherwise, removed or cut."
    )
    given = parser.parse_args()
    measure_polarity(given.folder, given.show)
    measure_verdicts(given.folder)
    measure_cleaning(given.folder, given.show)


def measure_polarity(folder: Path, show: bool) -> None:
    """Critical personas against the labels, and their share of all personas."""
    told: dict[tuple[str, str], str] = {}
    print("polarity (critical against hand labels)")
    for dataset in DATASETS:
        for row in rows(folder, dataset, "3_personas"):
            for persona in row["personas"]:
                text = persona["Name"], persona["Description"], persona["Preference_Rationale"]
                told[dataset, f"{row['item_id']}/{persona['ID']}"] = stated_polarity(*text)
    for name, labels in (("60 first", FIRST), ("40 read while writing", READ), ("40 fresh", FRESH)):
        truth = {(dataset, key): polarity for (dataset, polarity), keys in labels.items() for key in keys.split()}
        report_critical(name, truth, told)
        for dataset in DATASETS:
            report_critical(f"  {dataset}", {key: label for key, label in truth.items() if key[0] == dataset}, told)
        for key, label in truth.items():
            if show and (label == "critical") != (told[key] == "critical"):
                print(f"      {'/'.join(key)}: {label}, told as {told[key]}")
    for dataset in DATASETS:
        counts = Counter(polarity for key, polarity in told.items() if key[0] == dataset)
        total = sum(counts.values())
        print(f"  all {total} of {dataset}:", ", ".join(f"{name} {n / total:.1%}" for name, n in counts.most_common()))


def report_critical(name: str, truth: Mapping[tuple[str, str], str], told: Mapping[tuple[str, str], str]) -> None:
    found = {key for key in truth if told[key] == "critical"}
    critical = {key for key, label in truth.items() if label == "critical"}
    same = sum(told[key] == label for key, label in truth.items())
    precision = len(found & critical) / len(found) if found else float("nan")
    recall = len(found & critical) / len(critical) if critical else float("nan")
    print(
        f"  {name}: {len(truth)} personas, {len(critical)} critical, {len(found)} found; precision {precision:.2f}, "
        f"recall {recall:.2f}; all three polarities right {same / len(truth):.2f}"
    )


def measure_verdicts(folder: Path) -> None:
    """Recorded answers read rightly, as they are and with only the number or only the id left in the statement."""
    print("verdicts")
    for dataset in DATASETS:
        counts = Counter[str]()
        for row, label in zip(rows(folder, dataset, "4_selected_personas"), VERDICTS[dataset], strict=True):
            item, answer = row["target_item_id"], row["selection_reasoning"]
            options = [VerdictOption(f"{item}_P{number}") for number in range(1, MAX_PERSONAS + 1)]
            wanted = int(label) - 1
            counts["stored wrongly by the authors"] += row["selected_persona_id"] != f"P{label}"
            counts["read rightly"] += read_verdict(answer, options) == wanted
            number_only = answer.replace(f"{item}_P{label}", "")
            counts["with the number alone"] += read_verdict(number_only, options) == wanted
            id_only = re.sub(rf"\d+\.\s+(?={re.escape(item)})", "", answer)
            counts["with the id alone"] += read_verdict(id_only, options) == wanted
            by_number = [VerdictOption(f"P{number}") for number in range(1, MAX_PERSONAS + 1)]
            counts["with options called P1 to P7"] += read_verdict(answer, by_number) == wanted
            unstated = re.sub(r"[*\s]*Selection:.*$", "", answer, flags=re.DOTALL)
            counts["read although the statement was cut off (must be 0)"] += read_verdict(unstated, options) is not None
        print(f"  {dataset} (of {len(VERDICTS[dataset])}):", ", ".join(f"{what} {n}" for what, n in counts.items()))


def measure_cleaning(folder: Path, show: bool) -> None:
    """Slots and their reasons over all aspects: removed whole, cut to what they state, and left as they are."""
    print("cleaning of slots and reasons (distinct texts, occurrences)")
    for kind in ("values", "reasons"):
        texts = Counter(
            text
            for dataset in DATASETS
            for file in ASPECT_FILES
            for row in rows(folder, dataset, file)
            for name, text in slots(row)
            if name.endswith("_reason") == (kind == "reasons") and isinstance(text, str)
        )
        outcomes: dict[str, dict[str, str | None]] = {"removed": {}, "cut": {}, "left": {}}
        for text in texts:
            stated = what_is_stated(text)
            is_whole = stated is not None and stated.strip(" .,;") == " ".join(text.split()).strip(" .,;")
            outcomes["removed" if stated is None else "left" if is_whole else "cut"][text] = stated
        print(f"  {kind}:", ", ".join(f"{name} {tally(found, texts)}" for name, found in outcomes.items()))
        doubtful = [text for text in outcomes["removed"] if not _SILENCE.search(text)]
        remaining = [
            text for name in ("cut", "left") for text, stated in outcomes[name].items() if _SILENCE.search(stated or "")
        ]
        print(f"    removed without a word of silence: {tally(doubtful, texts)}")
        print(f"    kept with such a word, to be read by eye (--show): {tally(remaining, texts)}")
        for name in ("removed", "cut") if show else ():
            for text, stated in outcomes[name].items():
                print(f"      {name}: {text}" + (f" => {stated}" if stated else ""))
        for text in remaining if show else ():
            print(f"      kept: {text}")


def tally(found: Any, texts: Counter[str]) -> str:
    return f"{len(found)} ({sum(texts[text] for text in found)})"


def slots(content: Any) -> Iterator[tuple[str, Any]]:
    """Every slot and reason of every review in a row, wherever it is nested."""
    if isinstance(content, list):
        for entry in content:
            yield from slots(entry)
    elif isinstance(content, dict):
        for name, entry in content.items():
            if name in ("extracted", "extracted_aspects"):
                yield from entry.items()
            else:
                yield from slots(entry)


def rows(folder: Path, dataset: str, file: str) -> list[dict[str, Any]]:
    with gzip.open(folder / dataset / f"{file}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


if __name__ == "__main__":
    main()
