
# After "--" the words are another command's; where an endpoint is wanted, services are offered.
function __portgrant_program
    set -l words (commandline -opc)
    set -l at (contains -i -- -- $words)
    or return 1
    set -l rest (string escape -- $words[(math $at + 1)..-1]) (commandline -ct)
    complete -C "$(string join ' ' -- $rest)"
end
function __portgrant_is_own
    not contains -- -- (commandline -opc)
end
function __portgrant_services
    string match -r '^[a-z][a-z0-9_.+-]*' </etc/services
end
complete -c portgrant -n "not __portgrant_is_own" -f -a "(__portgrant_program)"
complete -c portgrant -n "__portgrant_is_own; and __fish_seen_subcommand_from exec run pass explain" -s l -l listen -x -a "(__portgrant_services)"
complete -c portgrant -n "__portgrant_is_own; and __fish_seen_subcommand_from explain who" -x -a "(__portgrant_services)"
