#!/usr/bin/env bash
# From the Bento to an answered request as the image's non-root user, without a container engine:
# `bentoml containerize --backend buildah` builds, `buildah run` serves.
#
#   make container          on a data folder with a champion: NEXTBUY_DATA, after `nextbuy demo`
#
# Needs root, and apt's buildah, podman, runc. The base image is pulled; where no registry is to be
# reached, STAND_IN=1 makes a stand-in with debootstrap, which is Debian's Python under its name.
set -euo pipefail
cd "$(dirname "$0")/.."
export BUILDAH_ISOLATION=chroot PATH=$PWD/.venv/bin:$PATH
name=nextbuy-service:tested
work=$(mktemp -d)
redis='' container='' server=''
cleanup() {
  # The group: buildah, what it runs, and the server in it, which ends its workers.
  if [ -n "$server" ] && kill -- "-$server" 2> /dev/null; then
    for _ in $(seq 60); do kill -0 -- "-$server" 2> /dev/null || break; sleep 0.5; done
  fi
  [ -z "$redis" ] || kill "$redis"
  [ -z "$container" ] || buildah rm "$container" > /dev/null
  rm -rf "$work"
}
trap cleanup EXIT

base=$(python -c 'from bento.export import BASE_IMAGE; print(BASE_IMAGE)')
if [ -n "${STAND_IN:-}" ] && ! buildah inspect --type image "docker.io/library/$base" > /dev/null 2>&1; then
  echo "== a stand-in for $base"
  debootstrap --variant=minbase --include=python3,python3-pip,python3-venv,ca-certificates \
    bookworm "$work/root" ${DEBIAN_MIRROR:+"$DEBIAN_MIRROR"} > "$work/debootstrap.log"
  ln -s python3 "$work/root/usr/bin/python"
  # What this machine needs to reach a package index, the build needs too.
  cp /etc/ssl/certs/ca-certificates.crt "$work/root/etc/ssl/certs/"
  [ ! -e /etc/pip.conf ] || cp /etc/pip.conf "$work/root/etc/"
  stand_in=$(buildah from scratch)
  buildah add --quiet "$stand_in" "$work/root" /
  buildah config --env PIP_BREAK_SYSTEM_PACKAGES=1 \
    --env SSL_CERT_FILE=/etc/ssl/certs/ca-certificates.crt "$stand_in"
  buildah commit --quiet --rm "$stand_in" "docker.io/library/$base"
  rm -rf "$work/root"
fi

echo "== bentoml build, bentoml containerize --backend buildah"
python -c 'from bento.export import export_champion as e; from nextbuy.settings import Settings as S; print(e(S()))'
tag=$(bentoml build --output tag | sed -n 's/^__tag__://p')
bentoml containerize "$tag" --backend buildah --image-tag "$name"

echo "== Redis with the feature values, and a data folder for the container"
export REDIS_URL=unix://$work/redis.sock
"$(python -c 'from nextbuy.stores.online.redis_server import find_redis_server as f; print(f())')" \
  --port 0 --unixsocket "$work/redis.sock" --unixsocketperm 777 --save '' > "$work/redis.log" &
redis=$!
until [ -S "$work/redis.sock" ]; do sleep 0.1; done
nextbuy apply
nextbuy materialize
data=$(python -c 'from nextbuy.settings import Settings as S; print(S().data)')
install --directory --owner 1034 --group 1034 "$work/data"
install --owner 1034 --group 1034 "$data/registry.db" "$work/data/"
chmod 755 "$work"

echo "== serve as the image's user"
port=$(python -c 'from nextbuy.ports import free_port as f; print(f())')
key=a-key-for-this-run-only
container=$(buildah from --pull-never "$name")
run() {
  buildah run --volume "$work/data:/data" --volume "$work/redis.sock:/run/redis.sock" \
    --env NEXTBUY_DATA=/data --env REDIS_URL=unix:///run/redis.sock \
    --env "NEXTBUY_SERVICE_API_KEYS=$key" --env NEXTBUY_SERVICE_LOG_SECONDS=1 \
    "$container" -- "$@"
}
user=$(run id -u)
[ "$user" != 0 ] || { echo "the image runs as root"; exit 1; }
set -m # a job has a process group of its own
run /home/bentoml/bento/env/docker/entrypoint.sh serve --host 127.0.0.1 --port "$port" \
  > "$work/server.log" 2>&1 &
server=$!
set +m
until curl --silent --fail "http://127.0.0.1:$port/readyz" > /dev/null; do
  kill -0 "$server" 2> /dev/null || { tail -20 "$work/server.log"; exit 1; }
  sleep 0.5
done
shopper=$(python - <<'PY'
from nextbuy.cli.demo import _recent_shopper
from nextbuy.settings import Settings

print(_recent_shopper(Settings()))
PY
)
closed=$(curl --silent --output /dev/null --write-out '%{http_code}' \
  --json "{\"user_id\": \"$shopper\"}" "http://127.0.0.1:$port/predict")
[ "$closed" = 401 ] || { echo "answered $closed without a key"; exit 1; }
curl --silent --fail --header "X-Api-Key: $key" \
  --json "{\"user_id\": \"$shopper\", \"reasons\": 1}" "http://127.0.0.1:$port/predict" \
  | python -c '
import json, sys
answer = json.load(sys.stdin)
assert answer["items"] and not answer["degraded"] and not answer["cold_start"], answer
print("answered", len(answer["items"]), "items by", answer["model"])'
sleep 3
find "$work/data/predictions" -name '*.parquet' -user 1034 | grep -q . || { echo "nothing logged"; exit 1; }
kill -- "-$server"
for _ in $(seq 100); do
  curl --silent "http://127.0.0.1:$port/livez" > /dev/null || break
  sleep 0.2
done
echo "== user $user in the container answered and logged: done"
