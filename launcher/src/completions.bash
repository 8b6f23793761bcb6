
# After "--" the words are another command's. Services are offered for endpoints, and accounts for users.
_portgrant_words() {
    local at
    for ((at = 2; at < COMP_CWORD; at++)); do
        [ "${COMP_WORDS[at]}" = -- ] || continue
        if declare -F _comp_command_offset >/dev/null; then
            _comp_command_offset "$((at + 1))"
        elif declare -F _command_offset >/dev/null; then
            _command_offset "$((at + 1))"
        elif [ "$COMP_CWORD" = "$((at + 1))" ]; then
            mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
        fi
        return
    done
    _portgrant "$@"
    local services='^[a-z][a-z0-9_.+-]*'
    case ${COMP_WORDS[1]-}:${COMP_WORDS[COMP_CWORD-1]} in
        *:-l | *:--listen | explain:explain | who:who)
            mapfile -t -O "${#COMPREPLY[@]}" COMPREPLY < <(
                compgen -W "$(grep -oE "$services" /etc/services 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}") ;;
        *:--as-user | *:--user)
            mapfile -t COMPREPLY < <(compgen -u -- "${COMP_WORDS[COMP_CWORD]}") ;;
    esac
}
complete -F _portgrant_words -o bashdefault -o default portgrant
