# The Debian packages on a machine of their own: Debian's own kernel and systemd under qemu, with AppArmor.

# Boots what tests/bootable made (or BASE, made like that), runs the bash code on standard input there as root, and passes its
# output and status on. The code finds $work/given as /given: boot [BASE [KERNEL-OPTION...]]
boot() {
    local base=${1-} limit=${PORTGRANT_BOOT_SECONDS-900}
    shift || true
    case $(dpkg --print-architecture) in
        amd64) qemu=(qemu-system-x86_64 -machine q35 -cpu qemu64) console=ttyS0 ;;
        *) skip "no machine is emulated for this architecture" ;;
    esac
    need "${qemu[0]}" qemu-system-x86
    need cpio cpio
    mkdir -p "$work"/guest/{sysroot,etc/systemd/system/multi-user.target.wants}
    if [ -z "$base" ]; then
        # It has no list of what is installed.
        base=$(tests/bootable)
        mkdir -p "$work"/guest/var/lib/dpkg/{info,updates,triggers}
        touch "$work/guest/var/lib/dpkg/"{status,available}
    fi
    cp -rL "$work/given" "$work/guest/given"
    cat >"$work/guest/code"
    # The kernel's first program: pivot_root(2) and mount namespaces want a root that is a mount.
    cat >"$work/guest/init" <<'INIT'
#!/bin/sh
mount --bind / /sysroot && cd /sysroot && mount --move . / && exec chroot . /lib/systemd/systemd
INIT
    chmod 755 "$work/guest/init"
    cat >"$work/guest/etc/systemd/system/test.service" <<'UNIT'
[Unit]
After=network.target
SuccessAction=poweroff-immediate
FailureAction=poweroff-immediate
[Service]
ExecStart=/bin/bash -c '(set -euxo pipefail; . /code) 2>&1 | sed -u "s/^/> /" >/dev/console; echo "> == the end $${PIPESTATUS[0]}" >/dev/console; sleep 5'
UNIT
    ln -s ../test.service "$work/guest/etc/systemd/system/multi-user.target.wants/"
    (cd "$work/guest" && find . | cpio --create --format=newc --owner=0:0 --quiet) | cat "$base/root.cpio" - >"$work/initrd"
    # no_timer_check: on a busy machine the emulated timer is late, and the kernel would give up.
    timeout "$limit" "${qemu[@]}" -accel tcg,thread=multi -smp 2 -m 4G -nic none -display none -monitor none -no-reboot \
        -serial "file:$work/console" -kernel "$base/kernel" -initrd "$work/initrd" -append \
        "console=$console panic=-1 no_timer_check quiet apparmor=1 systemd.show_status=no systemd.mask=getty.target systemd.log_target=journal $*" || true
    sed 's/\r$//' "$work/console"
    grep -q '^> == the end 0' <(sed 's/\r$//' "$work/console")
}

the_kernel_mode_survives_an_upgrade_and_is_gone_after_removal_under_apparmor() (
    for version in 0.1.0-1 0.1.1-1; do
        mkdir -p "$work/given/$version"
        cp "$(debs "$version")"/*.deb "$work/given/$version"
    done
    readme_units "$work/given"
    boot <<'INSIDE'
    fails() { if "$@"; then echo "this did not fail: $*"; return 1; fi; }
    rm -f /usr/sbin/policy-rc.d
    binds() { runuser -u www-data -- python3 -c "import socket; socket.socket().bind(('127.0.0.1', $1))"; }
    mount -t securityfs securityfs /sys/kernel/security 2>/dev/null || true
    [ "$(cat /sys/module/apparmor/parameters/enabled)" = Y ]
    dpkg -i --force-depends /given/0.1.0-1/*.deb
    [ "$(systemctl is-enabled portgrant-kernel)" = disabled ]
    fails binds 80
    # The unit of README.md.
    useradd --create-home alice
    cat >/home/alice/server <<'SERVER'
#!/usr/bin/python3
import socket
server = socket.socket(fileno=3)
while True: client, _ = server.accept(); client.sendall(b"hello\n"); client.close()
SERVER
    chmod 755 /home/alice /home/alice/server
    echo 'permit alice 80' >/etc/portgrant.conf
    for unit in web hardened; do
        sed 's|/usr/local/bin/|/usr/bin/|' /given/$unit.service >/etc/systemd/system/$unit.service
        systemctl daemon-reload
        systemctl enable --now $unit
        until said=$(cat </dev/tcp/127.0.0.1/80); do sleep 0.5; done
        [ "$said" = hello ]
        systemctl disable --now $unit
    done
    echo 'permit www-data 80' >/etc/portgrant.conf
    # The package has loaded its profile.
    grep -F 'portgrant-kernel (enforce)' /sys/kernel/security/apparmor/profiles
    systemctl enable --now portgrant-kernel portgrant-kernel-audit
    binds 80
    fails binds 81
    pid=$(systemctl show --property=MainPID --value portgrant-kernel-audit)
    [ "$(cat /proc/$pid/attr/current)" = "portgrant-kernel (enforce)" ]
    # A policy that is loaded is there during the whole upgrade.
    (while [ ! -e /run/enough ]; do binds 80 || touch /run/failed; done) & loop=$!
    since=$(portgrant-kernel show | sed -n 's/.*loaded: \([^,]*\),.*/\1/p')
    dpkg -i --force-depends /given/0.1.1-1/*.deb
    [ "$(portgrant-kernel show | sed -n 's/.*loaded: \([^,]*\),.*/\1/p')" = "$since" ]
    touch /run/enough
    wait $loop
    [ ! -e /run/failed ]
    # The unit takes up a changed policy.
    echo 'permit www-data 81' >/etc/portgrant.conf
    systemctl reload portgrant-kernel
    binds 81
    fails binds 80
    sleep 3
    systemctl is-active portgrant-kernel portgrant-kernel-audit
    # A unit that is masked does not keep the package from being upgraded or removed.
    systemctl mask portgrant-kernel-audit
    dpkg -i --force-depends /given/0.1.0-1/*.deb
    systemctl unmask portgrant-kernel-audit
    dpkg --purge --force-depends portgrant-kernel
    fails test -e /etc/apparmor.d/portgrant-kernel
    [ ! -e /sys/fs/bpf/portgrant ]
    fails binds 81
    fails systemctl is-active portgrant-kernel
    runuser -u www-data -- portgrant exec -l 81 -- true
    dpkg --purge --force-depends portgrant
    [ ! -e /etc/portgrant.conf ]
    fails journalctl --boot --grep 'apparmor="DENIED"' --quiet
INSIDE
)

a_machine_without_cgroup_v2_gets_the_packages_and_is_told_what_the_kernel_mode_lacks() (
    mkdir -p "$work/given"
    cp "$(debs)"/*.deb "$work/given"
    boot "" systemd.unified_cgroup_hierarchy=0 systemd.legacy_systemd_cgroup_controller=1 <<'INSIDE'
    fails() { if "$@"; then echo "this did not fail: $*"; return 1; fi; }
    rm -f /usr/sbin/policy-rc.d
    fails grep ' cgroup2 ' /proc/self/mounts
    dpkg -i --force-depends /given/*.deb 2>&1 | tee /run/said
    grep -F 'portgrant-kernel: this machine has no cgroup v2' /run/said
    [ "$(dpkg-query -W -f '${db:Status-Status}' portgrant-kernel)" = installed ]
    echo 'permit www-data 80' >/etc/portgrant.conf
    fails systemctl start portgrant-kernel
    journalctl --boot --unit portgrant-kernel --output cat | grep -F 'cgroup'
    portgrant doctor | grep -F 'no cgroup v2'
    # The rest works.
    runuser -u www-data -- portgrant exec -l 80 -- true
    dpkg --purge --force-depends portgrant-kernel portgrant
INSIDE
)
