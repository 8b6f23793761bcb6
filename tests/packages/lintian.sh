# What lintian of $suite says of the Debian packages.

lintian_of_this_suite_has_no_error_and_no_warning() (
    root=$(tests/packages/root "$suite" lintian)
    cp -r "$(debs)" "$work/given"
    inside "$root" "$work/given" <<'INSIDE'
    cp -r /given /run/given
    cd /run/given
    lintian --version
    lintian --allow-root --fail-on error,warning --tag-display-limit 0 --show-overrides *.changes >/run/said || { cat /run/said; exit 1; }
    echo "measured: 0 errors, 0 warnings, $(grep -c '^O:' /run/said) overridden"
INSIDE
)
