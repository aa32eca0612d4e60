"""A headless Chromium, for the tests that need one."""

from contextlib import contextmanager

from selenium import webdriver
from selenium.webdriver.chrome.service import Service

_ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1200,1000",
]


@contextmanager
def chromium(profile):
    """A browser with an empty `profile` folder. Its driver is looked for on the PATH; nothing is downloaded."""
    import shutil

    options = webdriver.ChromeOptions()
    for argument in [*_ARGUMENTS, f"--user-data-dir={profile}"]:
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    options.binary_location = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))))
    browser = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    try:
        # Without a window nothing has the focus, and so nothing would look focused.
        browser.execute_cdp_cmd("Emulation.setFocusEmulationEnabled", {"enabled": True})
        yield browser
    finally:
        browser.quit()


def show_as(browser, scheme, width=1200):
    """Sets light or dark, and the width of the screen."""
    browser.execute_cdp_cmd(
        "Emulation.setEmulatedMedia", {"features": [{"name": "prefers-color-scheme", "value": scheme}]}
    )
    browser.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride",
        {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False},
    )
