#!/usr/bin/env bash
# Whether the relay yields to others on a thin line: 10 Mbit/s with 200 ms of buffer between network namespaces, the
# worst line that people still use. Prints what of the line the relay had alone, and what a download beside it had, as
# shares of what each of them had without the other. Needs root, tc with tbf, nginx and curl.
#
#   benches/compare/polite.sh [PROGRAM]      by default the release build
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
PATH=$PATH:/usr/sbin:/sbin

program=${1:-}
if [[ -z $program ]]; then
    cargo build --release --quiet
    program=target/release/gupd
fi
rate=10 # Mbit/s
seconds=20
work=$(mktemp -d)
site=gupd-site-$$
line=gupd-line-$$
centre=gupd-centre-$$
jobs=()
cleanup() {
    ((${#jobs[@]} == 0)) || kill "${jobs[@]}" 2>/dev/null || true
    wait 2>/dev/null || true
    for place in "$site" "$line" "$centre"; do ip netns del "$place" 2>/dev/null || true; done
    rm -rf "$work"
}
trap cleanup EXIT

for place in "$site" "$line" "$centre"; do
    ip netns add "$place"
    ip -n "$place" link set lo up
done
# The line is a router of its own: a queue in the sender's machine would hold each connection back by itself.
ip -n "$line" link add centre type veth peer name line netns "$centre"
ip -n "$line" link add site type veth peer name line netns "$site"
ip -n "$centre" address add 192.0.2.1/24 dev line
ip -n "$line" address add 192.0.2.254/24 dev centre
ip -n "$line" address add 198.51.100.254/24 dev site
ip -n "$site" address add 198.51.100.2/24 dev line
for end in "$centre line" "$line centre" "$line site" "$site line"; do
    ip -n "${end% *}" link set "${end#* }" up
done
ip netns exec "$line" sysctl -q net.ipv4.ip_forward=1
# What fills the buffer, as most servers do.
ip -n "$centre" route add default via 192.0.2.254 congctl "${CONGESTION:-cubic}"
ip -n "$site" route add default via 198.51.100.254
tc -n "$line" qdisc add dev site root tbf rate ${rate}mbit burst 20kb latency 200ms

mkdir -p "$work/files/content"
head -c 512M /dev/zero >"$work/files/content/a.zip"
cp "$work/files/content/a.zip" "$work/files/b.zip"
chmod -R a+rX "$work" # for the workers of nginx
cat >"$work/nginx.conf" <<CONF
daemon off;
pid $work/nginx.pid;
error_log $work/nginx.log;
events {}
http { access_log off; server { listen 192.0.2.1:8014; root $work/files; } }
CONF
ip netns exec "$centre" nginx -p "$work" -c "$work/nginx.conf" &
jobs+=($!)

relay() { # yield: true or false
    rm -rf "$work/store"
    GUPD_WAN_YIELD_TO_OTHERS=$1 ip netns exec "$site" "$program" serve --upstream http://192.0.2.1:8014 \
        --listen 127.0.0.1:2967 --admin 127.0.0.1:9467 --store "$work/store" >"$work/gupd.log" 2>&1 &
    served=$!
    jobs+=("$served")
    until ip netns exec "$site" curl -sf -o /dev/null http://127.0.0.1:9467/readyz; do sleep 0.1; done
    ip netns exec "$site" curl -s -o /dev/null http://127.0.0.1:2967/content/a.zip &
    asking=$!
    jobs+=("$asking")
}
stop() {
    kill -9 "$asking" "$served" 2>/dev/null || true
    wait "$asking" "$served" 2>/dev/null || true
}
crossed() { # bytes from the upstream so far
    ip netns exec "$site" curl -s http://127.0.0.1:9467/metrics |
        awk '/^gupd_upstream_received_bytes_total/ {print $2}'
}
other() { # bytes a second of a download beside the relay
    ip netns exec "$site" curl -sf -o /dev/null --max-time "$seconds" -w '%{speed_download}' http://192.0.2.1:8014/b.zip || true
}
share() { awk -v a="$1" -v b="$2" 'BEGIN {printf "%.3f", a / b}'; }

sleep 1
alone=$(other)
printf 'the other download alone        %8.0f B/s\n' "$alone"
for yields in false true; do
    relay "$yields"
    sleep 10
    before=$(crossed)
    sleep "$seconds"
    after=$(crossed)
    ours=$(((${after%.*} - ${before%.*}) / seconds))
    beside=$(other)
    stop
    printf 'yield_to_others = %-5s   relay alone %s of the line, the other beside it %s of its own\n' \
        "$yields" "$(share "$ours" "$alone")" "$(share "$beside" "$alone")"
done
