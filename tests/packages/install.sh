# packaging/build, packaging/install, packaging/uninstall and packaging/replace-helper.

# A clean Debian, and in /given a checkout with what was built, as an administrator has it.
given() {
    mkdir -p "$work/source/target"
    cp -r packaging LICENSE-* "$work/source/"
    cp -r "$(built)" "$work/source/target/built"
}
machine() {
    given
    inside "$(tests/packages/root bookworm)" "$work/source"
}

all_options_are_listed_by_help_and_others_are_refused() (
    for command in build install uninstall; do
        grep -qF "Usage: packaging/$command" <<<"$("packaging/$command" --help)"
        status=0
        said=$("packaging/$command" --nonsense 2>&1) || status=$?
        [ "$status" = 64 ]
        grep -F "'--nonsense'" <<<"$said"
    done
    for wrong in "--package nonsense" "--privilege nonsense" "--destdir" "/with|bar"; do
        status=0
        packaging/install --list $wrong || status=$?
        [ "$status" = 64 ] || fail "packaging/install --list $wrong: status $status"
    done
)

every_manual_page_completion_and_unit_is_in_a_package() (
    for file in packaging/man/* packaging/completions/* packaging/systemd/* packaging/*.conf LICENSE-*; do
        grep -qE "^portgrant.* $file " packaging/contents || fail "$file is not in packaging/contents"
    done
)

# A launcher that was started before an upgrade still executes the old name.
a_renamed_program_keeps_its_old_name_for_one_version() (
    packaging/install --built "$(built)" --destdir "$work/stage" --privilege none /usr
    old=$work/stage/usr/libexec/portgrant/portgrant-policy
    [ -L "$old" ]
    [ "$("$old" --version)" = "$("$(built)/$explain" --version)" ]
)

programs_hold_no_path_of_the_machine_that_built_them() (
    for program in $(awk '!/^#/ && $2 ~ /^(program|static|helper)$/ { print $3 }' packaging/contents); do
        for path in "$PWD" "${CARGO_HOME:-$HOME/.cargo}" "$(dirname "$target")" "$(rustc --print sysroot)"; do
            if grep -caF -- "$path" "$(built)/$program"; then fail "$program holds $path"; fi
        done
    done
)

the_helper_and_the_supervisor_need_no_loader() (
    for program in portgrant-binder portgrant-supervisor; do
        headers=$(readelf --program-headers "$(built)/$program")
        grep -q LOAD <<<"$headers"
        fails grep INTERP <<<"$headers"
    done
)

# An image may have glibc and nothing else.
the_dynamic_programs_need_the_c_library_alone() (
    for program in $(awk '!/^#/ && $2 == "program" { print $3 }' packaging/contents); do
        readelf --dynamic "$(built)/$program" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' >"$work/needed"
        fails grep -vE '^(libc|libm|ld-linux.*)\.so' "$work/needed"
    done
)

# Alpine's rustc links dynamically by default.
the_helper_is_static_whatever_a_musl_compiler_does_by_default() (
    mkdir "$work/bin" "$work/lib"
    cat >"$work/bin/rustc" <<STUB
#!/bin/sh
case "\$*" in
    -vV) echo "host: x86_64-alpine-linux-musl" ;;
    *target-libdir*) echo "$work/lib" ;;
esac
STUB
    cat >"$work/bin/cargo" <<STUB
#!/bin/sh
printf '%s %s\n' "\$*" "\$CARGO_ENCODED_RUSTFLAGS" >>"$work/said"
[ "\$1" != build ]
STUB
    chmod +x "$work"/bin/*
    fails_with() { ! PATH=$work/bin:$PATH CARGO_TARGET_DIR=$work/target "$@" packaging/build --no-examples; }
    fails_with env RUSTFLAGS='-C opt-level=1'
    fails_with env CARGO_ENCODED_RUSTFLAGS=-Copt-level=1
    [ "$(grep -cE -- '--package portgrant-binder --bins --target x86_64-alpine-linux-musl .*opt-level=1.*crt-static' "$work/said")" = 2 ]
)

shells_complete_what_portgrant_kernel_takes() (
    kernel=$(built)/portgrant-kernel
    commands=$("$kernel" --help | sed -n '/^Commands:/,/^$/s/^  \([a-z]*\) .*/\1/p')
    [ "$(wc -w <<<"$commands")" -ge 6 ]
    . packaging/completions/portgrant-kernel.bash
    completed() {
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1))
        _portgrant_kernel 2>/dev/null
        printf '%s\n' "${COMPREPLY[@]}"
    }
    for shell in bash zsh fish; do
        for command in $commands; do
            grep -qw -- "$command" "packaging/completions/portgrant-kernel.$shell"
            [ "$command" = help ] || for option in $("$kernel" "$command" --help | grep -oE '^ +(-h, )?--[a-z-]+' | grep -oE -- '--[a-z-]+'); do
                grep -qE -- "(--|-l )${option#--}" "packaging/completions/portgrant-kernel.$shell" || fail "$shell lacks $option"
            done
        done
    done
    for command in $commands; do
        [ "$command" = help ] || for option in $("$kernel" "$command" --help | grep -oE -- '^ +(-h, )?--[a-z-]+' | grep -oE -- '--[a-z-]+'); do
            completed portgrant-kernel "$command" -- | grep -xF -- "$option"
        done
    done
    completed portgrant-kernel "" | grep -xF "$(head -n 1 <<<"$commands")"
    [ "$(completed portgrant-kernel show --format j)" = json ]
    completed portgrant-kernel load --cgroup /pro | grep -xF /proc
)

bash_completes_users_servers_and_services() (
    . "$(built)/portgrant.bash"
    completed() {
        COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)) COMPREPLY=()
        _portgrant_words portgrant "${*: -1}" "${*: -2:1}" 2>/dev/null || true
        printf '%s\n' "${COMPREPLY[@]}"
    }
    for command in "explain --as-user" "list --as-user" "exec --user"; do
        completed portgrant $command roo | grep -xF root
    done
    completed portgrant exec --as "" >"$work/servers"
    for server in nginx php-fpm unicorn; do grep -xF $server "$work/servers"; done
    completed portgrant exec -l htt | grep -xF http
    completed portgrant exec --ver | grep -xF -- --verify
)

the_example_is_a_policy_that_permits_nothing() (
    grep -q '^0 rules, .* 0 errors, 0 warnings' <<<"$("$(built)/$explain" check packaging/portgrant.conf)"
    # What it shows is a policy as well.
    sed -n 's/^# \(permit\|deny\) /\1 /p' packaging/portgrant.conf >"$work/rules"
    grep -q '^6 rules, .* 0 errors' <<<"$("$(built)/$explain" check "$work/rules")"
)

a_staged_install_is_written_for_the_place_where_it_will_be() (
    packaging/install --built "$(built)" --destdir "$work/stage" /usr
    grep -F 'ExecStart=/usr/sbin/portgrant-kernel load' "$work/stage/usr/lib/systemd/system/portgrant-kernel.service"
    fails grep -rF "$work" "$work/stage"
    fails grep -rE '@[A-Z]+@' "$work/stage/usr/lib" "$work/stage/usr/share"
    # The variables do what the options do.
    DESTDIR=$work/another PREFIX=/usr packaging/install --built "$(built)"
    diff -r "$work/stage" "$work/another"
    SBINDIR=/usr/bin packaging/install --built "$(built)" --destdir "$work/merged" /usr
    grep -F 'ExecStart=/usr/bin/portgrant-kernel load' "$work/merged/usr/lib/systemd/system/portgrant-kernel.service"
    [ -x "$work/merged/usr/bin/portgrant-kernel" ]
    [ ! -e "$work/merged/usr/sbin" ]
    # Uninstalled from the stage, nothing but folders is left.
    packaging/uninstall --destdir "$work/stage" /usr
    [ -z "$(find "$work/stage" ! -type d)" ]
    [ ! -e "$work/stage/etc/portgrant.d" ]
)

an_ordinary_user_stages_an_install_without_privilege() (
    given
    chmod -R go+rX "$work"
    chmod 755 "$work/.."
    mkdir -m 777 "$work/stage"
    as_nobody() { setpriv --reuid=65534 --regid=65534 --clear-groups --inh-caps=-all "$@"; }
    as_nobody "$work/source/packaging/install" --destdir "$work/stage" --package portgrant /usr
    helper=$work/stage/usr/libexec/portgrant/portgrant-binder
    [ "$(stat -c %a "$helper")" = 755 ]
    [ -z "$(getcap "$helper")" ]
    [ ! -e "$work/stage/usr/sbin" ] # the other package
    for wrong in "/usr" "--setuid --destdir $work/stage /usr"; do
        status=0
        as_nobody "$work/source/packaging/install" $wrong || status=$?
        [ "$status" = 77 ]
    done
)

the_installed_programs_work_and_uninstall_leaves_the_policy_alone() (
    machine <<'INSIDE'
    find / -xdev -path /given -prune -o ! -path '/run/*' -print | sort >/run/before
    /given/packaging/install
    find / -xdev -path /given -prune -o ! -path '/run/*' -print | sort >/run/installed
    [ -d /etc/portgrant.d ]
    [ ! -e /etc/portgrant.conf ]
    [ "$(getcap /usr/local/libexec/portgrant/portgrant-binder)" = "/usr/local/libexec/portgrant/portgrant-binder cap_net_bind_service=p" ]
    echo 'permit alice 80' >/etc/portgrant.conf
    as alice portgrant exec -l 80 -- true
    status=0; as alice portgrant exec -l 81 -- true || status=$?
    [ $status = 77 ]
    # Every file but the helper is an ordinary file of root's.
    for file in $(comm -13 /run/before /run/installed); do
        [ "$(stat -c %U:%G "$file")" = root:root ]
        case $(stat -c %F,%a "$file") in "regular file,644" | "regular file,755" | directory,755 | "symbolic link,777") ;; *) stat "$file"; exit 1 ;; esac
    done
    /given/packaging/install --setuid
    [ "$(stat -c %a /usr/local/libexec/portgrant/portgrant-binder)" = 4755 ]
    [ -z "$(getcap /usr/local/libexec/portgrant/portgrant-binder)" ]
    as alice portgrant exec -l 80 -- true
    echo 'permit bob 80' >/etc/portgrant.d/bob.conf
    /given/packaging/uninstall
    [ -e /etc/portgrant.d/bob.conf ]
    [ -e /etc/portgrant.conf ]
    rm /etc/portgrant.conf /etc/portgrant.d/bob.conf
    /given/packaging/uninstall
    find / -xdev -path /given -prune -o ! -path '/run/*' -print | sort >/run/after
    # Folders that others use as well stay.
    [ -z "$(comm -13 /run/before /run/after | while read -r left; do [ -d "$left" ] || echo "$left"; done)" ]
    [ -z "$(comm -13 /run/before /run/after | grep portgrant)" ]
INSIDE
)

no_start_fails_while_the_helper_is_replaced() (
    machine <<'INSIDE'
    echo 'permit alice 80' >/etc/portgrant.conf
    /given/packaging/install
    cat >/run/starts <<'STARTS'
    n=0 failed=0
    while [ ! -e /run/enough ]; do
        n=$((n + 1))
        portgrant exec -l 80 -- true || failed=$((failed + 1))
    done
    echo "$n $failed"
STARTS
    as alice bash /run/starts >/run/told & starts=$!
    for _ in 1 2 3 4 5; do
        /given/packaging/install --setuid
        /given/packaging/install
    done
    touch /run/enough
    wait $starts
    read -r n failed </run/told
    echo "measured: $n starts beside 10 installs, $failed failed"
    [ "$failed" = 0 ]
    [ "$n" -gt 50 ]
INSIDE
)

an_install_that_fails_leaves_what_was_there() (
    machine <<'INSIDE'
    echo 'permit alice 80' >/etc/portgrant.conf
    mkdir /small
    mount -t tmpfs -o mode=0755,size=64m small /small
    /given/packaging/install /small
    # Room for the first programs, but not for all.
    cat /dev/zero >/small/filler 2>/dev/null || truncate -s -1M /small/filler
    find /small | sort >/run/before
    sha256sum $(find /small -type f) | sort >/run/sums
    helper=$(stat -c %i /small/libexec/portgrant/portgrant-binder)
    fails /given/packaging/install /small
    find /small | sort | diff /run/before -
    sha256sum $(find /small -type f) | sort | diff /run/sums -
    [ "$(stat -c %i /small/libexec/portgrant/portgrant-binder)" = "$helper" ]
    as alice /small/bin/portgrant exec -l 80 -- true
INSIDE
)

a_hard_link_to_the_old_helper_loses_its_privilege() (
    machine <<'INSIDE'
    echo 'permit alice 80' >/etc/portgrant.conf
    for option in --setuid ""; do
        /given/packaging/install $option
        ln /usr/local/libexec/portgrant/portgrant-binder /usr/local/libexec/kept
        as alice /usr/local/libexec/kept exec -l 80 -- /bin/true
        /given/packaging/install
        [ "$(stat -c %a /usr/local/libexec/kept)" = 755 ]
        [ -z "$(getcap /usr/local/libexec/kept)" ]
        fails as alice /usr/local/libexec/kept exec -l 80 -- /bin/true
        as alice portgrant exec -l 80 -- true
        rm /usr/local/libexec/kept
    done
INSIDE
)

a_file_system_without_capabilities_gets_a_setuid_helper() (
    machine <<'INSIDE'
    echo 'permit alice 80' >/etc/portgrant.conf
    mkdir /plain
    mount -t ramfs -o mode=0755 plain /plain
    said=$(/given/packaging/install /plain)
    grep -F '/plain/libexec/portgrant/portgrant-binder: setuid root' <<<"$said"
    as alice /plain/bin/portgrant exec -l 80 -- true
    # Without setcap(8) as well.
    mv /sbin/setcap /sbin/setcap.not
    /given/packaging/install
    [ "$(stat -c %a /usr/local/libexec/portgrant/portgrant-binder)" = 4755 ]
    as alice portgrant exec -l 80 -- true
INSIDE
)

a_nosuid_file_system_and_a_folder_of_others_are_reported() (
    machine <<'INSIDE'
    mkdir /inert
    mount -t tmpfs -o mode=0755,nosuid inert /inert
    said=$(/given/packaging/install /inert)
    echo "$said"
    grep -F nosuid <<<"$said"
    # As Debian had it before 10.
    chgrp staff /usr/local
    chmod 2775 /usr/local
    said=$(/given/packaging/install)
    echo "$said"
    grep -F '/usr/local has mode 2775' <<<"$said"
    for folder in /usr/local/libexec /usr/local/libexec/portgrant /usr/local/share/doc/portgrant; do
        [ "$(stat -c %U:%G:%a $folder)" = root:root:755 ] || { stat $folder; exit 1; }
    done
INSIDE
)

busybox_alone_installs_and_uninstalls() (
    given
    mkdir "$work/source/bin"
    cp "$(busybox)" "$work/source/bin/"
    cp "$(command -v setcap)" "$work/source/bin/"
    inside "$(tests/packages/root bookworm)" "$work/source" <<'INSIDE'
    echo 'permit alice 80' >/etc/portgrant.conf
    mkdir /run/bin
    cp /given/bin/* /run/bin/
    /run/bin/busybox --install -s /run/bin
    alone() { PATH=/run/bin /run/bin/busybox sh "$@"; }
    alone /given/packaging/install
    as alice portgrant exec -l 80 -- true
    alone /given/packaging/install
    alone /given/packaging/uninstall
    [ ! -e /usr/local/bin/portgrant ]
    [ ! -e /usr/local/libexec/portgrant ]
INSIDE
)
