import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rlmrec.profiles.parse import AnswerError, Parsed, cut_words, parse
from rlmrec.profiles.template import DOMAINS, KINDS, load_template

GOOD = '{"summarization": "Fans of noir.", "reasoning": "It is dark."}'
FORM = '{"summarization": "which types of people would enjoy this item", "reasoning": "briefly, why"}'
TEXTS = ("Fans of noir.", "It is dark.")


@pytest.mark.parametrize(
    ("answer", "note"),
    [
        (GOOD, None),
        ("  \n" + GOOD + "\n", None),
        ("\ufeff" + GOOD, None),
        (f"```json\n{GOOD}\n```", "fences or text around the JSON"),
        (f"```\n{GOOD}", "fences or text around the JSON"),
        (f"Sure, here you are: {GOOD} Do you want more?", "fences or text around the JSON"),
        (f"As {{you}} asked: {GOOD}", "fences or text around the JSON"),
        (f'<think>A {{"summarization": "no"}}?</think>{GOOD}', "thoughts before the answer"),
        ("{'summarization': 'Fans of noir.', 'reasoning': 'It is dark.'}", "Python quotes instead of JSON's"),
        (GOOD.replace("summarization", "Summarization"), "key in another spelling"),
        (GOOD.replace("summarization", "summary"), "key in another spelling"),
        ('{"answer": ' + GOOD + "}", "fences or text around the JSON"),
        (GOOD.replace('"Fans of noir."', '["Fans", "of noir."]'), "list instead of a text"),
        (GOOD.replace("of noir", "of\nnoir"), None),
        (f"As {FORM} asks: {GOOD}", "fences or text around the JSON"),
        (f"{FORM}\n{GOOD}", "fences or text around the JSON"),
        (f"```json\n{FORM}\n``` so ```json\n{GOOD}\n```", "fences or text around the JSON"),
        (GOOD.replace("Fans", "Fools") + GOOD, "fences or text around the JSON"),
        (GOOD + ' for {"summarization": "…", "reasoning": "…"}', "fences or text around the JSON"),
        ("{a} " * 50 + GOOD, "fences or text around the JSON"),
        (GOOD.replace("noir", "no\ufffdir"), "bytes that were no UTF-8"),
    ],
)
def test_repairs(answer, note):
    parsed = parse(answer, 200)
    assert parsed[:2] == TEXTS
    assert parsed.notes == (() if note is None else (note,))


@pytest.mark.parametrize(
    ("answer", "told", "reason"),
    [
        (
            '{"summarization": "Fans of the "Dune" saga, "Emma" and more.", "reasoning": "It is "big"."}',
            'Fans of the "Dune" saga, "Emma" and more.',
            'It is "big".',
        ),
        (
            '{"summarization": "People who want a 12" tablet", "reasoning": "x"}',
            'People who want a 12" tablet',
            "x",
        ),
        (
            '{"summarization": ""Dune" readers who like sand.", "reasoning": "x"}',
            '"Dune" readers who like sand.',
            "x",
        ),
        ('{"reasoning": "a "b" c", "summarization": "Fans of "Dune""}', 'Fans of "Dune"', 'a "b" c'),
        (
            "{'summarization': 'Fans of 'Dune' who don't mind', 'reasoning': 'x'}",
            "Fans of 'Dune' who don't mind",
            "x",
        ),
        ('Sure: {"summarization": "Fans of "Dune".", "reasoning": "x"} There!', 'Fans of "Dune".', "x"),
        ('{"summarization": "Fans of ""Dune"" saga", "reasoning": "x"}', 'Fans of ""Dune"" saga', "x"),
        (
            '{"summarization": "Fans of \\"Dune\\" and "Emma"", "reasoning": "x"}',
            'Fans of "Dune" and "Emma"',
            "x",
        ),
        ('{"summarization": "Fans of {it} and "Emma"", "reasoning": "x"}', 'Fans of {it} and "Emma"', "x"),
    ],
)
def test_quotes_without_a_backslash_lose_nothing(answer, told, reason):
    assert parse(answer, 200) == Parsed(told, reason, ("quotes inside a text without a backslash",))


@pytest.mark.parametrize(
    ("answer", "kind"),
    [
        ('{"summarization": "Fans of the "', "truncated"),
        ('{"summarization": "Fans of the "Dune', "truncated"),
        ('{"summarization": "Fans of the "Dune" saga', "truncated"),
        ('{"summarization": "He said "a", "reasoning": "b", "reasoning": "x"}', "malformed"),
    ],
)
def test_quotes_whose_end_is_not_clear_are_asked_for_again(answer, kind):
    with pytest.raises(AnswerError) as caught:
        parse(answer, 200)
    assert caught.value.kind == kind


def test_of_a_key_that_is_there_twice_the_longer_text_counts():
    assert (
        parse('{"summarization": "Fans of noir.", "summarization": ""}', 200).summarization == "Fans of noir."
    )
    assert (
        parse('{"summarization": "Fans of noir.", "summary": "Fans"}', 200).summarization == "Fans of noir."
    )


def test_cut_off_after_the_summarization():
    parsed = parse('{"summarization": "Fans of \\"noir\\".", "reasoning": "It is', 200)
    assert parsed == Parsed('Fans of "noir".', None, ("JSON cut off after the summarization",))


@pytest.mark.parametrize(
    ("answer", "finish", "kind"),
    [
        ("", "stop", "empty"),
        ("  \n", "stop", "empty"),
        ("<think>I wonder", "length", "empty"),
        ("Fans of noir would like it.", "stop", "malformed"),
        ("[1, 2]", "stop", "malformed"),
        ('{"summarization": "Fans of', "stop", "truncated"),
        ("Fans of", "length", "truncated"),
        ('{"profile": "Fans of noir."}', "stop", "keys"),
        ('{"summarization": {"a": 1}}', "stop", "keys"),
        ('{"summarization": 7}', "stop", "keys"),
        ('{"summarization": "None", "reasoning": "No data."}', "stop", "none"),
        ('{"summarization": "none."}', "stop", "none"),
        ('{"summarization": null}', "stop", "none"),
        ('{"summarization": ""}', "stop", "none"),
        ('{"summarization": "None. I cannot tell from this."}', "stop", "none"),
        ('{"summarization": "None, there is no description."}', "stop", "none"),
        ('{"summarization": "N/A - nothing is known"}', "stop", "none"),
        (FORM, "stop", "form"),
    ],
)
def test_what_cannot_be_used(answer, finish, kind):
    with pytest.raises(AnswerError) as caught:
        parse(answer, 200, finish=finish)
    assert caught.value.kind == kind


def test_over_long_summarizations():
    slightly = " ".join(["One two three."] * 40)  # 120 words
    assert parse(json.dumps({"summarization": slightly}), 100).notes == ("over-long summarization cut",)
    far = json.dumps({"summarization": "word " * 3000})
    with pytest.raises(AnswerError, match="3000 words, at most 100"):
        parse(far, 100)
    assert len(parse(far, 100, last_try=True).summarization.split()) <= 101


def test_cutting_keeps_whole_sentences():
    assert cut_words("One two. Three four. Five six seven", 6) == "One two. Three four."
    assert cut_words("one two three four", 2) == "one two …"


@given(st.text(max_size=200), st.integers(1, 50))
def test_no_answer_breaks_it(text, words):
    for answer in (text, f'{{"summarization": {json.dumps(text)}', "{" * 50 + text):
        try:
            parsed = parse(answer, words, last_try=True)
        except AnswerError:
            continue
        assert parsed.summarization
        assert len(parsed.summarization.split()) <= words + 1


def test_hostile_sizes_take_no_time():
    for answer in ("{" * 100_000, '{"summarization": "' + "\\" * 100_001, "```" * 30_000, "[" * 100_000):
        with pytest.raises(AnswerError):
            parse(answer, 100)


@pytest.mark.parametrize("domain", DOMAINS)
@pytest.mark.parametrize("kind", KINDS)
def test_the_form_of_every_prompt_is_no_profile(domain, kind):
    system = load_template(kind, domain).system
    form = next(line for line in system.splitlines() if line.startswith('{"summarization"'))
    with pytest.raises(AnswerError) as caught:
        parse(f"You want {form}.", 200)
    assert caught.value.kind == "form"


@pytest.mark.parametrize(
    "told", ["None of the usual fans", "Nonetheless, fans of noir", "Which types of noir"]
)
def test_texts_that_only_begin_like_none_or_the_form(told):
    assert parse(json.dumps({"summarization": told}), 100).summarization == told


@pytest.mark.parametrize(
    "told", ["Fans of <think> and noir", "Fans </think> of noir", "<think>er fans</think>"]
)
def test_thoughts_are_not_looked_for_inside_the_json(told):
    assert parse(json.dumps({"summarization": told}), 100) == Parsed(told, None)


def test_scripts_without_spaces_are_bounded_too():
    far = json.dumps({"summarization": "喜欢科幻电影的观众。" * 300}, ensure_ascii=False)
    with pytest.raises(AnswerError, match="2700 words, at most 100"):
        parse(far, 100)
    cut = parse(far, 100, last_try=True).summarization
    assert cut == "喜欢科幻电影的观众。" * 11
    assert parse(json.dumps({"summarization": "喜欢科幻电影的观众。" * 9}), 100).notes == ()
    assert len(parse(json.dumps({"summarization": "ก" * 9000}), 100, last_try=True).summarization) < 2600
    assert len(parse(json.dumps({"summarization": "ファン" * 900}), 100, last_try=True).summarization) < 110
