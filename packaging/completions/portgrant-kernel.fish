# Completion for portgrant-kernel(8) in fish.
complete -c portgrant-kernel -f
complete -c portgrant-kernel -n __fish_use_subcommand -a load -d 'Load the policy into the kernel'
complete -c portgrant-kernel -n __fish_use_subcommand -a reload -d 'Replace the loaded policy with the installed one'
complete -c portgrant-kernel -n __fish_use_subcommand -a unload -d 'Remove the policy from the kernel'
complete -c portgrant-kernel -n __fish_use_subcommand -a show -d 'Print what is loaded'
complete -c portgrant-kernel -n __fish_use_subcommand -a audit -d 'Write each grant to syslog'
complete -c portgrant-kernel -n __fish_use_subcommand -a help -d 'Print help'
complete -c portgrant-kernel -n __fish_use_subcommand -s V -l version -d 'Print the version'
complete -c portgrant-kernel -s h -l help -d 'Print help'
complete -c portgrant-kernel -n '__fish_seen_subcommand_from load' -l cgroup -r -F -d 'The cgroup that the policy applies to'
complete -c portgrant-kernel -n '__fish_seen_subcommand_from load' -l expand-groups -d 'A rule for each member of a group'
complete -c portgrant-kernel -n '__fish_seen_subcommand_from load' -l dry-run -d 'Print what would be loaded'
complete -c portgrant-kernel -n '__fish_seen_subcommand_from show' -l format -x -a 'text json' -d 'For people or for programs'
