"""Personal data is found however it is spelt, and what only looks like it is left alone."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from persona4rec_pipeline.generation import delimit
from persona4rec_pipeline.generation.scrub import PLACEHOLDERS, find_personal_data, publishable, scrub


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("Mail ann.b+books@mail.example.org, please", "Mail (e-mail), please"),
        ("name at example dot com", "(e-mail)"),
        ("john dot smith (at) mail dot co dot uk", "(e-mail)"),
        ("name (at) mail.com", "(e-mail)"),
        ("name [at] mail [dot] com", "(e-mail)"),
        ("name @ mail.com", "(e-mail)"),
        ("ｎａｍｅ＠ｅｘａｍｐｌｅ．ｃｏｍ", "(e-mail)"),
        ("na\u200bme@exam\u200bple.com!", "(e-mail)!"),
        ("@ann@social.example", "(e-mail)"),
    ],
)
def test_an_e_mail_address_is_scrubbed(text, scrubbed):
    assert scrub(text) == scrubbed


@pytest.mark.parametrize(
    "number",
    [
        *("+44 20 7946 0958", "0044 20 7946 0958", "(212) 555-0123", "212.555.0123", "2125550123", "020 7946 0958"),
        *("030 12345678", "01 42 68 53 00", "+1 (555) 010-9999", "2 1 2 5 5 5 0 1 2 3", "２１２－５５５－０１２３"),
        *("212\u2011555\u20110123", "٢١٢-٥٥٥-٠١٢٣"),
    ],
)
def test_a_phone_number_is_scrubbed(number):
    assert scrub(f"Ask {number} about it.") == "Ask (phone) about it."


def test_a_number_that_is_called_a_phone_number_is_believed():
    assert scrub("Call me on 555-0134 tonight") == "Call me on (phone) tonight"
    assert scrub("Part 555-0134 fits") == "Part 555-0134 fits"


@pytest.mark.parametrize(
    "number", ["4111 1111 1111 1111", "5500-0000-0000-0004", "378282246310005", "6 0 1 1 1 1 1 1 1 1 1 1 1 1 1 7"]
)
def test_a_card_number_is_scrubbed(number):
    assert scrub(f"Paid with {number}, fine.") == "Paid with (card number), fine."


def test_a_bank_account_and_what_is_called_a_card_are_scrubbed():
    assert scrub("to DE89 3704 0044 0532 0130 00.") == "to (card number)."
    assert scrub("my credit card 1234 5678 9012 3456") == "my credit card (card number)"


@pytest.mark.parametrize(
    "link",
    [
        *("https://evil.example/a?b=c", "hxxp://bad.example", "h t t p : / / bad.example", "www.foo.bar", "t.me/zephyr"),
        *("shop-now.example.com/deal", "zephyrmart.com", "ZEPHYRMART.COM", "zephyrmart dot com", "zephyrmart[.]com"),
        *("192.168.0.1:8080/x", "javascript:alert", "data:text/html;base64,PHNjcmlwdD4="),
        "ｗｗｗ．ｚｅｐｈｙｒ．ｃｏｍ",
    ],
)  # fmt: skip
def test_a_link_is_scrubbed(link):
    assert scrub(f"It is on {link} now.") == "It is on (link) now."


@pytest.mark.parametrize(
    "address",
    [
        *("12 Elm Street, Springfield, IL 62704", "221B Baker Street, London NW1 6XE", "742 evergreen terrace, springfield il 62704"),
        *("1600 N. Pine Ave, Apt 4", "Hauptstraße 12, 10115 Berlin", "12 rue de la Paix, 75002 Paris", "P.O. Box 123"),
        "Calle Mayor 12, Madrid",
    ],
)  # fmt: skip
def test_a_street_address_is_scrubbed(address):
    assert scrub(f"Send to {address}.") == "Send to (address)."


def test_a_street_is_an_address_only_with_a_town_or_somebody_living_there():
    assert scrub("I live at 12 Elm Street by the park") == "I live at (address) by the park"
    films = "The makers of 21 Jump Street and 10 Cloverfield Lane; 84 Charing Cross Road is better."
    assert scrub(films) == films


@pytest.mark.parametrize(
    ("text", "scrubbed"),
    [
        ("follow @zephyr_deals!", "follow (handle)!"),
        ("Instagram: zephyr.deals", "Instagram: (handle)"),
        ("telegram = @zephyr", "telegram = (handle)"),
    ],
)
def test_a_handle_is_scrubbed(text, scrubbed):
    assert scrub(text) == scrubbed


@pytest.mark.parametrize(
    "text",
    [
        "In 1999-2004 I gave it 10/10, 2 for 1, $1,299.99 and 3.5 stars, aged 12",
        "ISBN 978-0-14-143951-8, 0-14-143951-3 and 0141439513",
        "SM57, Model 212-555, MXR M-102, 2019-2020, 1999 2000 2001",
        "dinner @ home, @home and @work",
        "the dot com bubble, and a dot com millionaire",
        "bought it on Amazon.com and at Guitar Center",
        "great sound.It is fine.to be honest.in a way.Top",
        "gauges .010 .013 .017 .026 .036 .046 and 10-13-17-26-36-46",
        "1 2 3 4 5 6 7 8 9 10 and 100 200 300 400",
        "on 2014-06-01 12:30 and 01.02.2014 12.30",
        "3.14159265358 and 100,000,000 and $1 000 000 000",
        "he/she and/or 24/7 9/11 U.S.A. i.e. e.g. a.m. to p.m.",
        "48kHz/24-bit 44.1 96.000 20-20,000 Hz 110-240 V version 1.2.3.4",
        "look at the dot on the i; what a place, way to go 3 times",
        "素晴らしい本。大好き。10点",
    ],
)
def test_numbers_prices_years_and_words_are_left_alone(text):
    assert find_personal_data(text) == [] and scrub(text) == text


# What the rules care about, far more often than chance would bring it.
PIECES = (
    *(
        "@",
        ".",
        "dot",
        " at ",
        "(at)",
        "://",
        "http",
        "www.",
        "com",
        "/",
        "+",
        "-",
        "0",
        "5",
        " ",
        "\u200b",
        "９",
        "．",
    ),
    *("555", "4111", "2125550123", "name", "Street", "12 ", "Elm ", ", Berlin ", "10115", "call ", "card ", "ig:"),
    *("(link)", "(e-mail)", "(phone)", "<b>", "[x](", ")", "&lt;", "**", "<", ">", "&amp;"),
)
tricky_text = st.lists(st.one_of(st.text(max_size=5), st.sampled_from(PIECES)), max_size=25).map("".join)


@given(tricky_text)
def test_scrubbing_twice_changes_nothing_more(text):
    once = scrub(text)
    assert scrub(once) == once and find_personal_data(once) == []


@given(tricky_text)
def test_finds_are_in_order_apart_and_inside_the_text(text):
    end_of_last = 0
    for kind, start, end in find_personal_data(text):
        assert kind in PLACEHOLDERS and end_of_last <= start < end <= len(text)
        end_of_last = end


@given(tricky_text, st.integers(1, 80))
def test_what_goes_into_a_prompt_is_scrubbed_and_stays_so(text, limit):
    clean = delimit(text, limit)
    assert delimit(clean, limit) == clean and find_personal_data(clean) == [] and len(clean) <= limit


@given(tricky_text)
def test_what_is_published_has_no_markup_no_personal_data_and_no_hidden_character(text):
    shown = publishable(text)
    assert publishable(shown) == shown and find_personal_data(shown) == []
    assert not set("<>[]{}`") & set(shown) and not any(ord(character) < 32 for character in shown)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("A <b>fine</b> book<script>alert(1)</script>", "A fine book"),
        ("&amp;lt;script&amp;gt;alert(1)&amp;lt;/script&amp;gt; Fine", "Fine"),
        ("![x](https://evil.example/p.png) Fine", "x Fine"),
        ("Fine [deal](https://evil.example)", "Fine deal"),
        ("So **very** _fine_ and a*b snake_case", "So very fine and a*b snake_case"),
        ("Fine<!-- ignore all --> <img src=x onerror=alert(1)>text", "Fine text"),
        ("Tom & Jerry's “best” — 5 < 6, C# and I <3 it", "Tom & Jerry's “best” — 5 ‹ 6, C# and I ‹3 it"),
        ("\u202eevil\u202c \U000e0041fine\x1b[31m", "evil fine(31m"),
    ],
)
def test_published_text_is_plain(text, shown):
    assert publishable(text) == shown
