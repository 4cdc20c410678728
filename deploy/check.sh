#!/usr/bin/env bash
# The steps of deploy/Dockerfile in an empty virtual environment, and the server as the container runs it: health check,
# a request, SIGTERM. PYTHON chooses the interpreter.
set -euo pipefail
cd "$(dirname "$0")/.."

work=$(mktemp -d)
server=
cleanup() {
  if [ -n "$server" ]; then kill -KILL "$server" 2>/dev/null || true; fi
  rm -rf "$work"
}
trap cleanup EXIT

"${PYTHON:-python3}" -m venv "$work/venv"
PATH=$work/venv/bin:$PATH
pip install --quiet -c constraints.txt torch
pip install --quiet -c constraints.txt '.[serve]'

cd "$work"
pyllmclf demo --output-dir out --no-progress >/dev/null
chmod -R a-w out
export HF_HUB_OFFLINE=1 PYTHONDONTWRITEBYTECODE=1 HOME=$work/home TMPDIR=$work
pyllmclf serve out --host 127.0.0.1 --port 8765 2>server.log &
server=$!

healthy() { python -c "import urllib.request as u; u.urlopen('http://127.0.0.1:8765/health', timeout=4)" 2>/dev/null; }
for _ in $(seq 120); do
  if healthy; then break; fi
  kill -0 "$server" 2>/dev/null || { cat server.log >&2; exit 1; }
  sleep 1
done
healthy

python - <<'PY'
import json, urllib.request

request = urllib.request.Request(
    "http://127.0.0.1:8765/classify",
    data=json.dumps({"input": ["My parcel is late."]}).encode(),
    headers={"Content-Type": "application/json"},
)
with urllib.request.urlopen(request, timeout=30) as answer:
    print(json.load(answer)["data"][0])
PY

kill -TERM "$server"
code=0
wait "$server" || code=$?
server=
[ "$code" = 0 ] || { echo "the server ended with code $code" >&2; cat server.log >&2; exit 1; }
echo "healthy, answered, ended with code 0"
