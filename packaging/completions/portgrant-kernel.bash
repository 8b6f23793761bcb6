# Completion for portgrant-kernel(8) in bash.
_portgrant_kernel() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD - 1]} command=${COMP_WORDS[1]-} words=
    COMPREPLY=()
    if [ "$COMP_CWORD" = 1 ]; then
        words="load reload unload show audit help --help --version"
    else
        case $command:$before in
            load:--cgroup)
                compopt -o filenames 2>/dev/null || true
                mapfile -t COMPREPLY < <(compgen -d -- "${word:-/sys/fs/cgroup/}")
                return
                ;;
            show:--format) words="text json" ;;
            load:*) words="--cgroup --expand-groups --dry-run --help" ;;
            show:*) words="--format --help" ;;
            help:*) words="load reload unload show audit" ;;
            *) words="--help" ;;
        esac
    fi
    mapfile -t COMPREPLY < <(compgen -W "$words" -- "$word")
}
complete -F _portgrant_kernel portgrant-kernel
