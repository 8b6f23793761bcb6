#!/bin/bash
# Guess:   `npm start` runs the script of package.json with what npm inherited, as `sh -c` does.
# Happens: the environment is passed on and the descriptors above 2 are not: Node.js marks them close-on-exec when it
#          starts.
# Seen on: Node.js 20.20.2 with npm 11.19.1. The npm documentation of scripts does not mention descriptors.
# Matters: a unit with a socket and ExecStart=npm start finds LISTEN_FDS=1 and no socket: the server fails, or it opens
#          its default port without a message. ExecStart= must name the server itself.
set -euo pipefail
echo "Node.js $(node --version), npm $(npm --version)"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$work"
script='test -e /proc/$$/fd/7 && echo "LISTEN_FDS=$LISTEN_FDS kept" || echo "LISTEN_FDS=$LISTEN_FDS closed"'
printf '%s\n' "$script" >look.sh
echo '{"name": "seen", "version": "1.0.0", "scripts": {"start": "sh look.sh"}}' >package.json
export LISTEN_FDS=5
sh=$(sh look.sh 7</dev/null)
npm=$(HOME=$work npm --offline --silent start 7</dev/null)
printf 'sh look.sh: %s\nnpm start: %s\n' "$sh" "$npm"
[ "$sh/$npm" = "LISTEN_FDS=5 kept/LISTEN_FDS=5 closed" ] || { echo "changed: not what the comment says"; exit 1; }
