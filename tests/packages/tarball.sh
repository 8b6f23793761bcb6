# The tarball of static programs.

# Unpacked in /given. PORTGRANT_STATIC names what packaging/build --static made already.
unpacked() {
    packaging/tarball "$work/tarball" ${PORTGRANT_STATIC:+--built "$PORTGRANT_STATIC"} >/dev/null
    (cd "$work/tarball" && sha256sum --check ./*.sha256)
    mkdir "$work/given"
    tar -x -C "$work/given" --strip-components=1 -f "$work"/tarball/*.tar.gz
}

no_program_in_it_needs_a_loader_or_holds_a_path_of_the_machine_that_built_it() (
    unpacked
    for program in $(awk '!/^#/ && $2 ~ /^(program|static|helper)$/ { print $3 }' packaging/contents); do
        headers=$(readelf --program-headers "$work/given/built/$program")
        fails grep INTERP <<<"$headers"
        for path in "$PWD" "${CARGO_HOME:-$HOME/.cargo}" "$(dirname "$target")" "$(rustc --print sysroot)"; do
            if grep -caF -- "$path" "$work/given/built/$program"; then fail "$program holds $path"; fi
        done
    done
)

# Such as Alpine, or an image from scratch.
it_works_where_there_is_nothing_but_busybox() (
    unpacked
    root=$work/scratch
    mkdir -p "$root"/{bin,etc,proc,dev,run,usr/bin,root,given,tmp}
    cp "$(busybox)" "$root/bin/busybox"
    for applet in $("$root/bin/busybox" --list); do
        ln -s busybox "$root/bin/$applet" 2>/dev/null || true
    done
    ln -s /bin/env "$root/usr/bin/env"
    # `inside` runs bash.
    cat >"$root/bin/bash" <<'BASH'
#!/bin/sh
# bash -euc CODE: the functions that tests have are written for bash.
sed -n '/^    /p' /run/code >/run/code.sh
exec sh -eu /run/code.sh
BASH
    chmod 755 "$work" "$root" "$root/bin/bash"
    touch "$root/etc/passwd" "$root/etc/group"
    inside "$root" "$work/given" <<'INSIDE'
    echo root:x:0:0::/root:/bin/sh >>/etc/passwd
    /given/packaging/install
    printf 'permit alice 80\npermit uid:1001 81\n' >/etc/portgrant.conf
    su alice -c 'portgrant exec -l 80 -- true'
    su bob -c 'portgrant exec -l 81 -- true'
    status=0; su alice -c 'portgrant exec -l 81 -- true' || status=$?
    [ $status = 77 ]
    su alice -c 'portgrant explain 80'
    su alice -c 'portgrant run -- true'
    portgrant check
    portgrant-kernel --version
    /given/packaging/uninstall
    [ ! -e /usr/local/bin/portgrant ]
INSIDE
)

# Without Rust: what packaging/static-names.c does to a static program of glibc.
a_static_program_loads_no_module_that_nsswitch_names() (
    mkdir "$work/given"
    cat >"$work/names.c" <<'NAMES'
#include <grp.h>
#include <netdb.h>
#include <pwd.h>
#include <stdio.h>
int main(void)
{
    gid_t groups[64];
    int n = 64;
    struct addrinfo *found;
    struct passwd *user = getpwnam("alice");
    printf("%s %s", user ? user->pw_dir : "none", getpwuid(4711) ? "somebody" : "nobody");
    printf(" %d", getgrouplist("alice", 1000, groups, &n));
    printf(" %s %s", getgrnam("bob") ? "group" : "none", getservbyname("http", "tcp") ? "service" : "none");
    printf(" %s\n", getaddrinfo("localhost", 0, 0, &found) ? "none" : "host");
}
NAMES
    # A module that ends every program that loads it.
    printf '#include <unistd.h>\n__attribute__((constructor)) static void end(void) { _exit(99); }\n' >"$work/poison.c"
    gcc -shared -fPIC -o "$work/given/libnss_poison.so.2" "$work/poison.c"
    gcc -static -w -o "$work/given/without" "$work/names.c"
    gcc -static -w -o "$work/given/with" "$work/names.c" packaging/static-names.c
    inside "$(tests/packages/root bookworm)" "$work/given" <<'INSIDE'
    cp /given/libnss_poison.so.2 "/lib/$(uname -m)-linux-gnu/"
    for table in passwd group shadow gshadow initgroups services protocols networks hosts; do
        echo "$table: poison files"
    done >/etc/nsswitch.conf
    echo 'http 80/tcp' >/etc/services
    echo '127.0.0.1 localhost' >/etc/hosts
    status=0; /given/without || status=$?
    [ $status = 99 ] # so it would be noticed
    [ "$(/given/with)" = "/ nobody 1 group service host" ]
INSIDE
)

names_are_looked_up_on_every_debian() (
    unpacked
    for suite in bookworm trixie sid; do
        inside "$(tests/packages/root "$suite" systemd,libnss-systemd,libnss-extrausers,apparmor)" "$work/given" <<'INSIDE'
    /given/packaging/install
    # The C library of the programs is not the system's. They must not fall over the system's modules.
    [ "$(find -L /lib -name 'libnss_systemd.so.2' -o -name 'libnss_extrausers.so.2' | wc -l)" -ge 2 ]
    sed -i -E 's/^(passwd|group|shadow):.*/\1: files extrausers systemd sss ldap/' /etc/nsswitch.conf
    printf 'permit alice 80\npermit :bob 81\n' >/etc/portgrant.conf
    as alice portgrant exec -l 80 -- true
    as bob portgrant exec -l 81 -- true
    portgrant explain --as-user alice 80
    portgrant exec --user alice -l 80 -- true
    for command in "explain --as-user nobodyatall 80" "exec --user nobodyatall -l 80 -- true" "list --as-user 4711" "who 80" check doctor; do
        status=0; portgrant $command || status=$?
        [ $status -lt 126 ]
    done
INSIDE
        rm -rf "$work/room"
    done
)

two_tarballs_of_the_same_programs_are_identical() (
    programs=${PORTGRANT_STATIC:-$(packaging/build --no-examples --static)}
    packaging/tarball "$work/one" --built "$programs"
    cp -r "$programs" "$work/copy"
    sleep 1.1
    touch "$work/copy"/*
    (umask 077 && TZ=Asia/Tokyo packaging/tarball "$work/two" --built "$work/copy")
    diff -r "$work/one" "$work/two"
)
