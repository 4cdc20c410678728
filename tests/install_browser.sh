#!/bin/sh
# Installs what `pytest -m browser` needs: Debian's Chromium, fonts of emoji and Chinese, and the extra "browser".
set -eu
cd "$(dirname "$0")/.."
as_root=""
[ "$(id -u)" = 0 ] || as_root=sudo
$as_root apt-get update
$as_root apt-get install -y --no-install-recommends chromium fonts-dejavu-core fonts-noto-color-emoji fonts-wqy-zenhei
# The extra alone, so that nothing is compiled.
python - <<'END' | python -m pip install -r /dev/stdin
try:
    import tomllib
except ImportError:
    import tomli as tomllib
with open("pyproject.toml", "rb") as file:
    print(*tomllib.load(file)["project"]["optional-dependencies"]["browser"], sep="\n")
END
