# Shared by the scripts here and in tests: what the machine needs, and bringing Alfa, Beta and the ordinary server up.
# Sourced by bash; the caller has set `here` (the project's directory) and `say` (how it speaks).

# Installs from Debian's packages what is missing and says so: need COMMAND PACKAGE ...
need() {
    local missing=()
    while [ $# -gt 0 ]; do
        command -v "$1" >/dev/null || missing+=("$2")
        shift 2
    done
    [ ${#missing[@]} -eq 0 ] && return
    say "installing with apt: ${missing[*]}"
    # One at a time: what runs side by side may miss something at the same moment.
    (
        flock 7
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    ) 7>/run/lock/pec-need.lock
}

# Docker's engine answers, or is started, or we say what to do.
need_docker() {
    [ "$(id -u)" = 0 ] || { say "run this as root: it talks to Docker and may install packages"; exit 1; }
    need docker docker.io
    docker compose version >/dev/null 2>&1 || need docker-compose docker-compose
    docker info >/dev/null 2>&1 && return
    say "starting Docker's engine"
    if [ -d /run/systemd/system ]; then systemctl start docker; else service docker start >/dev/null 2>&1 || true; fi
    for _ in $(seq 50); do docker info >/dev/null 2>&1 && return; sleep 0.2; done
    say "Docker's engine does not answer. Start it (systemctl start docker, or dockerd &) and run this again."
    exit 1
}

compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose --project-name "$PEC_PROJECT" --file "$here/docker/compose.yaml" "$@"
    else
        docker-compose --project-name "$PEC_PROJECT" --file "$here/docker/compose.yaml" "$@"
    fi
}

# The accounts: file USERS has a line "HOST ADDRESS PASSWORD" for each.
make_users() {
    [ -s "$1" ] && return
    local host address
    while read -r host address; do
        echo "$host $address $(openssl rand -hex 6)"
    done > "$1" <<'USERS'
alfa anna@pec.alfa.test
alfa aldo@studio.example
alfa posta-certificata@gestore.alfa.test
alfa ricevute@gestore.alfa.test
beta bruno@pec.beta.test
beta protocollo@comune.example
beta segreteria@comune.example
beta posta-certificata@gestore.beta.test
beta ricevute@gestore.beta.test
posta carla@posta.test
USERS
}

# Writes what a person, a mail client or a test needs to reach everything: KEY=VALUE.
write_env() {
    local n=0 host address password
    {
        for host in ALFA:1 BETA:2; do
            echo "${host%:*}_SUBMISSION=127.0.0.1:$PEC_PORTS${host#*:}587"
            echo "${host%:*}_SUBMISSIONS=127.0.0.1:$PEC_PORTS${host#*:}465"
            echo "${host%:*}_IMAPS=127.0.0.1:$PEC_PORTS${host#*:}993"
            echo "${host%:*}_POP3S=127.0.0.1:$PEC_PORTS${host#*:}995"
            echo "${host%:*}_SMTP=127.0.0.1:$PEC_PORTS${host#*:}025"
        done
        echo "POSTA_IMAPS=127.0.0.1:${PEC_PORTS}3993"
        echo "POSTA_SMTP=127.0.0.1:${PEC_PORTS}3025"
        while read -r host address password; do
            n=$((n + 1))
            echo "USER_$n=$address"
            echo "PASSWORD_$n=$password"
            echo "SERVER_$n=${host^^}"
        done < "$PEC_HOME/users"
    } > "$PEC_HOME/env"
}

# Sets a host up on its volumes: set_up HOST [NAME=VALUE ...]
set_up() {
    local host=$1; shift
    local users; users=$(awk -v h="$host" '$1 == h {printf "%s:%s ", $2, $3}' "$PEC_HOME/users")
    local environment=(-e "USERS=$users")
    for setting; do environment+=(-e "$setting"); done
    docker run --rm --name "$PEC_PROJECT-$host-setup" --network none --hostname "mail.$host" \
        -v "$PEC_HOME/$host:/etc/pec" -v "$PEC_PROJECT-$host-etc-postfix:/etc/postfix" -v "$PEC_PROJECT-$host-etc-dovecot:/etc/dovecot" \
        -v "$PEC_PROJECT-$host-queue:/var/spool/postfix" -v "$PEC_PROJECT-$host-mail:/var/mail/pec" -v "$PEC_PROJECT-$host-store:/var/lib/pec" \
        -v "$PEC_PROJECT-$host-postgres-$PEC_POSTGRES:/var/lib/postgresql" \
        "${environment[@]}" "pec:$PEC_BASE" /opt/pec/provider/setup
}

# Waits for jobs in the background; if one fails, says which, and that is the end: wait_for PID:NAME ...
wait_for() {
    local job failed=""
    for job; do
        wait "${job%%:*}" || failed+=" ${job#*:}"
    done
    [ -z "$failed" ] || { say "setting up failed for$failed; the reason stands above"; exit 1; }
}

# Everything, from nothing to three hosts that answer. PEC_PROJECT, PEC_BASE, PEC_HOME and PEC_PORTS are set; PEC_BUILT, if
# the image is there already: cargo would wait for whatever compiles just then.
bring_up() {
    # Debian's own Python, whatever else is on PATH: it is what the callers run.
    need openssl openssl /usr/bin/python3 python3
    [ -n "${PEC_BUILT-}" ] || "$here/docker/build" "$PEC_BASE"
    PEC_POSTGRES=$(docker run --rm "pec:$PEC_BASE" sh -c 'ls /usr/lib/postgresql')
    export PEC_PROJECT PEC_BASE PEC_HOME PEC_PORTS PEC_POSTGRES
    mkdir -p "$PEC_HOME"
    say "keys, certificates, directory of providers"
    "$here/docker/pki" "$PEC_HOME"
    make_users "$PEC_HOME/users"
    write_env
    say "setting up Alfa, Beta and the ordinary server"
    local setting_up=()
    set_up alfa KIND=pec HOST=mail.gestore.alfa.test SERVICE_DOMAIN=gestore.alfa.test "PROVIDER_NAME=Alfa PEC S.p.A." "DOMAINS=pec.alfa.test studio.example" & setting_up+=($!:alfa)
    set_up beta KIND=pec HOST=mail.gestore.beta.test SERVICE_DOMAIN=gestore.beta.test "PROVIDER_NAME=Beta Posta S.r.l." "DOMAINS=pec.beta.test comune.example" & setting_up+=($!:beta)
    set_up posta KIND=ordinary HOST=mail.posta.test DOMAINS=posta.test & setting_up+=($!:posta)
    wait_for "${setting_up[@]}"
    say "starting them"
    compose up --detach >"$PEC_HOME/compose.log" 2>&1 || { tail -20 "$PEC_HOME/compose.log" >&2; exit 1; }
}

# Takes everything of this project away: containers, volumes, network.
take_down() {
    local things
    things=$(docker ps -aq --filter "name=^$PEC_PROJECT-")
    [ -z "$things" ] || docker rm -f $things >/dev/null
    things=$(docker volume ls -q --filter "name=^$PEC_PROJECT-")
    [ -z "$things" ] || docker volume rm -f $things >/dev/null
    docker network rm "$PEC_PROJECT" >/dev/null 2>&1 || true
}
