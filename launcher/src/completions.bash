
# Where the program's own words begin: behind "--", or at the first word that is neither an option nor an option's value.
_portgrant_program() {
    local at=2 command=${COMP_WORDS[1]-}
    while ((at <= COMP_CWORD)); do
        case ${COMP_WORDS[at]} in
            --) ((at < COMP_CWORD)) && echo $((at + 1)) && return ;;
            VALUED) [[ ${COMP_WORDS[at + 1]-} == = ]] || ((at++)) ;;
            -*) ;;
            *) case $command in exec | run) echo "$at" && return ;; esac ;;
        esac
        # Readline divides words at these as well.
        while [[ ${COMP_WORDS[at + 1]-} == [:=]* ]]; do ((at += 2)); done
        ((at++))
    done
}
# The program's words are another command's. Services are offered for endpoints, and accounts for users.
_portgrant_words() {
    local at
    at=$(_portgrant_program)
    if [ -n "$at" ] && ((at <= COMP_CWORD)); then
        if declare -F _comp_command_offset >/dev/null; then
            _comp_command_offset "$at"
        elif declare -F _command_offset >/dev/null; then
            _command_offset "$at"
        elif [ "$COMP_CWORD" = "$at" ]; then
            mapfile -t COMPREPLY < <(compgen -c -- "${COMP_WORDS[COMP_CWORD]}")
        fi
        return
    fi
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
