# packaging/ansible, by ansible-core of PyPI, on clean Debian machines that are namespaces here.

# Starts machines NAME..., writes an inventory of them, and sets $ansible. They end with the test.
machines() {
    local name python=$target/ansible
    if [ ! -x "$python/bin/ansible-playbook" ]; then
        rm -rf "$python"
        python3 -m venv "$python" && "$python/bin/pip" -q install 'ansible-core>=2.15'
    fi
    ansible=$python/bin/ansible-playbook
    export ANSIBLE_HOME=$work/home ANSIBLE_NOCOLOR=1 ANSIBLE_LOCALHOST_WARNING=false ANSIBLE_INVENTORY_UNPARSED_WARNING=false
    export ANSIBLE_SSH_TRANSFER_METHOD=piped ANSIBLE_PIPELINING=true ANSIBLE_ROLES_PATH=$work/roles
    mkdir -p "$work/roles" "$work/site"
    cp -r packaging/ansible "$work/roles/portgrant"
    cp "$(debs)"/*.deb "$work/site/"
    # In place of ssh(1): its last words are the host and the command.
    cat >"$work/ssh" <<SSH
#!/bin/bash
while [ \$# -gt 2 ]; do shift; done
exec nsenter --mount --net --pid --uts --ipc --target "\$(cat "$work/pid-\$1")" --wd=/ -- \
    env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root sh -c "\$2"
SSH
    chmod +x "$work/ssh"
    for name in "$@"; do
        mkdir -p "$work/of-$name"
        (work=$work/of-$name; inside "$(tests/packages/root bookworm python3,python3-apt)" "$work" <<<"exec sleep 7777") &
        machine=$!
        until pid=$(sleeper $machine); do
            kill -0 $machine
            sleep 0.1
        done
        echo "$pid" >"$work/pid-$name"
        ended+=("$pid")
        echo "$name ansible_ssh_executable=$work/ssh ansible_python_interpreter=/usr/bin/python3" >>"$work/inventory"
    done
    trap 'kill -KILL "${ended[@]}"' EXIT
}
ended=()
# The first process of the namespaces that a process of this one started: the one that sleeps.
sleeper() {
    local pid=$1
    while pid=$(pgrep -P "$pid" | head -n 1) && [ -n "$pid" ]; do
        [ "$(cat "/proc/$pid/comm" 2>/dev/null)" != sleep ] || { echo "$pid"; return; }
    done
    return 1
}
# Does what ssh does: on NAME CODE.
on() {
    "$work/ssh" "$1" "set -eu; $2"
}
# A playbook of the role with these variables: site VARIABLES.
site() {
    printf '%s\n' "- hosts: all" "  gather_facts: false" "  roles: [portgrant]" "  vars:" "${1//$'\n'/$'\n    '}" >"$work/site/site.yml"
    sed -i '5s/^/    /' "$work/site/site.yml"
}
# Runs it, and leaves in $work/changed which tasks changed something: play NAME [OPTION...].
play() {
    local status=0
    "$ansible" -i "$work/inventory" "$work/site/site.yml" "$@" >"$work/said" 2>&1 || status=$?
    cat "$work/said"
    # Of a task, and of each of its items.
    awk '/^TASK|^RUNNING/ { task = $0 } /^changed:/ { print task, $2, $NF }' "$work/said" >"$work/changed"
    return $status
}

it_installs_writes_the_policy_and_changes_nothing_the_second_time() (
    machines one two
    site 'portgrant_deb_files: [portgrant_0.1.0-1_amd64.deb]
portgrant_policy: |
  permit alice 80
portgrant_policy_files:
  web: |
    permit bob 443'
    # What it would do, and what it does.
    play --check
    would=$(grep -c . "$work/changed")
    fails on one 'command -v portgrant'
    on two 'test ! -e /etc/portgrant.conf'
    play
    [ "$(grep -c . "$work/changed")" = "$would" ]
    for machine in one two; do
        on $machine 'setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all portgrant exec -l 80 -- true'
        on $machine 'setpriv --reuid=1001 --regid=1001 --clear-groups --inh-caps=-all portgrant exec -l 443 -- true'
    done
    for option in "" --check; do
        play $option
        [ "$(grep -c 'changed=0 .*failed=0' "$work/said")" = 2 ]
    done
    play -e portgrant_report=true
    grep -c 'no difference' "$work/said"
)

a_policy_that_a_machine_refuses_changes_nothing_there() (
    machines one two
    site 'portgrant_deb_files: [portgrant_0.1.0-1_amd64.deb]
portgrant_policy: permit alice 80'
    play
    # Only the second machine knows whom this names.
    on two 'echo carol:x:1003:1003::/:/bin/sh >>/etc/passwd'
    site 'portgrant_deb_files: [portgrant_0.1.0-1_amd64.deb]
portgrant_policy_files: {denied: "deny carol any"}
portgrant_policy: permit alice 81'
    fails play --check
    grep -E '^one +: .*failed=1' "$work/said"
    grep -E '^two +: .*failed=0' "$work/said"
    fails play
    on one 'grep -x "permit alice 80" /etc/portgrant.conf; test ! -e /etc/portgrant.d/denied.conf; portgrant check'
    on two 'grep -x "permit alice 81" /etc/portgrant.conf; grep -x "deny carol any" /etc/portgrant.d/denied.conf; portgrant check'
    for machine in one two; do on $machine '! ls -d /tmp/*portgrant* /root/.ansible/tmp/* 2>/dev/null'; done
)

drift_is_found_reported_and_mended() (
    machines one two
    site 'portgrant_deb_files: [portgrant_0.1.0-1_amd64.deb, portgrant-kernel_0.1.0-1_amd64.deb]
portgrant_policy: permit alice 80
portgrant_policy_files: {web: permit bob 443}'
    play
    play -e portgrant_report=true
    on one 'portgrant-kernel --version'
    # Each kind of difference.
    on two 'echo "permit any 1-1023 reserved" >/etc/portgrant.d/forgotten.conf; chmod 0664 /etc/portgrant.conf
        echo "# a note" >>/etc/portgrant.d/web.conf; setcap -r /usr/libexec/portgrant/portgrant-binder'
    fails play -e portgrant_report=true
    grep -E '^one +: .*changed=0 .*failed=0' "$work/said"
    grep -E '^two +: .*changed=0 .*failed=1' "$work/said"
    for line in '/etc/portgrant.d/forgotten.conf is not wanted' '/etc/portgrant.conf belongs to root:root and has mode 0664' \
        '/etc/portgrant.d/web.conf has another content' 'the policy is refused' 'privilege: it has neither'; do
        grep -F "$line" "$work/said"
    done
    play --check
    cp "$work/changed" "$work/would"
    play
    diff "$work/would" "$work/changed"
    grep -E '^one +: .*changed=0' "$work/said"
    on two 'portgrant check; test ! -e /etc/portgrant.d/forgotten.conf'
    # The capability is the package'"'"'s matter: it was lost, and is still reported.
    fails play -e portgrant_report=true
    [ "$(grep -c 'privilege: it has neither' "$work/said")" = 1 ]
    fails grep 'is not wanted' "$work/said"
)

the_static_tarball_is_installed_once() (
    tarball=${PORTGRANT_TARBALL:-$(packaging/tarball "$work/tarball")}
    machines one
    cp "$tarball" "$tarball.sha256" "$work/site/"
    site "portgrant_tarball: $work/site/$(basename "$tarball")
portgrant_policy: permit alice 80"
    play --check
    would=$(grep -c . "$work/changed")
    fails on one 'command -v portgrant'
    play
    [ "$(grep -c . "$work/changed")" = "$would" ]
    on one 'setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all portgrant exec -l 80 -- true'
    play
    grep -E '^one +: .*changed=0 .*failed=0' "$work/said"
)
