"""Checks for a Java version that Spark can use. The module also runs as a script, before any package is installed."""

import os
import re
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path

from recsys_assets.errors import RecsysError

MINIMUM = 17
_ADVICE = (
    f"Spark 4 needs Java {MINIMUM} or later (a full JDK or JRE). Install it, for example with "
    f"`apt install openjdk-{MINIMUM}-jre-headless`, `brew install openjdk@{MINIMUM}` or from https://adoptium.net, "
    "or point JAVA_HOME at one."
)


class JavaError(RecsysError):
    """Java is missing or too old."""


def check_java() -> int:
    """The major version of the Java that Spark will use.

    Raises:
        JavaError: Java is missing or too old; the message says what to install.
    """
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home) / "bin")) if home else shutil.which("java")
    if java is None:
        where = f"JAVA_HOME ({home}) holds no bin/java" if home else "JAVA_HOME is not set and PATH holds no java"
        raise JavaError(f"No Java found: {where}. {_ADVICE}")
    printed = _printed_version(java)
    version = re.search(r'version "(?:1\.)?(\d+)', printed)
    if version is None:
        raise JavaError(f"`{java} -version` prints no version: {printed.strip()[:200]!r}. {_ADVICE}")
    major = int(version[1])
    if major < MINIMUM:
        raise JavaError(f"{java} is Java {major}. {_ADVICE}")
    return major


@cache
def _printed_version(java: str) -> str:
    return subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr


if __name__ == "__main__":
    try:
        check_java()
    except JavaError as error:
        sys.exit(str(error))
