"""A real browser on the playground and on the page of `inspect`, as users see them."""

import time

import pytest

from rgtg_hf.cli.main import main
from tests.cli.playground.serving import LEFT_OPEN, served

pytestmark = [pytest.mark.browser, *LEFT_OPEN]


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from tests.browser import chromium

    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        yield browser


@pytest.fixture(scope="module")
def address(policy_folder, reward_folder, foreign_reward_folder):
    options = ["--model", policy_folder, "--reward_model", reward_folder, foreign_reward_folder]
    with served([*options, "--max_new_tokens", "1500"]) as (address, _):
        yield address


def find(browser, selector):
    return browser.find_element("css selector", selector)


def wait(condition, seconds=60):
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if result := condition():
            return result
        time.sleep(0.1)
    raise AssertionError("it did not happen in time")


def text(browser, selector):
    return browser.execute_script("return document.querySelector(arguments[0])?.textContent ?? ''", selector)


def write(browser, selector, value):
    from selenium.webdriver.common.keys import Keys

    field = find(browser, selector)
    field.send_keys(Keys.CONTROL, "a")
    field.send_keys(value, Keys.TAB)


@pytest.fixture
def page(browser, address):
    browser.get(address)
    wait(lambda: "Ready." in text(browser, "#status"))
    wait(lambda: browser.find_elements("css selector", "#prompt textarea"))
    return browser


def generate(page, prompt="Hi!", tokens="6"):
    write(page, "#prompt textarea", prompt)
    write(page, "#tokens input[type=number]", tokens)
    find(page, "#generate").click()


def words(page, side):
    return page.execute_script(
        "return [...document.querySelectorAll(arguments[0] + ' .rgtg-tok > bdi')].map(e => e.textContent)", side
    )


def answer(page, **settings):
    generate(page, **settings)
    wait(lambda: "Writing" in text(page, "#status") or "Done" in text(page, "#status"))
    wait(lambda: "Done." in text(page, "#status"))
    return words(page, "#guided"), words(page, "#unguided")


def test_it_writes_both_sides_with_speed_and_divergence(page):
    guided, unguided = answer(page)
    assert guided
    assert unguided
    for side in ("#guided", "#unguided"):
        assert "tokens/s" in text(page, side)
        assert "KL" in text(page, side)


def test_the_slider_changes_the_steered_side_alone(page):
    from selenium.webdriver.common.keys import Keys

    sides = []
    for key in (Keys.HOME, Keys.END):
        find(page, "#beta input[type=range]").send_keys(key)
        sides.append(answer(page))
        page.refresh()
        wait(lambda: "Ready." in text(page, "#status"))
        wait(lambda: page.find_elements("css selector", "#prompt textarea"))
    (weak, plain), (strong, same) = sides
    assert weak == plain == same
    assert strong != plain


def test_it_streams_and_stop_ends_it(page):
    generate(page, tokens="1500")
    lengths = [wait(lambda: len(words(page, "#guided")))]
    lengths.append(wait(lambda: max(0, len(words(page, "#guided")) - lengths[0])))
    find(page, "#stop").click()
    wait(lambda: "Stopped." in text(page, "#status"))
    length = len(words(page, "#guided"))
    assert 0 < length < 1500
    assert answer(page)[0]  # and it goes on afterwards


def test_errors_appear_as_messages_without_places(page, policy_folder, foreign_reward_folder):
    find(page, "#generate").click()
    wait(lambda: "Write a prompt first." in text(page, "#status [role=alert]"))
    find(page, "#reward_model input").click()
    options = wait(lambda: page.find_elements("css selector", "[role=option][data-index]"))
    options[1].click()
    generate(page)
    wait(lambda: "cannot be used together" in text(page, "#status [role=alert]"))
    source = page.page_source
    assert "Traceback" not in source
    assert policy_folder not in source
    assert foreign_reward_folder not in source


def test_hostile_prompts_do_nothing(page):
    answer(page, prompt="<img src=x onerror=\"document.title='owned'\">")
    assert page.title == "Steering playground"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_leaves_a_narrow_screen(page, scheme):
    from tests.browser import show_as

    show_as(page, scheme, width=360)
    try:
        answer(page)
        page.execute_script("document.querySelector('#guided .rgtg-tok').focus()")
        wait(lambda: find(page, "#guided .rgtg-pop").is_displayed())
        box = find(page, "#guided .rgtg-pop").rect
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= 360
        assert page.execute_script("return document.documentElement.scrollWidth") <= 360
    finally:
        show_as(page, "light")


@pytest.fixture
def inspected(browser, policy_folder, reward_folder, tmp_path):
    output = tmp_path / "page.html"
    prompt = "</script><img src=x onerror=\"document.title='owned'\">"
    models = ["--model", policy_folder, "--reward_model", reward_folder]
    assert main(["inspect", *models, "--max_new_tokens", "5", "--output", str(output), prompt]) == 0
    browser.get_log("browser")
    browser.get(output.as_uri())
    return browser


def test_the_page_runs_without_complaint_and_its_hostile_prompt_does_nothing(inspected):
    assert inspected.title == "Rewards token by token"
    assert inspected.get_log("browser") == []
    assert "<img src=x" in text(inspected, ".prompt")


def test_the_page_works_from_the_keyboard(inspected):
    from selenium.webdriver import ActionChains
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        for key in keys:
            ActionChains(inspected).send_keys(key).perform()
        return inspected.execute_script(
            "const t = document.activeElement; const list = [...t.closest('.rgtg-text').children].filter(e => e.role);"
            "return [list.indexOf(t), getComputedStyle(t.querySelector('.rgtg-pop')).display]"
        )

    assert press(Keys.TAB, Keys.TAB) == [0, "block"]  # past the switch
    assert press(Keys.ARROW_RIGHT) == [1, "block"]
    assert press(Keys.ESCAPE) == [1, "none"]
    assert press(Keys.END, Keys.ARROW_RIGHT) == [4, "block"]
    assert press(Keys.ARROW_LEFT) == [3, "block"]
    assert press(Keys.HOME) == [0, "block"]


def test_the_switch_shows_numbers(inspected):
    assert not find(inspected, ".sides .rgtg-num").is_displayed()
    find(inspected, ".rgtg-show-numbers").click()
    assert find(inspected, ".sides .rgtg-num").is_displayed()
