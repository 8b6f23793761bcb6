# debian/tests, run by autopkgtest in a clean $suite.

debians_own_tests_pass() (
    cp -r "$(debs)" "$work/given"
    cp -r debian "$work/given/debian"
    inside "$(tests/packages/root "$suite" autopkgtest,dpkg-dev)" "$work/given" <<'INSIDE'
    mkdir /run/source
    cp -r /given/debian /run/source/
    # This machine is thrown away as well.
    autopkgtest --ignore-restrictions=isolation-container --no-built-binaries /given/*.deb /run/source/ -- null >/run/said 2>&1 || { cat /run/said; exit 1; }
    cat /run/said
    grep -E '^first-port +PASS' /run/said
    fails test -e /etc/portgrant.d/autopkgtest.conf
INSIDE
)
