"""The explorer page in a browser."""

import json
import re
from urllib.parse import quote

import pytest

pytest.importorskip("fastapi", reason="the serve extra is not installed")
pytest.importorskip("axe_playwright_python", reason="axe is not installed (extra dev)")
from axe_playwright_python.sync_playwright import Axe
from served import HOSTILE, KINDS, ODD_IDS, made_service, made_workspace, serving

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
PAPER = "getComputedStyle(document.body).backgroundColor"


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


def found_by_axe(view):
    """What axe finds against WCAG 2.2 A and AA."""
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa"]}
    answer = Axe().run(view, options=rules).response
    return [
        f"{rule['id']}: {node['target']} {node['failureSummary']}"
        for rule in answer["violations"]
        for node in rule["nodes"]
    ]


def check(view):
    assert view.evaluate(PROBLEMS) == []
    assert found_by_axe(view) == []


def open_user(view, name="u7"):
    """Type, take the first that is offered, all without a mouse."""
    field = view.get_by_role("combobox", name="Search users and items")
    field.focus()
    field.fill(name)
    view.get_by_role("option", name=re.compile(f"^{name} ?")).first.wait_for()
    place = (
        view.locator("#search-options [role=option]")
        .all_inner_texts()
        .index(
            next(
                text
                for text in view.locator("#search-options [role=option]").all_inner_texts()
                if text.split()[0] == name
            )
        )
    )
    for _ in range(place + 1):
        view.keyboard.press("ArrowDown")
    view.keyboard.press("Enter")
    view.locator("#recommended li").first.wait_for()


def recommend(view, text):
    view.get_by_label("Describe what you like or need").fill(text)
    view.get_by_role("button", name="Recommend").click()
    view.get_by_role("heading", name="You might like").wait_for()
    view.locator("#home-list[aria-busy]").wait_for(state="detached")


def why(view, box):
    """Open the first reasons of a list and return what they say."""
    view.locator(box).get_by_role("button", name=re.compile("^Why")).first.click()
    panel = view.locator(f"{box} .panel").first
    panel.locator("p").first.wait_for()
    return panel


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
def test_every_view_can_be_read_and_used(opened, width, scheme):
    """WCAG AA by axe, and nothing leaves the page: with everything open that can be."""
    view = opened(width=width, scheme=scheme)
    view.locator("#home-list .list").wait_for()
    paper = [int(part) for part in re.findall(r"\d+", view.evaluate(PAPER))[:3]]
    assert (max(paper) < 60) == (scheme == "dark")
    assert view.evaluate("document.querySelector('.list').getBoundingClientRect().top") < 2500
    check(view)
    view.locator("#home-filters summary").click()
    view.locator("#menu summary").click()
    check(view)
    view.keyboard.press("Escape")
    view.get_by_role("combobox", name="Search users and items").focus()
    view.get_by_role("option").first.wait_for()
    check(view)
    view.keyboard.press("Escape")
    recommend(view, "detectives")
    why(view, "#home-list").locator("summary").click()
    view.locator("#new-box summary").click()
    view.get_by_label("Describe an item").fill("travel")
    view.get_by_role("button", name="Find users").click()
    view.locator("#item-answer .list").wait_for()
    check(view)
    open_user(view)
    why(view, "#recommended").locator("summary").click()
    view.locator("aside summary").click()
    check(view)
    view.locator("#recommended .name").first.click()
    view.get_by_role("button", name="I like this").wait_for()
    view.locator("#view [aria-busy]").first.wait_for(state="detached")
    check(view)


def test_the_page_begins_with_something_to_look_at(opened):
    view = opened()
    view.locator("#home-list .list").wait_for()
    popular = view.evaluate("fetch('v1/items?limit=10').then(answer => answer.json())")["items"]
    assert view.locator("#home-list .name").all_inner_texts() == [item["title"] for item in popular]
    assert "For people who cook." in view.evaluate(
        "fetch('v1/items?q=i4&limit=1').then(answer => answer.text())"
    )
    labels = view.locator("#home-list li").first.locator(".chip").all_inner_texts()
    columns = popular[0]["columns"]
    said = "yes" if columns["in_stock"] else "no"
    assert labels == [columns["category"], f"price {columns['price']:g}", f"in stock: {said}"]
    assert view.locator("#home-users li").count() >= 3
    examples = view.locator("#taste-examples button").all_inner_texts()
    assert examples
    assert all(any(kind in text for kind in KINDS) for text in examples)
    assert view.get_by_label("Describe what you like or need").get_attribute("placeholder") == examples[0]
    view.locator("#taste-examples button").first.click()
    view.get_by_role("heading", name="You might like").wait_for()


def test_type_ahead_by_keyboard(opened):
    view = opened()
    view.locator("#home-list .list").wait_for()
    options = view.locator("#search-options")
    field = view.get_by_role("combobox", name="Search users and items")
    view.keyboard.press("Tab")
    assert view.evaluate("document.activeElement.textContent") == "Skip to content"
    view.keyboard.press("/")
    options.get_by_role("option").first.wait_for()
    assert field.get_attribute("aria-expanded") == "true", "it offers something as soon as it has the focus"
    assert view.locator("#search-options .group").all_inner_texts() == ["Popular items", "Users worth a look"]
    view.keyboard.type("u5")
    options.get_by_role("option", name="u50").wait_for()
    assert [text.split()[0] for text in options.get_by_role("option").all_inner_texts()] == [
        "u5",
        "u50",
        "u51",
        "u52",
        "u53",
    ]
    view.keyboard.press("ArrowUp")  # from the end
    assert field.get_attribute("aria-activedescendant") == "search-option-4"
    view.keyboard.press("ArrowDown")
    assert options.locator("[aria-selected=true]").inner_text().startswith("u5")
    view.keyboard.press("Escape")
    assert field.get_attribute("aria-expanded") == "false"
    assert options.get_by_role("option").count() == 0
    field.fill("travel 3")
    options.get_by_role("option", name="travel 30").wait_for()
    field.fill("nobody at all")
    view.get_by_text("Nothing found for “nobody at all”.").wait_for()
    view.keyboard.press("Enter")
    assert view.locator("#home").is_visible()


def test_a_user_beside_the_base_run(opened, address):
    view = opened()
    view.locator("#home-list .list").wait_for()
    open_user(view)
    expected = view.evaluate("fetch('v1/users/u7/comparison?k=20').then(answer => answer.json())")
    assert view.locator("#recommended .name").all_inner_texts() == [
        item["title"] for item in expected["aligned"]
    ]
    new = [item for item in expected["aligned"] if item["base_rank"] > 20]
    gone = {item["title"] for item in expected["base"]} - {item["title"] for item in expected["aligned"]}
    aside = view.locator("aside")
    assert f"{len(new)} of the {len(expected['aligned'])} items" in aside.inner_text()
    assert set(aside.locator("ul a").all_inner_texts()) == gone
    for item, entry in zip(expected["aligned"], view.locator("#recommended li").all(), strict=True):
        far = item["base_rank"] - item["rank"]
        badge = (
            "new"
            if item["base_rank"] > 20
            else f"{'up' if far > 0 else 'down'} {abs(far)}"
            if abs(far) >= 5
            else None
        )
        assert entry.locator(".badge").all_inner_texts() == ([badge] if badge else [])
    assert view.evaluate("document.activeElement.tagName") == "H1", "a screen reader begins to read here"
    assert "Likes cookery." in view.locator("#profile").inner_text()
    view.get_by_text("How the profile was made").click()
    assert view.get_by_text("All they read is about food.").is_visible()
    panel = why(view, "#recommended")
    said = panel.inner_text()
    assert said.startswith("Because this user has cookery")
    assert not re.search(r"\d\.\d|cosine|score", said), "numbers are folded"
    panel.locator("summary").click()
    assert re.search(r"\d\.\d{3}", panel.inner_text())
    assert view.url == f"{address}/#user=u7"
    view.get_by_text("← Start").click()
    view.locator("#home").wait_for()
    view.go_back()
    view.locator("#recommended li").first.wait_for()


def test_filters_hold_in_all_lists(opened):
    view = opened()
    view.locator("#home-list .list").wait_for()
    view.locator("#home-filters summary").click()
    view.get_by_label("category").select_option("travel")
    view.locator("#home-list .name", has_text="travel").first.wait_for()
    view.get_by_label("in stock").select_option("yes")
    view.get_by_label("price to").fill("42")
    view.get_by_label("price to").press("Enter")
    view.locator("#home-filters summary", has_text="(3)").wait_for()
    view.locator("#home-list[aria-busy]").wait_for(state="detached")
    allowed = {f"travel {row}" for row in range(30, 38) if row % 5}
    assert set(view.locator("#home-list .name").all_inner_texts()) == allowed
    recommend(view, "cookery")
    assert set(view.locator("#home-list .name").all_inner_texts()) == allowed
    open_user(view)
    assert set(view.locator("#recommended .name").all_inner_texts()) <= allowed
    view.locator("#view .filters summary").click()
    view.locator("#view").get_by_label("price to").fill("1")
    view.locator("#view").get_by_label("price to").press("Enter")
    view.get_by_text("Nothing matches these filters.").wait_for()
    check(view)
    view.get_by_role("button", name="Clear the filters").click()
    view.locator("#recommended li").first.wait_for()
    assert view.locator("#view .filters summary").inner_text() == "Filters"


def test_an_item_and_what_is_like_it(opened):
    view = opened()
    view.locator("#home-list .list").wait_for()
    field = view.get_by_role("combobox", name="Search users and items")
    field.fill("cookery 4")
    view.get_by_role("option", name="cookery 4").first.click()
    view.get_by_role("heading", name="cookery 4").wait_for()
    view.locator("#view .cards").wait_for()
    for box, path in (("Liked together", "similar?k=6"), ("Alike by description", "similar?k=6&by=text")):
        answer = view.evaluate(f"fetch('v1/items/i4/{path}').then(answer => answer.json())")
        section = view.locator("section", has=view.get_by_role("heading", name=box))
        section.locator(".list").wait_for()
        assert section.locator(".name").all_inner_texts() == [item["title"] for item in answer["similar"]]
    assert view.locator("#view").get_by_text("For people who cook.").is_visible()
    users = view.evaluate("fetch('v1/items/i4/users?k=6').then(answer => answer.json())")["users"]
    assert view.locator("#view .cards .name").all_inner_texts() == [user["name"] for user in users]
    view.get_by_role("button", name="I like this").click()
    view.get_by_role("button", name="Remove cookery 4").wait_for()
    view.get_by_role("button", name="Recommend").click()
    view.get_by_role("heading", name="You might like").wait_for()
    assert why(view, "#home-list").inner_text().startswith("It goes with cookery 4, which you chose.")


def test_runs_are_switched(opened):
    view = opened()
    view.locator("#home-list .list").wait_for()
    view.locator("#menu summary").click()
    view.get_by_label("Recommender", exact=True).select_option("base")
    view.wait_for_url("**/#run=base")
    view.keyboard.press("Escape")
    open_user(view)
    expected = view.evaluate(
        "fetch('v1/users/u7/recommendations?k=20&run=base').then(answer => answer.json())"
    )
    assert view.locator("#recommended .name").all_inner_texts() == [
        item["title"] for item in expected["items"]
    ]
    assert view.locator("aside").is_hidden(), "a run is not compared with itself"
    assert "run=base" in view.url
    view.locator("#menu summary").click()
    view.get_by_label("Beside it").select_option("con")
    view.get_by_role("heading", name="Beside con").wait_for()


def test_states_without_a_list(browser, address):
    """What is loading, what has failed and can be tried again, and what does not exist."""
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    view = context.new_page()
    held = []
    view.route("**/v1/items?*", lambda route: held.append(route))
    view.goto(address)
    view.locator("#home-list .skeleton").wait_for()
    assert view.locator("#home-list").get_attribute("aria-busy") == "true"
    assert found_by_axe(view) == []
    held.pop().abort()
    view.get_by_text("The server does not answer.").wait_for()
    assert found_by_axe(view) == []
    view.unroute("**/v1/items?*")
    view.get_by_role("button", name="Try again").click()
    view.locator("#home-list .list").wait_for()
    view.goto(f"{address}/#user=nobody")
    view.get_by_text("unknown user 'nobody'").first.wait_for()
    assert found_by_axe(view) == []
    context.close()


def test_a_run_without_texts_asks_for_items(browser, tmp_path):
    place = made_workspace(tmp_path / "w")
    (place.run("con") / "recommender" / "cold_start.safetensors").unlink()
    with serving(made_service(place)) as url:
        view = browser.new_page()
        view.goto(url)
        view.get_by_text("con reads no texts: choose items instead.").wait_for()
        assert view.locator("#taste").is_hidden()
        likes = view.get_by_role("combobox", name="Choose things you like")
        likes.focus()
        view.locator("#likes-options [role=option]").first.wait_for()
        likes.fill("travel 3")
        view.get_by_role("option", name="travel 31").click()
        view.get_by_role("button", name="Recommend").click()
        view.get_by_role("heading", name="You might like").wait_for()
        view.locator("#home-list .places .name", has_text="travel").first.wait_for()
        view.close()


def test_hostile_texts_show_as_text(opened, address):
    view = opened("/#user=u12")
    view.locator("#recommended li").first.wait_for()
    view.locator("#view").get_by_text("cookery critic").first.wait_for()
    assert f"cookery critic {HOSTILE}" in view.locator("#view").inner_text()
    view.goto("about:blank")
    view.goto(f"{address}/#item=i3")
    view.get_by_role("heading", name=f"cookery {HOSTILE}").wait_for()
    view.locator("#view .cards").wait_for()
    field = view.get_by_role("combobox", name="Search users and items")
    field.fill("<script>")
    view.get_by_role("option", name="cookery <script>").first.wait_for()
    assert view.locator("main script, main img, [role=listbox] script, [role=listbox] img").count() == 0


def test_ids_beyond_what_a_number_holds_in_javascript(browser, tmp_path):
    """2**53 + 1 is the first integer that JavaScript cannot hold; asked for as 2**53 it would be another's."""
    first = 2**53 + 1
    with serving(made_service(made_workspace(tmp_path / "w", first))) as url:
        view = browser.new_page()
        asked, sent = [], []
        view.on("request", lambda request: asked.append(request.url))
        view.on("request", lambda request: sent.append(request.post_data))
        view.goto(f"{url}/#user={first + 6}")
        view.locator("#recommended li").first.wait_for()
        assert f"{url}/v1/users/{first + 6}/profile" in asked
        assert view.locator("h1:visible").inner_text() == str(first + 6)
        best = view.evaluate(f"fetch('v1/users/{first + 6}/comparison?k=1').then(answer => answer.text())")
        item = json.loads(best)["aligned"][0]["id"]
        assert any(f'"items":[{item},' in (body or "") for body in sent), "a number, not a text"
        view.locator("#recommended .about, #recommended .chip").first.wait_for()
        why(view, "#recommended")
        assert f"{url}/v1/explanations?user={first + 6}&item={item}&k=5" in asked
        view.locator("#recommended .name").first.click()
        view.get_by_role("button", name="I like this").click()
        view.get_by_role("button", name="Recommend").click()
        view.get_by_role("heading", name="You might like").wait_for()
        view.locator("#home-list .places li").first.wait_for()
        assert f"{url}/v1/items/{item}/similar?k=6" in asked
        view.close()


def test_ids_of_any_characters(browser, tmp_path):
    with serving(made_service(made_workspace(tmp_path / "w", odd=True))) as url:
        view = browser.new_page()
        told = []
        view.on("console", lambda message: told.append(message.text))
        for raw in ODD_IDS:
            view.goto("about:blank")
            view.goto(f"{url}/#user={quote(raw)}")
            view.locator("#recommended li").first.wait_for()
            assert view.locator("#view h1").text_content() == raw
            why(view, "#recommended")
            view.goto("about:blank")
            view.goto(f"{url}/#item={quote(raw)}")
            view.locator("#view .cards").wait_for()
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
    assert opened().evaluate("async text => (await import('/web/api.js')).parsed(text)", json_text) == wanted


def test_words_of_ones_own(opened):
    view = opened()
    recommend(view, "something about travel")
    names = view.locator("#home-list .name").all_inner_texts()
    assert len(names) == 10
    assert all(name.startswith("travel") for name in names)
    panel = why(view, "#home-list")
    said = panel.inner_text()
    assert said.startswith("You asked for travel.\n")
    assert re.search(
        r"of the 50 users most similar to your description have it: for example u\d+ and u\d+\.", said
    )
    assert "score" not in said
    view.get_by_role("button", name="Start over").click()
    view.get_by_role("heading", name="Popular").wait_for()
    view.locator("#new-box summary").click()
    view.get_by_label("Describe an item").fill("a book of cookery")
    view.get_by_role("button", name="Find users").click()
    view.locator("#item-answer li").first.wait_for()
    assert "cookery critic" in view.locator("#item-answer li").first.inner_text()


@pytest.mark.parametrize("width", [390, 1400])
def test_the_list_of_addresses(opened, width):
    view = opened("/docs", width=width)
    view.get_by_text("22 operations").wait_for()
    assert view.get_by_text("/v1/cold/items/{item_id}").count() == 1
    check(view)
