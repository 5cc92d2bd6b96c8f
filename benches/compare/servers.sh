# shellcheck shell=bash
# The servers under comparison: starts a manager, gupd and nginx proxy_cache on loopback in one temporary folder, and
# reads what they cost. Sourced by `run` and `cold`, which set `access_log` (1 or 0) and `binaries` before they start
# anything. Stops, by process id, what it started, and nothing else.

: "${access_log:?}" "${binaries?}"
PATH=$PATH:/usr/sbin:/sbin
cores=$(nproc)
# Digits and points as C writes them, whatever the machine's language.
export LC_ALL=C

die() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}
say() { printf '%s\n' "$*" >&2; }

# need COMMAND:PACKAGE... - installs what is missing when root, says how to get it otherwise.
need() {
    local pair packages=()
    for pair in "$@"; do command -v "${pair%%:*}" >/dev/null || packages+=("${pair##*:}"); done
    ((${#packages[@]})) || return 0
    ((EUID == 0)) || die "missing: ${packages[*]}; get them with: sudo apt-get install ${packages[*]}"
    say "installing ${packages[*]}"
    DEBIAN_FRONTEND=noninteractive
    export DEBIAN_FRONTEND
    apt-get update -qq && apt-get install -y -qq --no-install-recommends "${packages[@]}" >/dev/null
    if [[ " ${packages[*]} " == *" nginx-light "* && -d /run/systemd/system ]]; then
        systemctl disable --quiet --now nginx
    fi
}

# Folder for everything: the origin's files, both caches (so on one disk), logs.
work=$(mktemp -d "${TMPDIR:-/tmp}/gupd-compare.XXXXXX")
started=()
stop_all() {
    local i
    # Newest first: the relays before their manager.
    for ((i = ${#started[@]} - 1; i >= 0; i--)); do stop "${started[i]}"; done
    rm -rf "$work"
}
stop() {
    local pid=$1 other left=()
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    for other in "${started[@]}"; do [[ $other == "$pid" ]] || left+=("$other"); done
    started=("${left[@]}")
}
trap stop_all EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# A port of loopback nobody listens on; from below the range the kernel gives to outgoing connections.
free_port() {
    local port
    while :; do
        port=$((20000 + RANDOM % 10000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    printf '%s' "$port"
}

# await PORT PID NAME - until the server listens; it is polled because nginx has no way to say so.
await() {
    local _
    for _ in {1..200}; do
        (exec 3<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null && return
        kill -0 "$2" 2>/dev/null || break
        sleep 0.05
    done
    tail -n 20 "$work/$3".* >&2 2>/dev/null
    die "$3 did not start"
}

# Names as the manager has them, so that gupd knows the files for payloads. The braces are percent-encoded in URLs.
guid='{535CB6A4-441F-4e8a-A897-804CD859100E}'
url_path() { printf '/content/%%7B%s%%7D/%s/full.zip' "${guid:1:-1}" "$1"; }
origin_file() { printf '%s/origin/content/%s/%s/full.zip' "$work" "$guid" "$1"; }

# make_file SEQUENCE BYTES - random, so that nothing on the way can make it smaller.
make_file() {
    mkdir -p "$(dirname "$(origin_file "$1")")"
    head -c "$2" /dev/urandom >"$(origin_file "$1")"
}

# nginx_conf NAME ACCESS_LOG: the part both nginx have in common; the server block comes on stdin.
nginx_conf() {
    mkdir -p "$work/$1.tmp"
    {
        # Started as root it would give its files to another account, which cannot enter the folder.
        ((EUID)) || echo "user $(id -un) $(id -gn);"
        cat <<CONF
worker_processes $cores;
worker_rlimit_nofile 65536;
daemon off;
pid $work/$1.pid;
error_log $work/$1.error warn;
events { worker_connections 8192; }
http {
    sendfile on;
    tcp_nodelay on;
    keepalive_timeout 300s;
    keepalive_requests 1000000000;
    open_file_cache max=10000 inactive=300s;
    open_file_cache_valid 300s;
    open_file_cache_min_uses 1;
    types { application/zip zip; }
    log_format fill '\$status \$bytes_sent \$request_time "\$http_range" \$request_uri';
    access_log $2;
    client_body_temp_path $work/$1.tmp/body;
    fastcgi_temp_path $work/$1.tmp/fastcgi;
    uwsgi_temp_path $work/$1.tmp/uwsgi;
    scgi_temp_path $work/$1.tmp/scgi;
    proxy_temp_path $work/$1.tmp/proxy;
CONF
        cat
        echo '}'
    } >"$work/$1.conf"
}

# start_manager: a plain nginx with the generated files. Sets manager_port, manager_pid.
start_manager() {
    manager_port=$(free_port)
    # The small send buffer makes the request's time the time its last byte left.
    nginx_conf manager "$work/manager.access fill" <<CONF
    server {
        listen 127.0.0.1:$manager_port backlog=4096 sndbuf=256k;
        root $work/origin;
    }
CONF
    nginx -p "$work" -e "$work/manager.error" -c "$work/manager.conf" 2>"$work/manager.stderr" &
    manager_pid=$!
    started+=("$manager_pid")
    await "$manager_port" "$manager_pid" manager
}

# start_nginx UPSTREAM_PORT: proxy_cache as an experienced administrator would set it up. Sets nginx_pid, and
# nginx_port[on] and nginx_port[off]: tcp_nopush is worth a tenth at 1 KiB, and on loopback, whose packets are as large
# as the objects, costs most of the throughput at 64 KiB. `run` takes the better one for each size.
declare -A nginx_port
start_nginx() {
    nginx_port=([on]=$(free_port) [off]=$(free_port))
    local log=off nopush
    ((!access_log)) || log="$work/nginx.access combined buffer=64k flush=1s"
    {
        cat <<CONF
    proxy_cache_path $work/nginx-cache levels=1:2 keys_zone=content:64m max_size=100g inactive=7d use_temp_path=off;
    proxy_cache_key \$request_uri;
    upstream manager {
        server 127.0.0.1:$1;
        keepalive 32;
    }
CONF
        # The lock's times are raised from 5 s: past them nginx fetches a large object once more for each client.
        for nopush in on off; do
            cat <<CONF
    server {
        listen 127.0.0.1:${nginx_port[$nopush]} reuseport backlog=4096;
        tcp_nopush $nopush;
        location / {
            proxy_pass http://manager;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_cache content;
            proxy_cache_valid 200 30d;
            proxy_cache_lock on;
            proxy_cache_lock_age 10m;
            proxy_cache_lock_timeout 10m;
            proxy_cache_use_stale error timeout updating;
            add_header Cache-Status \$upstream_cache_status;
        }
    }
CONF
        done
    } | nginx_conf nginx "$log"
    nginx -p "$work" -e "$work/nginx.error" -c "$work/nginx.conf" 2>"$work/nginx.stderr" &
    nginx_pid=$!
    started+=("$nginx_pid")
    await "${nginx_port[on]}" "$nginx_pid" nginx
}

# start_gupd UPSTREAM_PORT MEMORY [NAME]: the relay with its defaults but for what is compared. Sets gupd_port, gupd_pid.
start_gupd() {
    local name=${3:-gupd} unbounded
    # All requests come from one address. Commits before the budgets of clients do not know the section.
    unbounded=''
    grep -qa new_names "$binaries/gupd" && unbounded=$'[clients]\nnew_names = "unlimited"\nnew_bytes = "unlimited"\nupstream_requests = "unlimited"\n'
    gupd_port=$(free_port)
    # wrk is one client: its share of the connections is large enough.
    printf '[server]\nmax_connections = 8192\n' >"$work/$name.toml"
    printf '[store]\nmemory = "%s"\n%s[log]\naccess = %s\n' \
        "$2" "$unbounded" "$( ((access_log)) && echo true || echo false)" >>"$work/$name.toml"
    "$binaries/gupd" serve --config "$work/$name.toml" --listen "127.0.0.1:$gupd_port" \
        --upstream "http://127.0.0.1:$1" --store "$work/$name-store" --admin "127.0.0.1:$(free_port)" \
        >"$work/$name.access" 2>"$work/$name.error" &
    gupd_pid=$!
    started+=("$gupd_pid")
    await "$gupd_port" "$gupd_pid" "$name"
}

# processes PID - it and all below it.
processes() {
    local child
    printf '%s\n' "$1"
    cat "/proc/$1"/task/*/children 2>/dev/null | tr ' ' '\n' | while read -r child; do processes "$child"; done
}

# cpu_ticks PID - user and system time of its processes, all threads, in clock ticks.
cpu_ticks() {
    local pid stat fields total=0
    for pid in $(processes "$1"); do
        read -r stat <"/proc/$pid/stat" || continue
        # The name in parentheses may have blanks: what follows it begins with field 3.
        read -ra fields <<<"${stat##*) }"
        total=$((total + fields[11] + fields[12]))
    done
    printf '%s' "$total"
}

# peak_memory_mib PID - the most resident memory it had (VmHWM).
peak_memory_mib() { awk '/^VmHWM:/ { printf "%.0f", $2 / 1024 }' "/proc/$1/status"; }

# median - of the numbers on stdin.
median() { sort -g | awk '{ v[NR] = $1 } END { print NR % 2 ? v[(NR + 1) / 2] : (v[NR / 2] + v[NR / 2 + 1]) / 2 }'; }

# What the figures were measured on, as Markdown; names neither the machine nor its folders.
facts() {
    printf -- '- %s cores (%s), %s GiB of memory, Linux %s\n' "$cores" \
        "$(awk -F': *' '/^model name/ { print $2; exit }' /proc/cpuinfo)" \
        "$(awk '/^MemTotal/ { printf "%.0f", $2 / 1048576 }' /proc/meminfo)" "$(uname -r)"
    printf -- '- %s, nginx %s, %s; clients and servers share the machine\n' \
        "$("$binaries/gupd" --version)" "$(nginx -v 2>&1 | sed 's|.*/||')" "$(rustc --version | cut -d' ' -f1,2)"
}
