"""The page in headless Chromium: create, chat, swipe, edit, import by drop, side by side, a hostile card, runs, a phone.

Usage: browser.py http://127.0.0.1:8080 SCREENSHOTS [--chromium /usr/bin/chromium]

The server should be new (`serve --forget`), serve two models, so that they can be compared, and show two runs: `ended`,
a training that has ended, and `live`, one that goes on while this runs.
"""

import argparse
import base64
import json
import pathlib
import shutil
import sys

from playwright.sync_api import expect, sync_playwright

parser = argparse.ArgumentParser()
parser.add_argument("address")
parser.add_argument("screenshots", type=pathlib.Path)
parser.add_argument("--chromium", default=shutil.which("chromium"))
arguments = parser.parse_args()
arguments.screenshots.mkdir(parents=True, exist_ok=True)

ATTACK = "</script><script>window.hurt=1</script><img src=x onerror=\"window.hurt=1\"><svg onload=\"window.hurt=1\">[a](javascript:window.hurt=1)"
FIELDS = ("name", "description", "personality", "scenario", "first_mes", "mes_example", "creator_notes", "system_prompt",
          "post_history_instructions", "creator", "character_version")
HOSTILE = {"spec": "chara_card_v2", "spec_version": "2.0",
           "data": {**{field: ATTACK for field in FIELDS}, "alternate_greetings": [ATTACK], "tags": [ATTACK], "extensions": {}}}


def drop(page, name, content):
    """Drops a file onto the page, as a person does."""
    page.evaluate(
        """([name, content]) => {
            const bytes = Uint8Array.from(atob(content), (letter) => letter.charCodeAt(0));
            const transfer = new DataTransfer();
            transfer.items.add(new File([bytes], name));
            document.getElementById("drop").dispatchEvent(new DragEvent("drop", { dataTransfer: transfer, bubbles: true, cancelable: true }));
        }""",
        [name, base64.b64encode(content).decode()],
    )


def until(page, expression):
    """Waits until an expression is true. Playwright's own way needs `eval`, which the page's policy forbids."""
    for _ in range(2400):
        if page.evaluate(expression):
            return
        page.wait_for_timeout(100)
    raise AssertionError(f"never came true: {expression}")


def shoot(page, name):
    page.screenshot(path=arguments.screenshots / f"{name}.png", full_page=False)


with sync_playwright() as playwright:
    browser = playwright.chromium.launch(executable_path=arguments.chromium, args=["--no-sandbox"])
    page = browser.new_page(viewport={"width": 1100, "height": 800})
    page.set_default_timeout(240_000)
    elsewhere, troubles = [], []
    page.on("request", lambda request: elsewhere.append(request.url) if not request.url.startswith((arguments.address, "blob:")) else None)
    page.on("pageerror", lambda error: troubles.append(str(error)))
    page.on("console", lambda message: troubles.append(message.text) if message.type == "error" else None)
    page.goto(arguments.address)
    expect(page.get_by_role("heading", name="Characters")).to_be_visible()

    # Create, by keyboard.
    page.get_by_label("A new one, from one line").fill("a lighthouse keeper who hates the sea")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Writing the profile")).to_be_visible()
    until(page, "document.querySelector('.growing .text')?.textContent.length > 60")
    shoot(page, "growing")
    expect(page.get_by_role("button", name="Chat")).to_be_visible(timeout=240_000)
    name = page.get_by_role("heading", level=1).inner_text()
    print("created:", name)
    until(page, "document.querySelector('.avatar.large').naturalWidth > 0")
    shoot(page, "character")

    # Chat, again, swipe.
    page.get_by_role("button", name="Chat").click()
    words = page.get_by_label("Your message")
    words.fill("What do you do all day?")
    page.keyboard.press("Enter")
    again = page.get_by_role("button", name="Again")
    expect(again).to_be_visible(timeout=120_000)
    first = page.locator(".message.assistant .text").last.inner_text()
    again.click()
    expect(page.get_by_text("2/2")).to_be_visible(timeout=120_000)
    second = page.locator(".message.assistant .text").last.inner_text()
    page.locator(".message").last.get_by_label("Previous version").click()
    expect(page.locator(".message").last.get_by_text("1/2")).to_be_visible()
    assert page.locator(".message.assistant .text").last.inner_text() == first
    print("swiped:", first != second)
    shoot(page, "chat")

    # Other words: a branch, and back.
    question = page.locator(".message.user").last
    question.get_by_role("button", name="Edit").click()
    page.get_by_label("New words").fill("Do you like the sea?")
    page.get_by_role("button", name="Save as a branch").click()
    expect(page.get_by_text("Do you like the sea?")).to_be_visible()
    page.get_by_role("button", name="Answer", exact=True).click()
    expect(page.get_by_role("button", name="Again")).to_be_visible(timeout=120_000)
    page.locator(".message.user").last.get_by_label("Previous version").click()
    expect(page.get_by_text("What do you do all day?")).to_be_visible()

    # Stop. Until then, turning to another version waits: it would take away the bubble that is being written. Words that
    # are being changed meanwhile outlive the redrawing at the end, the keyboard in them. The answer is held back so long:
    # a short one would have ended.
    held = []
    page.route("**/messages", lambda route: held.append(route))
    words.fill("Tell me a very long story about the harbour, with every detail.")
    page.get_by_role("button", name="Send").click()
    expect(page.locator(".message.writing")).to_have_count(1)
    page.locator(".message.user").first.get_by_label("Next version").click()
    page.wait_for_timeout(300)
    assert page.locator(".message.writing").count() == 1, "turning to another version took the bubble away"
    page.locator(".message.user").first.get_by_role("button", name="Edit").click()
    page.keyboard.type(" And at night?")
    held[0].continue_()
    page.unroute("**/messages")
    # As if the answer ended by itself: a click of the mouse would take the keyboard away.
    page.get_by_role("button", name="Stop").dispatch_event("click")
    expect(page.get_by_role("button", name="Send")).to_be_enabled()
    changed = page.get_by_label("New words")
    expect(changed).to_be_focused()
    shoot(page, "edit")
    assert changed.input_value().endswith(" And at night?"), changed.input_value()
    page.get_by_role("button", name="Leave it").click()
    expect(changed).to_have_count(0)
    assert "at night" not in page.locator(".message.user .text").first.inner_text()

    # Side by side.
    other = page.get_by_label("Model to compare with")
    if other.is_visible():
        other.select_option(index=1)
        words.fill("Are you happy?")
        page.keyboard.press("Enter")
        better = page.get_by_role("button", name="This one is better")
        expect(better).to_have_count(2, timeout=240_000)
        shoot(page, "side_by_side")
        better.first.click()
        expect(page.get_by_text("Kept:")).to_be_visible()
        pairs = page.request.get(f"{arguments.address}/v1/preferences").text().splitlines()
        assert len(pairs) == 1 and {"prompt", "chosen", "rejected"} <= set(json.loads(pairs[0])), pairs
        print("preferred")

    # A card by drop: what was exported comes back.
    page.goto(arguments.address + "/#/")
    link = page.get_by_role("link", name=name)
    link.click()
    with page.expect_download() as download:
        page.get_by_role("button", name="PNG card").click()
    card = pathlib.Path(download.value.path()).read_bytes()
    assert card.startswith(b"\x89PNG")
    page.goto(arguments.address + "/#/")
    expect(page.get_by_role("heading", name="Characters")).to_be_visible()
    drop(page, "card.png", card)
    expect(page.get_by_role("heading", name=name)).to_be_visible()
    print("dropped")

    # A card that attacks with every field.
    troubles_before = list(troubles)
    page.goto(arguments.address + "/#/")
    expect(page.get_by_role("heading", name="Characters")).to_be_visible()
    drop(page, "hostile.json", json.dumps(HOSTILE).encode())
    page.get_by_role("button", name="Chat").click()
    page.get_by_label("Your message").fill(ATTACK)
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Again")).to_be_visible(timeout=240_000)
    shoot(page, "hostile")
    page.goto(arguments.address + "/#/")
    expect(page.get_by_role("heading", name="Characters")).to_be_visible()
    page.wait_for_timeout(500)
    assert page.evaluate("window.hurt") is None, "a card ran a script"
    assert page.locator("main script, main svg, main img[src='x']").count() == 0
    shoot(page, "gallery")

    # Runs: one that has ended, and one that goes on.
    page.get_by_role("link", name="Runs").click()
    page.get_by_role("link", name="ended").click()
    expect(page.get_by_role("heading", name="ended done")).to_be_visible()
    curve = page.get_by_role("img", name="Loss by step")
    expect(curve).to_be_visible()
    assert curve.locator("path.trained").get_attribute("d").count("L") >= 1
    page.get_by_text("What is trained").click()
    marked = page.locator(".masks mark")
    assert marked.count() >= 1 and page.locator(".masks > span").first.inner_text().startswith("<|im_start|>system")
    assert marked.first.inner_text().endswith("<|im_end|>"), marked.first.inner_text()
    page.screenshot(path=arguments.screenshots / "run.png", full_page=True)
    page.goto(arguments.address + "/#/run/live")
    expect(page.get_by_role("heading", name="live running")).to_be_visible()
    done = "document.querySelector('progress')?.value ?? -1"
    until(page, f"{done} >= 0")
    before = page.evaluate(done)
    until(page, f"{done} > {before}")
    shoot(page, "run_live")
    print("watched a run")

    # Dark, and on a phone.
    page.emulate_media(color_scheme="dark")
    shoot(page, "gallery_dark")
    phone = browser.new_page(viewport={"width": 390, "height": 780}, device_scale_factor=2)
    phone.goto(arguments.address)
    expect(phone.get_by_role("heading", name="Characters")).to_be_visible()
    phone.get_by_role("link", name=name).click()
    expect(phone.get_by_role("button", name="Chat")).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone has to scroll sideways"
    shoot(phone, "phone_character")
    phone.get_by_role("button", name="Chat").click()
    expect(phone.get_by_label("Your message")).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone has to scroll sideways"
    shoot(phone, "phone_chat")
    phone.goto(arguments.address + "/#/run/ended")
    expect(phone.get_by_role("img", name="Loss by step")).to_be_visible()
    assert phone.evaluate("document.documentElement.scrollWidth <= innerWidth"), "a phone has to scroll sideways"
    shoot(phone, "phone_run")
    assert not elsewhere, f"requests elsewhere: {elsewhere}"
    assert troubles == troubles_before == [], troubles
    print("passed")
    browser.close()
