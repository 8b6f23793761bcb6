# The packages for rpm, in a root file system that has nothing but rpm (Debian's).

# Runs code in it: it finds what packaging/build built in /given/built, and a checkout in /given/source.
with_rpm() {
    mkdir -p "$work/given"
    git ls-files -co --exclude-standard packaging LICENSE-* ./*.md | xargs cp --parents -t "$work/given"
    cp -r "$(built)" "$work/given/built"
    {
        cat <<'INSIDE'
HELPER=/usr/libexec/portgrant/portgrant-binder
# Builds both packages as RELEASE, in a folder of this name.
packages() {
    mkdir -p /run/$1
    cp -r /given /run/$1/source
    (cd /run/$1/source && sed -i "s/^Release: .*/Release: $1/" packaging/rpm/portgrant.spec &&
        rpmbuild --quiet -bb --build-in-place --define "built /given/built" --define "_topdir /run/$1/top" packaging/rpm/portgrant.spec)
    cp /run/$1/top/RPMS/*/*.rpm /run/$1
}
# The database of rpm knows no C library and no shell here, although they are there.
RPM="rpm --nodeps"
INSIDE
        cat tests/packages/deb-inside | sed -n '/^# Every file/,$p'
        cat
    } | inside "$(tests/packages/root bookworm rpm)" "$work/given"
}

rpm_installs_verifies_upgrades_and_erases_without_a_trace() (
    with_rpm <<'INSIDE'
    packages 1
    packages 2
    everything >/run/before
    rpm -qp --qf '[%{FILEMODES:perms} %{FILEUSERNAME} %{FILENAMES} %{FILECAPS}\n]' /run/1/*.rpm >/run/list
    [ "$(grep -c cap_net_bind /run/list)" = 1 ]
    [ -z "$(awk '$1 ~ /s/ || $2 != "root"' /run/list)" ]
    $RPM -i /run/1/*.rpm
    rpm -V portgrant portgrant-kernel --nodeps
    [ "$(getcap $HELPER)" = "$HELPER cap_net_bind_service=p" ]
    # Every path of packaging/contents is in a package.
    for package in portgrant portgrant-kernel; do
        for path in $(/given/packaging/install --list --package $package /usr | cut -f 3); do
            [[ $path == *LICENSE* ]] || rpm -qf $path* | grep -q "^$package-0"
        done
    done
    portgrant check
    echo 'permit alice 80' >/etc/portgrant.d/alice.conf
    as alice portgrant exec -l 80 -- true
    setcap -r $HELPER
    fails rpm -V portgrant --nodeps
    setcap cap_net_bind_service=p $HELPER
    starts
    for _ in 1 2 3 4 5; do
        $RPM -U /run/2/*.rpm
        $RPM -U --oldpackage /run/1/*.rpm
    done
    count "10 upgrades"
    rpm -V portgrant portgrant-kernel --nodeps
    rm /etc/portgrant.d/alice.conf
    $RPM -e portgrant-kernel portgrant
    # Folders that belong to the package filesystem on Fedora, and rpm's own lock.
    others='/usr/share/(licenses|fish|fish/vendor_completions.d|zsh|zsh/site-functions)|/root/.rpmdb/.rpm.lock'
    everything | grep -vxE "$others" | diff <(grep -vxE "$others" /run/before) -
INSIDE
)

rpm_keeps_the_policy_and_reports_one_that_is_refused() (
    with_rpm <<'INSIDE'
    packages 1
    packages 2
    echo 'permit alice 80' >/etc/portgrant.conf
    $RPM -i /run/1/*.rpm
    [ "$(cat /etc/portgrant.conf)" = 'permit alice 80' ]
    as alice portgrant exec -l 80 -- true
    echo 'permit alice 80/tdp' >/etc/portgrant.conf
    $RPM -U /run/2/*.rpm >/run/said
    grep -F 'refuses the policy' /run/said
    grep -F '/etc/portgrant.conf:1:' /run/said
    $RPM -e portgrant-kernel portgrant
    [ "$(cat /etc/portgrant.conf.rpmsave)" = 'permit alice 80/tdp' ]
INSIDE
)

two_builds_of_the_rpm_in_different_folders_are_identical() (
    with_rpm <<'INSIDE'
    packages 1
    mv /run/1 /run/first
    sleep 2
    mkdir /home/another
    mount -t tmpfs another /home/another
    mkdir /home/another/given
    cp -r /given/. /home/another/given
    packages 1
    for package in /run/first/*.rpm; do
        cmp "$package" "/run/1/$(basename "$package")"
    done
INSIDE
)
