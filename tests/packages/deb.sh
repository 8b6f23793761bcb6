# The Debian packages, installed by apt into a clean $suite.

# Runs code in a clean Debian that has the packages of each VERSION in /given/VERSION: clean VERSION... <<CODE
clean() {
    local version folder programs
    mkdir -p "$work/given"
    for version in "$@"; do
        programs=()
        [ "$version" != 0.0.9-1 ] || programs=("$work/before")
        folder=$(debs "$version" "${programs[@]}")
        cp -r "$folder" "$work/given/$version"
    done
    { echo "explain=$explain"; cat tests/packages/deb-inside; cat; } | inside "$(tests/packages/root "$suite")" "$work/given"
}

the_packages_hold_what_contents_lists() (
    list() {
        dpkg-deb --fsys-tarfile "$(debs)/$1_0.1.0-1_amd64.deb" | tar -t | sed 's/^\.//' |
            grep -vE '/$|/lintian/|/(changelog|copyright|README|SECURITY|NEWS)[^/]*$|/replace-helper$|/apparmor.d/' | sed 's/\.gz$//' | sort
    }
    for package in portgrant portgrant-kernel; do
        packaging/install --list --package $package /usr | awk -F '\t' '
            $3 ~ /LICENSE/ || $2 == "folder" { next }
            $2 == "helper" { $3 = $3 ".unprivileged" }
            { print $3 }' | sort >"$work/contents"
        list $package | diff "$work/contents" -
    done
    # Nobody has privilege before the maintainer script gives it.
    dpkg-deb -c "$(debs)"/portgrant_*.deb >"$work/list"
    awk '$1 ~ /s/ || $2 != "root/root"' "$work/list" | diff /dev/null -
)

an_unprivileged_user_does_the_first_commands_of_the_readme() (
    clean 0.1.0-1 <<'INSIDE'
    began=$(date +%s%N)
    install 0.1.0-1
    fresh
    echo 'permit alice 80' | tee /etc/portgrant.conf
    cat >/run/server <<'SERVER'
#!/usr/bin/perl
use Socket;
open(my $socket, "+<&=", 3) or die;
my ($port) = sockaddr_in6(getsockname($socket));
print "$ENV{LISTEN_FDS} $port\n";
SERVER
    chmod 755 /run/server
    cd /run
    [ "$(as alice portgrant exec -l 80 -- ./server)" = "1 80" ]
    echo "measured: $((($(date +%s%N) - began) / 1000000)) ms from apt install to the first granted port"
    files=$(dpkg -L portgrant | while read -r file; do [ -d "$file" ] || echo "$file"; done | wc -l)
    privileged=$({ getcap -r /usr; find / -xdev -perm /6000 ! -type d; true; } 2>/dev/null | grep -c portgrant)
    [ "$privileged" = 1 ]
    echo "measured: $(dpkg-query -W -f '${Installed-Size}' portgrant) KiB in $files files, $privileged of them with privilege"
    status=0
    said=$(as alice portgrant exec -l 81 -- ./server 2>&1) || status=$?
    [ $status = 77 ]
    grep -F 'fix: as root, add  permit alice 81' <<<"$said"
    fails as bob portgrant exec -l 80 -- ./server
    # A program that binds for itself.
    as alice portgrant run -- perl -MSocket -e '
        socket(my $s, PF_INET, SOCK_STREAM, 0) or die; bind($s, pack_sockaddr_in(80, INADDR_LOOPBACK)) or die "bind: $!"'
    as alice portgrant explain 80
    as alice portgrant list | grep 80
    portgrant check
    portgrant recipe nginx >/run/recipe
    as alice portgrant doctor >/run/doctor || { cat /run/doctor; exit 1; }
    dpkg -V portgrant
INSIDE
)

the_kernel_mode_is_installed_and_nothing_is_loaded() (
    clean 0.1.0-1 0.1.1-1 <<'INSIDE'
    # A unit that the administrator masked.
    mkdir -p /etc/systemd/system
    ln -s /dev/null /etc/systemd/system/portgrant-kernel.service
    # Nothing is mounted below /sys here, as on a machine with an old kernel.
    install 0.1.0-1 portgrant portgrant-kernel | tee /run/said
    grep -A 1 -F 'portgrant-kernel: this machine has no cgroup v2' /run/said | grep 'fix: '
    portgrant doctor >/run/doctor || true
    grep -F 'no cgroup v2' /run/doctor
    status=0; portgrant-kernel load 2>/run/load || status=$?
    [ $status = 69 ]
    grep -F 'no cgroup2 file system is mounted' /run/load
    portgrant-kernel --version
    mount -t sysfs sysfs /sys
    mount -t cgroup2 cgroup2 /sys/fs/cgroup
    install 0.1.1-1 portgrant portgrant-kernel | tee /run/said
    fails grep -F 'this machine has no' /run/said
    umount -R /sys
    [ "$(readlink /etc/systemd/system/portgrant-kernel.service)" = /dev/null ]
    [ -z "$(find /etc/systemd -name '*portgrant*' ! -name portgrant-kernel.service)" ]
    apt-get -qq purge portgrant-kernel
    fails test -e /usr/sbin/portgrant-kernel
    echo 'permit alice 80' >/etc/portgrant.conf
    as alice portgrant exec -l 80 -- true
INSIDE
)

no_start_fails_while_the_package_is_upgraded_and_downgraded() (
    clean 0.1.0-1 0.1.1-1 <<INSIDE
    # The quick part of all, and the others.
    case $suite in bookworm) rounds=10 ;; *) rounds=50 ;; esac
    install 0.1.0-1
    echo 'permit alice 80' >/etc/portgrant.conf
    starts
    for _ in \$(seq \$((rounds / 2))); do
        dpkg -i /given/0.1.1-1/portgrant_*.deb
        dpkg -i --force-downgrade /given/0.1.0-1/portgrant_*.deb
    done >/run/log
    count "\$rounds upgrades"
    [ "\$(cat /etc/portgrant.conf)" = "permit alice 80" ]
INSIDE
)

a_failed_upgrade_leaves_the_old_helper_working() (
    clean 0.1.0-1 0.1.1-1 <<'INSIDE'
    install 0.1.0-1
    echo 'permit alice 80 81' >/etc/portgrant.conf
    starts
    helper=$(stat -c %i $HELPER)
    # One that refuses to be unpacked.
    dpkg-deb -R /given/0.1.1-1/portgrant_*.deb /run/broken
    printf '#!/bin/sh\nexit 1\n' >/run/broken/DEBIAN/preinst
    dpkg-deb -b /run/broken /run/broken.deb
    fails dpkg -i /run/broken.deb
    [ "$(dpkg-query -W -f '${Version} ${db:Status-Status}' portgrant)" = "0.1.0-1 installed" ]
    # One that is unpacked and not configured.
    dpkg --unpack /given/0.1.1-1/portgrant_*.deb
    [ "$(stat -c %i $HELPER)" = "$helper" ]
    as alice portgrant exec -l 81 -- true
    count "failed upgrades"
    # A full disk while the helper is replaced.
    cp -a /usr/libexec/portgrant /run/libexec
    mount -t tmpfs -o mode=0755,size=9m small /usr/libexec/portgrant
    cp -a /run/libexec/. /usr/libexec/portgrant
    dd if=/dev/zero of=/usr/libexec/portgrant/fill bs=64k || true
    fails dpkg --configure portgrant
    as alice portgrant exec -l 81 -- true
    rm /usr/libexec/portgrant/fill
    dpkg --configure portgrant
    [ "$(ls -A /usr/libexec/portgrant | grep -c '^\.')" = 0 ]
INSIDE
)

dpkg_statoverride_is_respected() (
    clean 0.1.0-1 0.1.1-1 <<'INSIDE'
    install 0.1.0-1
    groupadd web
    usermod -aG web alice
    printf 'permit alice 80\npermit bob 80\n' >/etc/portgrant.conf
    # Setuid for one group; a capability for one group.
    for override in "4750 4750 " "750 750 cap_net_bind_service=p"; do
        read -r mode shown capability <<<"$override"
        dpkg-statoverride --force-all --update --add root web $mode $HELPER
        for version in 0.1.1-1 0.1.0-1; do
            dpkg -i --force-downgrade /given/$version/portgrant_*.deb
            [ "$(stat -c %U:%G:%a $HELPER)" = "root:web:$shown" ]
            [ "$(getcap $HELPER)" = "${capability:+$HELPER $capability}" ]
            as alice portgrant exec -l 80 -- true
            fails as bob portgrant exec -l 80 -- true
        done
    done
    # No privilege can be had, and that is said.
    dpkg-divert --rename /sbin/setcap
    said=$(dpkg -i /given/0.1.1-1/portgrant_*.deb 2>&1)
    grep -F "fix: dpkg-statoverride --force-all --update --add root web 4750 $HELPER" <<<"$said"
    fails as alice portgrant exec -l 80 -- true
    eval "$(sed -n 's/^  fix: //p' <<<"$said" | head -n 1)"
    as alice portgrant exec -l 80 -- true
    dpkg-divert --rename --remove /sbin/setcap
    dpkg-statoverride --remove $HELPER
    dpkg -i /given/0.1.1-1/portgrant_*.deb
    fresh
    as bob portgrant exec -l 80 -- true
INSIDE
)

the_policy_survives_upgrade_and_removal_and_a_purge_leaves_nothing() (
    clean 0.1.0-1 0.1.1-1 <<'INSIDE'
    everything >/run/before
    install 0.1.0-1 portgrant portgrant-kernel
    [ "$(stat -c %U:%G:%a /etc/portgrant.conf)" = root:root:644 ]
    portgrant check
    echo 'permit alice 80' >/etc/portgrant.conf
    echo 'permit bob 81' >/etc/portgrant.d/bob.conf
    install 0.1.1-1 portgrant portgrant-kernel
    as bob portgrant exec -l 81 -- true
    apt-get -qq remove portgrant
    [ "$(cat /etc/portgrant.conf /etc/portgrant.d/bob.conf)" = $'permit alice 80\npermit bob 81' ]
    [ -z "$(everything | grep portgrant | grep -vE '^/etc/(portgrant|apparmor.d/)')" ]
    install 0.1.1-1 portgrant
    as bob portgrant exec -l 81 -- true
    # What was deleted stays deleted.
    rm /etc/portgrant.conf
    dpkg -i --force-downgrade /given/0.1.0-1/portgrant_*.deb
    fails test -e /etc/portgrant.conf
    apt-get -qq purge portgrant portgrant-kernel
    everything | diff /run/before -
    [ -z "$(dpkg-query -W portgrant portgrant-kernel 2>/dev/null)" ]
INSIDE
)

without_capabilities_it_is_setuid_and_where_neither_works_that_is_said() (
    clean 0.1.0-1 <<'INSIDE'
    echo 'permit alice 80' >/etc/portgrant.conf
    mkdir -p /usr/libexec/portgrant
    mount -t ramfs -o mode=0755 plain /usr/libexec/portgrant
    install 0.1.0-1
    [ "$(stat -c %a $HELPER)" = 4755 ]
    as alice portgrant exec -l 80 -- true
    apt-get -qq purge portgrant
    umount /usr/libexec/portgrant 2>/dev/null || true
    mkdir -p /usr/libexec/portgrant
    mount -t tmpfs -o mode=0755,nosuid inert /usr/libexec/portgrant
    install 0.1.0-1 >/run/said
    grep -A 1 nosuid /run/said | grep 'fix: '
    [ "$(dpkg-query -W -f '${db:Status-Status}' portgrant)" = installed ]
    fails as alice portgrant exec -l 80 -- true
    fails portgrant doctor >/run/doctor
    grep -E '^broken .*nosuid' /run/doctor
INSIDE
)

it_is_installed_in_a_container_without_privilege() (
    clean 0.1.0-1 <<'INSIDE'
    echo 'permit alice 80' >/etc/portgrant.conf
    # Root of a user namespace that has 2,000 ids.
    unshare --user --net sleep infinity &
    while [ "$(readlink /proc/$!/ns/user)" = "$(readlink /proc/self/ns/user)" ]; do :; done
    echo "0 100000 2000" | tee /proc/$!/uid_map >/proc/$!/gid_map
    container=$!
    contained() { nsenter --user --net --target $container --setuid 0 --setgid 0 "$@"; }
    # As such containers are: everything belongs to its ids.
    find / -xdev -path /given -prune -o -print0 | xargs -0 chown -h 100000:100000
    contained dpkg -i /given/0.1.0-1/portgrant_*.deb
    [ "$(dpkg-query -W -f '${db:Status-Status}' portgrant)" = installed ]
    contained sh -c 'getcap /usr/libexec/portgrant/portgrant-binder
        setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all portgrant exec -l 80 -- true
        exec setpriv --reuid=1000 --regid=1000 --clear-groups --inh-caps=-all portgrant doctor' >/run/doctor || { cat /run/doctor; exit 1; }
    grep -F 'this is a user namespace' /run/doctor
INSIDE
)

# As Debian had it before 10. No package of Debian puts anything there, so nothing is wrong with it.
a_usr_local_that_a_group_may_write_to_changes_nothing() (
    clean 0.1.0-1 <<'INSIDE'
    chgrp staff /usr/local /usr/local/bin /usr/local/lib
    chmod 2775 /usr/local /usr/local/bin /usr/local/lib
    install 0.1.0-1 >/run/said
    fails grep -E '/usr/local|fix: ' /run/said
    fresh
    echo 'permit alice 80' >/etc/portgrant.conf
    as alice portgrant exec -l 80 -- true
    as alice portgrant doctor
INSIDE
)

another_installation_by_hand_is_left_alone() (
    mkdir -p "$work/given/source/target"
    cp -r packaging LICENSE-* "$work/given/source/"
    cp -r "$(built)" "$work/given/source/target/built"
    clean 0.1.0-1 <<'INSIDE'
    /given/source/packaging/install
    echo 'permit alice 80' >/etc/portgrant.conf
    install 0.1.0-1 >/run/said
    grep -F 'there is another portgrant in /usr/local' /run/said
    [ "$(cat /etc/portgrant.conf)" = 'permit alice 80' ]
    for doctor in /usr/bin/portgrant /usr/local/bin/portgrant; do as alice $doctor doctor; done
    as alice portgrant exec -l 80 -- true
    as alice /usr/bin/portgrant exec -l 80 -- true
    apt-get -qq purge portgrant
    as alice portgrant exec -l 80 -- true
INSIDE
)

what_the_new_version_makes_of_the_policy_is_printed_before_the_helper_is_replaced() (
    # A version before, for which port 80 meant port 25.
    cp -r "$(built)" "$work/before"
    cat >"$work/before/$explain" <<'BEFORE'
#!/bin/sh
/usr/libexec/portgrant/portgrant-real "$@" | sed 's/"80"/"25"/'
BEFORE
    clean 0.0.9-1 0.1.0-1 <<'INSIDE'
    install 0.0.9-1
    echo 'permit alice 80' >/etc/portgrant.conf
    dpkg-deb -x /given/0.1.0-1/portgrant_*.deb /run/new
    cp /run/new/usr/libexec/portgrant/$explain /usr/libexec/portgrant/portgrant-real
    said=$(dpkg -i /given/0.1.0-1/portgrant_*.deb 2>&1)
    echo "$said"
    [ "$(grep -c '^[<>]' <<<"$said")" = 2 ]
    grep -E '^< "alice": "/etc/portgrant.conf:1", .*"ports": \[ "25" \]' <<<"$said"
    grep -E '^> "alice": "/etc/portgrant.conf:1", .*"ports": \[ "80" \]' <<<"$said"
    # The same version changes nothing, and nothing is said.
    said=$(dpkg -i /given/0.1.0-1/portgrant_*.deb 2>&1)
    fails grep 'permits something else' <<<"$said"
    # A policy that this version refuses, as after a downgrade.
    echo 'permit alice 80/tdp' >/etc/portgrant.conf
    said=$(dpkg -i /given/0.1.0-1/portgrant_*.deb 2>&1)
    echo "$said"
    grep -F 'refuses the policy' <<<"$said"
    grep -F '/etc/portgrant.conf:1:' <<<"$said"
    [ "$(grep -n 'refuses the policy' <<<"$said" | cut -d: -f1)" -lt "$(grep -n 'cap_net_bind_service=p' <<<"$said" | cut -d: -f1)" ]
    [ "$(dpkg-query -W -f '${db:Status-Status}' portgrant)" = installed ]
    fails portgrant doctor >/run/doctor
    grep -E '^broken +policy ' /run/doctor
    [ ! -e /run/portgrant-before-upgrade ]
INSIDE
)
