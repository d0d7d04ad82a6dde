import pytest

from persona4rec_pipeline.presentation import bar_chart, markdown_table, markdown_text


def test_no_text_breaks_a_table_or_becomes_markup():
    hostile = "<b>*_`[link](u)`</b>" + "w" * 500
    header, rule, first, second = markdown_table(["a", "b"], [["x|y\n| z", hostile], [None, "~~#!"]]).splitlines()
    assert (header, rule) == ("| a | b |", "|---|---|")
    assert first.startswith(r"| x\|y \| z | \<b\>\*\_\`\[link\](u)\`") and len(first) < 220
    assert second == r"|  | \~\~\#\! |"


def test_an_address_in_a_text_is_no_link():
    assert "https://" not in markdown_text("see https://example.org")


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("see www.example.org", "see www\u200b.example.org"),
        ("ann@example.org", "ann\u200b@example.org"),
        ("&lt;script&gt;", r"\&lt;script\&gt;"),
        ("![x](javascript:alert(1))", r"\!\[x\](javascript:alert(1))"),
        ("$E=mc^2$", r"\$E=mc^2\$"),
        ("\u202eevil\x1b[31m", r"evil\[31m"),
    ],
)
def test_a_hostile_name_is_shown_as_the_text_that_it_is(text, shown):
    assert markdown_text(text) == shown


def test_a_hostile_label_is_drawn_as_it_is():
    assert bar_chart([r"$\frac{1$", "<b>"], [1, 2], "Bars", "n").startswith("![Bars]")


def test_numbers_have_four_digits():
    assert markdown_table(["a"], [[0.123456]]).endswith("| 0.1235 |")


def test_a_chart_is_an_image_inside_markdown():
    chart = bar_chart(["a", "b"], [1, 2], "Bars", "n")
    assert chart.startswith("![Bars]") and ";base64," in chart
