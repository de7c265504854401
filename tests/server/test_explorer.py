"""The explorer page in a browser."""

import json
import re
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
from served import HOSTILE, ODD_IDS, made_service, made_workspace, serving

PROBLEMS = """() => {
  const width = document.documentElement.clientWidth, found = [];
  if (document.documentElement.scrollWidth > width) found.push('the page scrolls sideways');
  for (const element of document.querySelectorAll('body *:not(.skip)')) {
    const box = element.getBoundingClientRect();
    if (box.width && (box.right > width + 1 || box.left < -1))
      found.push(element.tagName + ' leaves the page: ' + element.textContent.trim().slice(0, 40));
  }
  for (const control of document.querySelectorAll('input, textarea'))
    if (!control.labels.length) found.push(control.id + ' has no label');
  for (const button of document.querySelectorAll('button'))
    if (!(button.getAttribute('aria-label') || button.textContent).trim()) found.push('a button without a name');
  return found;
}"""
# The lowest contrast of any text with what is behind it.
CONTRAST = """() => {
  const light = colour => {
    const [r, g, b] = colour.match(/[\\d.]+/g).map(Number).map(v => v / 255)
      .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const clear = 'rgba(0, 0, 0, 0)';
  const behind = element => {
    while (element && getComputedStyle(element).backgroundColor === clear) element = element.parentElement;
    return light(getComputedStyle(element).backgroundColor);
  };
  const ratios = [...document.querySelectorAll('body *')]
    .filter(element => element.getClientRects().length)
    .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.data.trim()))
    .map(element => {
      const [a, b] = [light(getComputedStyle(element).color), behind(element)];
      return (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    });
  return {paper: light(getComputedStyle(document.body).backgroundColor), lowest: Math.min(...ratios)};
}"""


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(made_service(made_workspace(tmp_path_factory.mktemp("explorer") / "w"))) as url:
        yield url


@pytest.fixture
def opened(browser, address):
    """Opens the page; afterwards it must have asked nobody else and have complained of nothing."""
    contexts, told, asked = [], [], []

    def open_page(path="/", width=1400, scheme="light"):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=scheme)
        contexts.append(context)
        view = context.new_page()
        view.on("console", lambda message: told.append(message.text))
        view.on("pageerror", lambda error: told.append(str(error)))
        view.on("request", lambda request: asked.append(request.url))
        view.goto(address + path)
        return view

    yield open_page
    hacked = [page.evaluate("window.hacked") for context in contexts for page in context.pages]
    for context in contexts:
        context.close()
    assert told == []
    assert hacked == [None] * len(contexts)
    assert [url for url in asked if not url.startswith(address)] == []


def choose_by_keyboard(view, query="u7"):
    """Type, take the first that is offered, all without a mouse."""
    field = view.get_by_role("combobox", name="Id or part of their description")
    field.focus()
    field.fill(query)
    view.get_by_role("option").first.wait_for()
    view.keyboard.press("ArrowDown")
    assert field.get_attribute("aria-activedescendant") == "option-0"
    view.keyboard.press("Enter")
    view.locator("#aligned li").first.wait_for()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1400])
def test_everything_open_fits_and_can_be_read(opened, width, scheme):
    view = opened(width=width, scheme=scheme)
    choose_by_keyboard(view)
    view.locator("summary").click()
    view.get_by_role("button", name=re.compile("^Why")).first.click()
    view.get_by_role("button", name=re.compile("^Items similar")).nth(1).click()
    view.locator("#aligned .panel ul").nth(1).wait_for()
    view.get_by_label("Describe your taste").fill("detectives")
    view.get_by_role("button", name="Recommend").click()
    view.get_by_label("Its description").fill("travel")
    view.get_by_role("button", name="Find likely users").click()
    view.locator("#taste-answer li").first.wait_for()
    view.locator("#item-answer li").first.wait_for()
    assert view.evaluate(PROBLEMS) == []
    contrast = view.evaluate(CONTRAST)
    assert (contrast["paper"] < 0.2) == (scheme == "dark")
    assert contrast["lowest"] >= 4.5  # WCAG AA
    side_by_side = view.evaluate(
        "document.getElementById('base').getBoundingClientRect().top === "
        "document.getElementById('aligned').getBoundingClientRect().top"
    )
    assert side_by_side == (width == 1400)


def test_type_ahead_by_keyboard(opened):
    view = opened()
    field = view.get_by_role("combobox")
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to content"
    view.keyboard.press("Tab")
    view.keyboard.press("Tab")
    view.keyboard.type("u5")
    view.get_by_role("option").first.wait_for()
    assert [text.split()[0] for text in view.get_by_role("option").all_inner_texts()] == [
        "u5", *(f"u{row}" for row in range(50, 59)),
    ]  # fmt: skip
    assert field.get_attribute("aria-expanded") == "true"
    view.keyboard.press("ArrowUp")  # from the end
    assert field.get_attribute("aria-activedescendant") == "option-9"
    view.keyboard.press("ArrowDown")
    assert view.locator("[aria-selected=true]").inner_text().startswith("u5 ")
    view.keyboard.press("Escape")
    assert field.get_attribute("aria-expanded") == "false"
    assert view.get_by_role("option").count() == 0
    field.fill("nobody at all")
    view.get_by_text("No user found.").wait_for()


def test_a_user_with_history_lists_and_reasons(opened, address):
    view = opened()
    choose_by_keyboard(view)
    expected = view.evaluate("fetch('v1/users/u7/comparison?k=20').then(answer => answer.json())")
    assert view.locator("#aligned .name").all_inner_texts() == [item["title"] for item in expected["aligned"]]
    assert view.locator("#base .name").all_inner_texts() == [item["title"] for item in expected["base"]]
    moves = view.locator("#aligned .move").all_inner_texts()
    for item, move in zip(expected["aligned"], moves, strict=True):
        same = item["rank"] == item["base_rank"]
        assert move == "same place" if same else move.endswith(f"was {item['base_rank']}")
    assert view.evaluate("document.activeElement.id") == "user-title", "a screen reader begins to read here"
    assert "Likes cookery." in view.locator("#profile").inner_text()
    view.locator("summary").click()
    assert view.locator("#reasoning").inner_text() == "All they read is about food."
    why = view.get_by_role("button", name=re.compile("^Why")).first
    why.focus()
    view.keyboard.press("Enter")
    panel = view.locator("#aligned .panel").first
    panel.locator("ul").wait_for()
    title = expected["aligned"][0]["title"]
    assert panel.inner_text().startswith(f"{title} is recommended because of cookery")
    assert why.get_attribute("aria-expanded") == "true"
    view.keyboard.press("Enter")
    assert not panel.is_visible()
    assert view.url == f"{address}/#user=u7"


def test_a_hostile_title_shows_as_text(opened):
    view = opened("/#user=u12")
    view.locator("#aligned li").first.wait_for()
    shown = view.locator("#user").inner_text()
    assert shown.count(f"cookery {HOSTILE}") >= 1, "item 3 is in the history or in a list"
    assert f"cookery critic {HOSTILE}" in view.locator("#user-title").inner_text()
    assert view.locator("main script, main img").count() == 0


def test_ids_beyond_what_a_number_holds_in_javascript(browser, tmp_path):
    """2**53 + 1 is the first integer that JavaScript cannot hold; asked for as 2**53 it would be another's."""
    first = 2**53 + 1
    with serving(made_service(made_workspace(tmp_path / "w", first))) as url:
        view = browser.new_page()
        asked = []
        view.on("request", lambda request: asked.append(request.url))
        view.goto(url)
        field = view.get_by_role("combobox")
        field.fill(str(first + 6))
        view.get_by_role("option").first.wait_for()
        field.press("Enter")
        view.locator("#aligned li").first.wait_for()
        assert f"{url}/v1/users/{first + 6}/profile" in asked
        assert view.locator("#user-title").inner_text().startswith(f"User {first + 6} · ")
        view.get_by_role("button", name=re.compile("^Why")).first.click()
        view.get_by_role("button", name=re.compile("^Items similar")).first.click()
        view.locator("#aligned .panel ul").nth(1).wait_for()
        asking = f"fetch('v1/users/{first + 6}/comparison?k=1').then(answer => answer.text())"
        best = view.evaluate(asking)
        item = json.loads(best)["aligned"][0]["id"]
        assert f"{url}/v1/explanations?user={first + 6}&item={item}&k=5" in asked
        assert f"{url}/v1/items/{item}/similar?k=8" in asked
        view.close()


def test_ids_of_any_characters(browser, tmp_path):
    with serving(made_service(made_workspace(tmp_path / "w", odd=True))) as url:
        view = browser.new_page()
        told = []
        view.on("console", lambda message: told.append(message.text))
        for raw in ODD_IDS:
            view.goto("about:blank")
            view.goto(f"{url}/#user={quote(raw)}")
            view.locator("#aligned li").first.wait_for()
            shown = view.locator("#user-title").text_content()
            assert shown.startswith(f"User {raw} · "), raw
            view.get_by_role("button", name=re.compile("^Why")).first.click()
            view.get_by_role("button", name=re.compile("^Items similar")).first.click()
            view.locator("#aligned .panel ul").nth(1).wait_for()
        assert told == []
        view.close()


@pytest.mark.parametrize(
    "json_text",
    [
        '{"id": 9007199254740993, "title": "9007199254740993 \\" 9007199254740993"}',
        "[-9007199254740993, 123456789012345, 0.12345678901234567, 1.2345678901234567e-20, -0.5]",
    ],
)
def test_long_integers_alone_become_text(opened, json_text):
    def expected(value):
        if isinstance(value, int) and len(str(abs(value))) >= 16:
            return str(value)
        return {key: expected(one) for key, one in value.items()} if isinstance(value, dict) else value

    wanted = json.loads(json_text)
    wanted = [expected(one) for one in wanted] if isinstance(wanted, list) else expected(wanted)
    assert opened().evaluate("text => parsed(text)", json_text) == wanted


def test_words_of_ones_own(opened):
    view = opened()
    view.get_by_label("Describe your taste").fill("something about travel")
    view.get_by_role("button", name="Recommend").click()
    view.locator("#taste-answer li").first.wait_for()
    names = view.locator("#taste-answer .name").all_inner_texts()
    assert len(names) == 10
    assert all(name.startswith("travel") for name in names)
    view.get_by_label("Its description").fill("a book of cookery")
    view.get_by_role("button", name="Find likely users").click()
    view.locator("#item-answer li").first.wait_for()
    assert "cookery critic" in view.locator("#item-answer li").first.inner_text()
    assert view.locator("#taste-answer").get_attribute("aria-live") == "polite"


@pytest.mark.parametrize("width", [390, 1400])
def test_the_list_of_addresses(opened, width):
    view = opened("/docs", width=width)
    view.get_by_text("16 operations").wait_for()
    assert view.get_by_text("/v1/cold/items/{item_id}").count() == 1
    assert view.evaluate(PROBLEMS) == []
