#compdef portgrant-kernel
# Completion for portgrant-kernel(8) in zsh.
_portgrant-kernel() {
    local -a commands
    commands=(
        'load:load the policy into the kernel'
        'reload:replace the loaded policy with the installed one'
        'unload:remove the policy from the kernel'
        'show:print what is loaded'
        'audit:write each grant to syslog'
        'help:print help'
    )
    if ((CURRENT == 2)); then
        _describe command commands
        _arguments '(- *)'{-h,--help}'[print help]' '(- *)'{-V,--version}'[print the version]'
        return
    fi
    local command=$words[2]
    shift words
    ((CURRENT--))
    case $command in
        load)
            _arguments '--cgroup[the cgroup that the policy applies to]:folder:_files -W /sys/fs/cgroup -/' \
                '--expand-groups[make a rule for a group into one for each member]' \
                '--dry-run[print what would be loaded]' '(- *)'{-h,--help}'[print help]'
            ;;
        show)
            _arguments '--format[text for people or JSON for programs]:form:(text json)' '(- *)'{-h,--help}'[print help]'
            ;;
        help)
            _describe command commands
            ;;
        *)
            _arguments '(- *)'{-h,--help}'[print help]'
            ;;
    esac
}
_portgrant-kernel "$@"
