//! What starts containers.

use super::{Adoption, Server, Serves};

pub(super) const SERVERS: &[Server] = &[Server {
    name: "podman",
    aliases: &["rootless-podman"],
    takes: "takes what LISTEN_FDS announces, and passes it on to the first process of the container",
    adoption: Adoption::ListenFds,
    serves: Serves::Any,
    user: None,
    command: "portgrant exec -l 80 -- podman run --rm --network none IMAGE",
    files: &[(
        "~/.config/systemd/user/web.service",
        "[Service]
Type=notify
NotifyAccess=all
ExecStart=portgrant exec -l 80 -- podman run --name web --replace --rm --init --cgroups=split --sdnotify=conmon \\
    -d --network none IMAGE
ExecStop=podman rm -f -t 1 -i web
Restart=always

[Install]
WantedBy=default.target
",
    )],
    notes: &[
        "The server in the container must accept a socket. It serves at full speed, sees the client's real address, and \
         needs no network. Add --network if it must reach others.",
        "A server that wants another variable gets it from podman: portgrant exec -l 0.0.0.0:80 -- podman run --network \
         none -e 'NGINX=3;' nginx. With --as nginx podman also needs --preserve-fds=1 -e NGINX.",
        "--init ends the container when it is told to, whatever its server does. It needs catatonit, a package of its own \
         on Debian.",
        "podman start, podman restart and --restart=always do not pass the socket again. Restart the command instead, as \
         the unit does.",
        "A server that accepts no socket: in kernel mode podman run -p 80:80 works as it is. A rule with an address of \
         IPv4 is not enough for bridge networks, because podman binds [::].",
        "Without kernel mode: podman unshare true, and then portgrant run -- podman run -p 80:80 IMAGE. The first \
         command makes podman's user namespace, which cannot be made under portgrant run.",
        "With --network host only root of the container is you. Its other users have subordinate ids, which need \
         --userns keep-id or rules of their own (permit uid:N).",
    ],
    since: "podman 3.4",
    tried: None,
}];
