"""Writes the words of a planned review from the banks.

A review is a short sequence of parts: what the reader likes in general, what they were after, where they read, what
they look at, something from the book itself, a verdict. Which parts and in which order depends on the register.
"""

from __future__ import annotations

import random
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

from . import wording
from .model import Book, Motive, Passage, PlannedReview, WrittenReview

# One letter per part: b before, p preference, u purpose, c context, l life, f frame with a moment, r remark,
# q criteria, v verdict, a after.
SHORT = ("f", "r", "fv", "rv", "pf", "lf", "cf", "vf", "qf", "ur", "fa", "uf")
MEDIUM = (
    "lfv", "prq", "ufq", "cfv", "bfr", "frv", "pfv", "qrl", "ufr", "plr", "rqa", "fpv", "cfq", "lrf", "quf", "bcf",
    "pfq", "ulf", "cpf", "rlv", "fqa", "ucr", "bpr", "lqf",
)  # fmt: skip
LONG = (
    "bufrqv", "lfrqp", "plfrqa", "lfrpqv", "bpfrv", "ulfrq", "pcfqv", "ufprv", "bfrlqa", "qfrlv", "puflrv", "cfrqpv",
    "pufqv", "bulfqr", "fruqa", "lpfrfv",
)  # fmt: skip
LENGTHS_BY_REGISTER: Mapping[str, tuple[float, float, float]] = {
    "plain": (0.25, 0.5, 0.25),
    "terse": (0.85, 0.15, 0.0),
    "gushing": (0.2, 0.5, 0.3),
    "scholarly": (0.05, 0.4, 0.55),
    "grumpy": (0.3, 0.5, 0.2),
    "learner": (0.3, 0.5, 0.2),
    "chatty": (0.35, 0.45, 0.2),
}
# The same for reviews that complain: h what was hoped, f frame, r remark, p preference, v verdict, k concession.
COMPLAINTS = ("f", "r", "fv", "hf", "hr", "hfv", "hfr", "pf", "frv", "hrv", "pfv", "hpfv", "rv", "hfrv")
MIXED = ("kf", "kfv", "hkf", "fk", "hfk", "rk", "krv", "hfkv", "kfr", "pkf", "frk")

# A remark is a whole sentence and is noticed when it comes again, so each is used about this often per 250 readers.
REMARK_USES = 2.0

# A person has one occupation and one occasion: two of these in one review would contradict each other.
OCCUPATION = re.compile(
    r"\bAs an? [a-z]|\bI work |\bI teach|I have taught|\bI am a (?:translator|copy editor|poet)|retired|seventy-three"
    r"|[Mm]y (?:students|class|pupils)|second-year|university|college|thesis|on my lap|two under five|cleaning offices"
    r"|lunch breaks|nursing the baby|maternity|hospital|night shifts|school at sixteen|gift|present from|[Bb]irthday"
    r"|my English|learn English|My level|My teacher|[Bb]ook club|reading (?:group|circle)|discussion group"
)


class ReviewWriter:
    """Writes reviews one after another, keeping track of what has been said so as not to repeat it."""

    def __init__(
        self,
        chance: random.Random,
        motives: Mapping[str, Motive],
        lives: Mapping[str, Mapping[str, Sequence[str]]],
        registers: Mapping[str, Mapping[str, Sequence[str]]],
        noise: Mapping[str, Sequence[str]],
        reader_count: int,
    ) -> None:
        self.chance = chance
        self.chooser = wording.Chooser(chance)
        self.motives = motives
        self.lives = lives
        self.registers = registers
        self.noise = noise
        self.remark_limit = max(1.0, REMARK_USES * reader_count / 250)
        self.opening_limit = max(2, reader_count // 50)
        self._texts: set[str] = set()
        self._openings: Counter[str] = Counter()

    def write(self, plan: PlannedReview) -> WrittenReview:
        """Return the review in words, rewritten until neither its text nor its opening has been used too often."""
        if plan.one_off is not None:
            title, text = plan.one_off.title, plan.one_off.text
        else:
            text = self._fresh_text(plan)
            title = self._title(plan, text)
        self._texts.add(text)
        votes = 0 if self.chance.random() < 0.68 else int(self.chance.expovariate(0.28)) + 1
        verified = self.chance.random() < 0.82
        return WrittenReview(plan, title, text, votes, verified)

    def _fresh_text(self, plan: PlannedReview) -> str:
        for _ in range(200):
            text = self._text(plan)
            opening = opening_sentence(text)
            # Two words of praise may open many reviews, whole sentences may not.
            if (
                text not in self._texts
                and self._openings[opening] < self.opening_limit
                and len(OCCUPATION.findall(text)) < 2
            ):
                self._openings[opening] += 1
                return text
        raise RuntimeError(f"the banks are too small for another {plan.kind} review of {plan.book.title}")

    def _text(self, plan: PlannedReview) -> str:
        if plan.kind == "vague":
            sentences = self._vague(plan)
        elif plan.kind == "off_topic":
            label = "off_topic_pleased" if plan.rating >= 4 else "off_topic_annoyed"
            sentences = [self._noise_line(label) for _ in range(self.chance.choice((1, 1, 1, 2)))]
        elif plan.kind == "contradictory":
            sentences = self._contradictory(plan)
        elif plan.kind == "motive":
            sentences = self._appreciation(plan)
        else:
            sentences = self._complaint(plan)
        return self._in_manner(plan, sentences)

    def _vague(self, plan: PlannedReview) -> list[str]:
        label = "vague_warm" if plan.rating >= 4 else "vague_cool"
        return [self._noise_line(label) for _ in range(self.chance.choice((1, 2, 2, 3)))]

    def _noise_line(self, label: str) -> str:
        return self.chooser.expand(self.chooser.draw(label, list(self.noise[label])))

    def _contradictory(self, plan: PlannedReview) -> list[str]:
        praise = self.chance.choice(sorted(plan.book.appreciative))
        blame = self.chance.choice(sorted(plan.book.critical))
        parts = [
            self._frame(self.motives[praise], plan.book, plan.book.appreciative[praise]),
            self._frame(self.motives[blame], plan.book, plan.book.critical[blame]),
        ]
        self.chance.shuffle(parts)
        parts.insert(self.chance.choice((1, 2)), self._noise_line("contradictory_join"))
        return parts

    def _appreciation(self, plan: PlannedReview) -> list[str]:
        register = plan.reader.register
        lengths = LENGTHS_BY_REGISTER[register]
        layout = self.chance.choice(self.chance.choices((SHORT, MEDIUM, LONG), lengths)[0])
        if register in ("learner", "chatty", "gushing") and len(layout) > 1:
            # These manners show in what people add around the substance.
            if layout[0] != "b" and self.chance.random() < 0.4:
                layout = "b" + layout[:5]
            elif layout[-1] != "a" and self.chance.random() < 0.5:
                layout = layout[:5] + "a"
        assert plan.motive_id is not None
        return self._parts(plan, layout, self.motives[plan.motive_id], plan.book.appreciative[plan.motive_id])

    def _complaint(self, plan: PlannedReview) -> list[str]:
        assert plan.motive_id is not None
        layout = self.chance.choice(MIXED if plan.kind == "mixed" else COMPLAINTS)
        return self._parts(plan, layout, self.motives[plan.motive_id], plan.book.critical[plan.motive_id])

    def _parts(self, plan: PlannedReview, layout: str, motive: Motive, passage: Passage) -> list[str]:
        book, said = plan.book, []
        labels = {"p": "prefer", "u": "purpose", "c": "context", "q": "criteria", "v": "verdict", "h": "hope"}
        used: set[str] = set()
        for part in layout:
            if part == "f":
                said.append(self._frame(motive, book, passage, used))
            elif part == "r":
                said.append(self._remark(motive, book, passage, used))
            elif part == "k":
                praised = self.chance.choice(sorted(book.appreciative))
                line = self._noise_line("concession")
                said.append(self._fill(line, book, book.appreciative[praised], f"{book.asin} {praised}", set()))
            elif part == "l":
                line = self.chooser.draw(f"life {plan.reader.life}", list(self.lives[plan.reader.life]["sentences"]))
                said.append(self.chooser.expand(line))
            elif part in "ba":
                label = "before" if part == "b" else "after"
                bank = list(self.registers[plan.reader.register][label])
                line = self.chooser.expand(self.chooser.draw(f"{plan.reader.register} {label}", bank))
                said.append(self._name(line, book))
            else:
                bank = motive.sentences[labels[part]]
                line = self.chooser.expand(self.chooser.draw(f"{motive.motive_id} {part}", bank))
                said.append(self._name(line, book))
        return said

    def _frame(self, motive: Motive, book: Book, passage: Passage, used: set[str] | None = None) -> str:
        used = used if used is not None else set()
        unused = len(set(passage.moments) - used)
        if unused == 0:
            return ""
        line = self.chooser.draw(f"{motive.motive_id} frame", motive.sentences["frame"])
        while "{n}" in line and unused < 2:
            line = self.chooser.draw(f"{motive.motive_id} frame", motive.sentences["frame"])
        return self._fill(self.chooser.expand(line), book, passage, f"{book.asin} {motive.motive_id}", used)

    def _remark(self, motive: Motive, book: Book, passage: Passage, used: set[str]) -> str:
        bank_name = f"{book.asin} {motive.motive_id} remark"
        if not passage.remarks or self.chooser.times_used_up(bank_name, passage.remarks) >= self.remark_limit:
            return self._frame(motive, book, passage, used)
        return self._name(self.chooser.expand(self.chooser.draw(bank_name, passage.remarks)), book)

    def _fill(self, line: str, book: Book, passage: Passage, bank_name: str, used: set[str]) -> str:
        for slot in ("{m}", "{n}"):
            if slot not in line:
                continue
            moment = self.chooser.draw(f"{bank_name} moments", passage.moments)
            while moment in used:
                moment = self.chooser.draw(f"{bank_name} moments", passage.moments)
            used.add(moment)
            line = line.replace(slot, moment)
        return self._name(line, book)

    def _name(self, line: str, book: Book) -> str:
        named = line.replace("{title}", book.spoken_name).replace("{author}", book.surname)
        return wording.begin_with_capital(named.replace("{year}", book.first_published))

    def _in_manner(self, plan: PlannedReview, sentences: list[str]) -> str:
        reader, chance = plan.reader, self.chance
        if reader.register == "chatty":
            # These lines come without a stop, which only the last of them can do without.
            sentences = [sentence for sentence in sentences if sentence]
            sentences = [*(with_stop(sentence, chance) for sentence in sentences[:-1]), sentences[-1]]
        gap = "<br /><br />" if len(sentences) > 2 and chance.random() < 0.06 else " "
        text = gap.join(sentence.strip() for sentence in sentences if sentence.strip())
        if reader.american_spelling:
            text = wording.american_spelling(text, chance)
        if chance.random() < 0.12:
            text = re.sub(r"(?<=\w): ", " — ", text, count=1)
        if reader.register == "chatty" and plan.kind != "off_topic":
            text = wording.as_chatty(text, chance)
        elif reader.register == "learner":
            text = wording.as_learner(text, chance)
        elif reader.register == "gushing" and plan.rating >= 4:
            text = wording.as_gushing(text, chance)
        if reader.register not in ("scholarly", "chatty") and chance.random() < 0.06:
            text = wording.slip_of_the_finger(text, chance)
        return text.strip()

    def _title(self, plan: PlannedReview, text: str) -> str:
        year = datetime.fromtimestamp(plan.timestamp / 1000, tz=UTC).year
        if year < 2019 and self.chance.random() < (0.5 if plan.kind == "vague" else 0.08):
            # Before 2019 the shop filled in an empty title with the number of stars.
            return ("One Star", "Two Stars", "Three Stars", "Four Stars", "Five Stars")[int(plan.rating) - 1]
        if plan.kind == "vague":
            line = self._noise_line("title_warm" if plan.rating >= 4 else "title_cool")
        elif plan.kind == "off_topic":
            line = self._noise_line("title_pleased" if plan.rating >= 4 else "title_annoyed")
        elif plan.kind == "contradictory":
            line = self._noise_line("title_contradictory")
        else:
            line = self._motive_title(plan, text)
        if plan.reader.american_spelling:
            line = wording.american_spelling(line, self.chance)
        return line.lower() if plan.reader.register == "chatty" else line

    def _motive_title(self, plan: PlannedReview, text: str) -> str:
        assert plan.motive_id is not None
        motive = self.motives[plan.motive_id]
        planted = plan.book.appreciative if plan.kind == "motive" else plan.book.critical
        passage = planted[plan.motive_id]
        short = [moment for moment in passage.moments if len(moment) < 45 and moment.lower()[1:] not in text.lower()]
        draw = self.chance.random()
        if draw < 0.25 and short:
            return wording.begin_with_capital(self.chance.choice(short))
        if draw < 0.5:
            verdict = self.chooser.expand(self.chooser.draw(f"{motive.motive_id} v", motive.sentences["verdict"]))
            if verdict[:16].lower() not in text.lower():
                return self._name(verdict, plan.book).rstrip(".")
        return self.chooser.expand(self.chooser.draw(f"{motive.motive_id} title", motive.sentences["title"]))


def with_stop(sentence: str, chance: random.Random) -> str:
    """Close a sentence that ends in a bare word."""
    return sentence + chance.choice((".", "...", ".", " -")) if sentence.strip()[-1:].isalnum() else sentence


def opening_sentence(text: str) -> str:
    """Return a review's first sentence in small letters, the whole text where it has only one."""
    return re.split(r"(?<=[.!?])\s|<br />", text, maxsplit=1)[0].strip().lower()
