# Read by packaging/install and packaging/uninstall: the options that say where things are, and packaging/contents.
# shellcheck shell=sh
name=packaging/$(basename "$0")
prefix=${PREFIX-} destdir=${DESTDIR-} sbindir=${SBINDIR-} only= taken=1

fail() {
    echo "$name: $2" >&2
    exit "$1"
}

# Takes one option, or PREFIX; `taken` is the number of words after it that belong to it, and itself.
place() {
    case $1 in
        --destdir | --package | --sbindir) [ -n "${2-}" ] || fail 64 "$1 wants a value" ;;
    esac
    case $1 in
        --destdir) destdir=$2 taken=2 ;;
        --package) only=$2 taken=2 ;;
        --sbindir) sbindir=$2 taken=2 ;;
        --help) usage; exit ;;
        -*) fail 64 "unexpected option '$1'; $name --help lists all" ;;
        *) prefix=$1 ;;
    esac
}

absolute() {
    case $1 in
        /*) printf '%s' "$1" ;;
        *) printf '%s/%s' "$(pwd)" "$1" ;;
    esac
}

# To be called after the last option.
placed() {
    prefix=$(absolute "${prefix:-/usr/local}")
    prefix=${prefix%/} # so `/` is the empty prefix
    sbindir=$(absolute "${sbindir:-$prefix/sbin}")
    [ -z "$destdir" ] || destdir=$(absolute "${destdir%/}")
    # Units and manual pages hold these paths, and systemd would read other characters in its own way.
    case $prefix$sbindir in
        *[!A-Za-z0-9/._+:@~-]*) fail 64 "'$prefix' cannot be written into a unit of systemd; use letters, digits and /._+:@~-" ;;
    esac
    if [ -n "$only" ]; then
        grep -q "^$only " "$here/contents" || fail 64 "'$only' is not a package; packaging/contents lists all"
    fi
}

# Calls $1 for each line of packaging/contents, with package, kind, from and path set.
each() {
    while read -r package kind from path; do
        case $package in '' | '#'*) continue ;; esac
        [ -z "$only" ] || [ "$only" = "$package" ] || continue
        case $path in
            /*) ;;
            sbin/*) path=$sbindir/${path#sbin/} ;;
            *) path=$prefix/$path ;;
        esac
        "$1" </dev/null
    done <"$here/contents"
}
