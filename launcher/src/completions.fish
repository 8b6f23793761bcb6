
# Where the program's own words begin: behind "--", or at the first word that is neither an option nor an option's value.
function __portgrant_program_at
    set -l words (commandline -opc) (commandline -ct)
    set -l at 3
    while test $at -le (count $words)
        switch $words[$at]
            case --
                test $at -lt (count $words); and echo (math $at + 1); and return
            case VALUED
                set at (math $at + 1)
            case '-*'
            case '*'
                contains -- $words[2] exec run; and echo $at; and return
        end
        set at (math $at + 1)
    end
    return 1
end
# The program's words are another command's; where an endpoint is wanted, services are offered.
function __portgrant_program
    set -l words (commandline -opc) (commandline -ct)
    set -l rest $words[(__portgrant_program_at)..-1]
    complete -C (string join ' ' -- (string escape -- $rest[1..-2]) $rest[-1])
end
function __portgrant_is_own
    not __portgrant_program_at >/dev/null
end
function __portgrant_services
    string match -r '^[a-z][a-z0-9_.+-]*' </etc/services
end
complete -c portgrant -n "not __portgrant_is_own" -f -a "(__portgrant_program)"
complete -c portgrant -n "__portgrant_is_own; and __fish_seen_subcommand_from exec run pass explain" -s l -l listen -x -a "(__portgrant_services)"
complete -c portgrant -n "__portgrant_is_own; and __fish_seen_subcommand_from explain who" -x -a "(__portgrant_services)"
