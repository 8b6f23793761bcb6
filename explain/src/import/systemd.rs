//! A socket unit with its service: as a drop-in for the service, or as a service in place of a template.
//!
//! systemd binds as root, so the service's user needs a rule now. The service's other settings stay in its unit.

mod socket;
mod unit;

use std::path::{Path, PathBuf};

use portgrant_protocol::{Endpoint, Kind, Message};

use super::draft::Draft;
use super::server::{Server, Way};
use super::{cannot_read, shown};
use unit::Unit;

/// Folders of units, besides the folder of the named unit.
const FOLDERS: [&str; 4] =
    ["/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system"];

/// Reads the socket unit `path`, or the one that belongs to the service `path`.
pub(super) fn read(path: &Path, draft: &mut Draft) -> Result<(), Box<Message>> {
    let path = match path.extension().and_then(|end| end.to_str()) {
        Some("socket") => path.to_owned(),
        Some("service") => path.with_extension("socket"),
        _ => return Err(cannot_read(path, "it is neither a .socket nor a .service")),
    };
    let socket = Unit::read(&path)?;
    let stem = path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
    let accepts = socket.is_on("Socket", "Accept");
    let usual = if accepts { format!("{stem}@.service") } else { format!("{stem}.service") };
    let name = socket.last("Socket", "Service").unwrap_or(usual);
    let service = find(&path, &name).ok_or_else(|| {
        let message = Message::of(Kind::Usage, format!("{} has no service", shown(&path)));
        let why = format!("{name} is neither beside it nor in the folders of systemd");
        message.why(why).fix(format!("put {name} beside it"))
    })?;
    let service = Unit::read(&service)?;
    let unit = format!("{stem}.socket");
    let pair = Pair { socket: &socket, service: &service, accepts, unit: &unit, name: &name };
    let mut server = Server::named(name.trim_end_matches(".service").trim_end_matches('@'), shown(&path));
    if !accepts {
        server.drop_in = Some(name.clone());
    }
    pair.convert(&mut server);
    if server.obstacles.is_empty() {
        let place = shown(&path);
        draft.note(
            &place,
            format!("stop the socket unit before the service starts: systemctl disable --now {stem}.socket"),
        );
        if !service.has("Install", "WantedBy") && !accepts {
            draft.note(&place, format!("{name} has no WantedBy=: start it by systemctl, or add it to its [Install]"));
        }
    }
    draft.server(server);
    Ok(())
}

fn find(socket: &Path, name: &str) -> Option<PathBuf> {
    let own = socket.parent().map(Path::to_owned).into_iter();
    own.chain(FOLDERS.map(PathBuf::from)).map(|folder| folder.join(name)).find(|path| path.is_file())
}

struct Pair<'a> {
    socket: &'a Unit,
    service: &'a Unit,
    accepts: bool,
    /// The socket unit's name
    unit: &'a str,
    /// The service's name
    name: &'a str,
}

impl Pair<'_> {
    fn convert(&self, server: &mut Server) {
        socket::convert(self.socket, self.accepts, server);
        self.way(server);
        if server.way == Way::Listen {
            self.names(server);
        }
        self.other_sockets(server);
        self.user(server);
        self.program(server);
        self.limits(server);
        self.before_the_command(server);
        if self.accepts {
            self.keep_the_rest(server);
        }
    }

    /// How the program gets its sockets, and when it is started.
    fn way(&self, server: &mut Server) {
        let value = |key| self.service.last("Service", key).unwrap_or_default();
        let is_input = value("StandardInput") == "socket";
        server.way = if self.accepts { Way::Accept } else { Way::Listen };
        if !is_input {
            if self.accepts {
                server.obstacle(
                    "Accept=yes without StandardInput=socket: --accept hands a connection over as descriptor 0",
                );
            } else if !self.service.has("Service", "Restart") {
                server.note(
                    "systemd started the service at the first connection, and again after it had ended; portgrant \
                     starts it at once: add Restart=always if it ends when it is idle",
                );
            }
            return;
        }
        if !self.accepts {
            let is_plain = matches!(value("Type").as_str(), "" | "simple" | "exec");
            server.way = match server.listen.as_slice() {
                [only] if !only.protocol.is_stream() => Way::Accept,
                [_] if is_plain => Way::Wait,
                _ => Way::Inetd,
            };
            if server.listen.len() > 1 {
                server.obstacle("StandardInput=socket is for one socket, and this unit has several");
            }
            server.unit.push("StandardInput=null".to_owned());
            if server.way == Way::Wait {
                server.note(
                    "in the unit of --write it is started again for the next connection, which is refused while the \
                     program ends and portgrant binds again",
                );
            }
        }
        if !matches!(value("StandardOutput").as_str(), "" | "inherit" | "socket") {
            server.obstacle("StandardOutput=: portgrant hands a socket over as the program's input and output");
        }
        match value("StandardError").as_str() {
            "" | "inherit" | "socket" => {
                server
                    .note("what the program writes to standard error goes to the journal, and no longer to the client");
                if !self.accepts {
                    server.unit.push("StandardError=journal".to_owned());
                }
            }
            _ => {}
        }
    }

    /// The names of the sockets in LISTEN_FDNAMES. The default is the unit's name.
    fn names(&self, server: &mut Server) {
        let name = self.socket.last("Socket", "FileDescriptorName").unwrap_or_else(|| self.unit.to_owned());
        if format!("{name}=1").parse::<Endpoint>().is_ok() {
            server.listen.iter_mut().for_each(|listen| listen.name = Some(name.clone()));
        } else {
            server.note(format!("the name '{name}' in LISTEN_FDNAMES is not taken over: no endpoint can have it"));
        }
    }

    /// Refuses a service that also gets sockets of other units.
    fn other_sockets(&self, server: &mut Server) {
        let mut names = self.service.list("Service", "Sockets");
        names.retain(|name| name.split_whitespace().any(|name| name != self.unit));
        if !names.is_empty() {
            server.obstacle(format!(
                "Sockets={}: the service has further socket units: put the lines of all into one, and import that",
                names.join(" ")
            ));
        }
        let starts = ["Requires", "Wants", "BindsTo", "Requisite"];
        let starts = starts.iter().find(|key| {
            self.service.list("Unit", key).iter().any(|names| names.split_whitespace().any(|name| name == self.unit))
        });
        if let Some(key) = starts {
            server.note(format!("{}= of the service starts {} again: take it out", key, self.unit));
        }
    }

    fn user(&self, server: &mut Server) {
        if self.service.is_on("Service", "DynamicUser") {
            server.obstacle("DynamicUser=yes: its user has no line in /etc/passwd, so no rule can name it; set User=");
        }
        let user = self.service.last("Service", "User").filter(|user| !user.is_empty());
        if user.is_none() {
            server.note("the service runs as root; if it needs no other privilege, give it a user of its own");
        }
        if user.as_ref().is_some_and(|user| user.contains('%')) {
            server.obstacle("User= has a specifier: write its value");
        }
        server.user = Some(user.unwrap_or_else(|| "root".to_owned()));
    }

    fn program(&self, server: &mut Server) {
        let starts = self.service.list("Service", "ExecStart");
        let [start] = starts.as_slice() else {
            return server.obstacle(format!("{} has {} ExecStart= lines; one was expected", self.name, starts.len()));
        };
        let command = start.trim_start_matches(['-', '@', ':', '+', '!', '|']);
        let prefix = start.get(..start.len() - command.len()).unwrap_or_default();
        if prefix.contains(['+', '!', '|']) {
            server.obstacle(format!("'{prefix}' before ExecStart= starts it with other rights than the unit's"));
        }
        let Some(words) = shlex::split(command).filter(|words| !words.is_empty()) else {
            return server.obstacle("ExecStart= is not a command that can be read here");
        };
        if prefix.contains('@') {
            server.run(words.first().map_or("", String::as_str), words.get(1..).unwrap_or_default());
        } else {
            server.program = words;
        }
        server.may_fail = prefix.contains('-') && !self.accepts;
    }

    /// A command that systemd alone can expand is not written anew: what to put before it.
    fn before_the_command(&self, server: &mut Server) {
        let command = self.service.last("Service", "ExecStart").unwrap_or_default();
        let has = match (command.contains(['%', '$']), command.contains('\\')) {
            (true, _) if self.accepts => {
                return server.obstacle("ExecStart= has specifiers or variables of its instance: write their values");
            }
            (true, _) => "specifiers or variables",
            (false, true) => "a backslash",
            (false, false) => return,
        };
        if !server.obstacles.is_empty() {
            return server.obstacle(format!("ExecStart= has {has}: put portgrant exec before the command by hand"));
        }
        let rules = server.user.as_ref().map(|user| server.rules(user)).unwrap_or_default();
        let lines: String = server.unit.iter().map(|line| format!(", and the line  {line}")).collect();
        server.obstacle(format!(
            "ExecStart= has {has}: by hand, add  {}  to the policy, put  {}  before the command{lines}",
            rules.join("  and  "),
            server.before_the_program()
        ));
    }

    /// Refuses settings that prevent the helper from getting privilege, or that change the network.
    fn limits(&self, server: &mut Server) {
        let service = self.service;
        if service.is_on("Service", "NoNewPrivileges") {
            server.options.push("--no-new-privs".to_owned());
            server.unit.push("NoNewPrivileges=no".to_owned());
            server.note("NoNewPrivileges=yes would take the helper's privilege: --no-new-privs sets it after that");
        }
        if let Some(set) = service.last("Service", "CapabilityBoundingSet")
            && set.starts_with('~') == set.to_ascii_uppercase().contains("CAP_NET_BIND_SERVICE")
        {
            server.unit.push("CapabilityBoundingSet=CAP_NET_BIND_SERVICE".to_owned());
            server.note(
                "the bounding set gets CAP_NET_BIND_SERVICE: the helper needs it, and the program does not get it",
            );
        }
        for (key, why) in [
            ("PrivateUsers", "the helper has no privilege in another user namespace"),
            ("PrivateNetwork", "the socket unit binds outside of the service's network"),
            ("RootDirectory", "portgrant and its policy are not in that folder"),
            ("RootImage", "portgrant and its policy are not in that image"),
            ("SocketBindDeny", "the kernel would refuse what the helper binds"),
        ] {
            if service
                .last("Service", key)
                .is_some_and(|value| !matches!(value.as_str(), "" | "no" | "false" | "0" | "off"))
            {
                server.obstacle(format!("{key}=: {why}"));
            }
        }
        if let Some(families) = service.last("Service", "RestrictAddressFamilies")
            && (families.starts_with('~')
                || !["AF_INET", "AF_INET6", "AF_UNIX"]
                    .iter()
                    .all(|family| families.split_whitespace().any(|word| word == *family)))
        {
            server.obstacle("RestrictAddressFamilies= must list AF_INET, AF_INET6 and AF_UNIX, which the helper needs");
        }
    }

    /// A template's other lines, for the service that takes its place.
    fn keep_the_rest(&self, server: &mut Server) {
        const REPLACED: [&str; 7] =
            ["ExecStart", "StandardInput", "StandardOutput", "Type", "User", "Restart", "NoNewPrivileges"];
        let stays = |key: &str, value: &str| {
            !REPLACED.contains(&key) && (key != "StandardError" || !matches!(value, "inherit" | "socket"))
        };
        for (key, value) in self.service.section("Service").filter(|(key, value)| stays(key, value)) {
            server.unit.push(format!("{key}={value}"));
            if value.contains('%') {
                server.note(format!("{key}={value}: a specifier means something else without an instance"));
            }
        }
        server
            .note("one service stands for all instances of the template, and all connections are in its control group");
        server.note("connections beyond --max-conns wait, where systemd closed them");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(socket: &str, service: &str) -> Draft {
        let folder = std::env::temp_dir().join(format!(
            "portgrant-import-{}-{}",
            std::process::id(),
            socket.len() * 1000 + service.len()
        ));
        std::fs::create_dir_all(&folder).expect("a folder");
        std::fs::write(folder.join("web.socket"), socket).expect("written");
        for name in ["web.service", "web@.service"] {
            std::fs::write(folder.join(name), service).expect("written");
        }
        let mut draft = Draft::default();
        read(&folder.join("web.socket"), &mut draft).expect("read");
        std::fs::remove_dir_all(folder).expect("removed");
        draft
    }

    #[test]
    fn a_socket_unit_and_its_service_become_a_drop_in() {
        let service = "[Service]\nUser=www-data\nExecStart=/usr/bin/server --fast \\\n  'a b'\nNoNewPrivileges=yes\n[Install]\nWantedBy=multi-user.target\n";
        let socket = "[Socket]\nListenStream=80\nListenDatagram=127.0.0.1:443\nBacklog=5\nFileDescriptorName=web\n";
        let draft = of(socket, service);
        let rules: Vec<&str> = draft.rules.iter().map(|(_, rule)| rule.as_str()).collect();
        assert_eq!(rules, ["permit www-data 80 on [::]", "permit www-data 443/udp on 127.0.0.1"]);
        let command = "portgrant exec --user www-data -l web=80,backlog=5 -l web=127.0.0.1:443/udp --no-new-privs -- \
                       /usr/bin/server --fast 'a b'";
        assert_eq!(draft.servers.iter().map(Server::command).collect::<Vec<_>>(), [command]);
        let [(name, unit)] = draft.servers.first().expect("a server").unit_files().try_into().expect("one file");
        assert_eq!(name, "web.service.d/portgrant.conf");
        let expected = "[Service]\nExecStart=\nExecStart=portgrant exec -l web=80,backlog=5 -l web=127.0.0.1:443/udp --no-new-privs -- \
                        /usr/bin/server --fast \"a b\"\nNoNewPrivileges=no\n";
        assert!(unit.ends_with(expected), "{unit}");
    }

    #[test]
    fn a_template_becomes_a_service() {
        let socket = "[Socket]\nListenStream=[::1]:79\nAccept=yes\nMaxConnectionsPerSource=3\n";
        let draft = of(socket, "[Service]\nUser=nobody\nExecStart=-/bin/fingerd\nStandardInput=socket\nNice=5\n");
        let command =
            "portgrant exec --user nobody -l '[::1]:79' --accept --max-conns 64 --max-per-source 3 -- /bin/fingerd";
        assert_eq!(draft.servers.iter().map(Server::command).collect::<Vec<_>>(), [command]);
        let [(name, unit)] = draft.servers.first().expect("a server").unit_files().try_into().expect("one file");
        assert!(name == "web.service" && unit.contains("\nUser=nobody\n") && unit.contains("\nNice=5\n"), "{unit}");
    }

    /// As the service would be started by systemd: at the first connection, and again.
    #[test]
    fn a_socket_as_standard_input_is_waited_for() {
        for (socket, service, command, unit) in [
            ("ListenStream=80", "", "-l 80 --inetd --wait --", "StartLimitBurst=20\n[Service]\nExecStart=\n"),
            ("ListenStream=80", "Type=notify\n", "-l 80 --inetd --", "StandardInput=null\n"),
            ("ListenDatagram=80", "", "-l 80/udp --accept --", "StandardInput=null\n"),
        ] {
            let service = format!("[Service]\nUser=a\nStandardInput=socket\nExecStart=-/bin/x\n{service}");
            let draft = of(&format!("[Socket]\n{socket}\n"), &service);
            let server = draft.servers.first().expect("a server");
            assert!(server.command().contains(command), "{}", server.command());
            let [(_, text)] = server.unit_files().try_into().expect("one file");
            assert!(text.contains(unit) && text.contains("ExecStart=-portgrant "), "{text}");
        }
    }

    #[test]
    fn the_sockets_have_the_name_of_their_unit() {
        let draft = of("[Socket]\nListenStream=80\n", "[Service]\nUser=a\nExecStart=/bin/x\nRequires=x\n");
        assert!(draft.servers.iter().all(|server| server.command().contains("-l web.socket=80")));
        let draft = of("[Socket]\nListenStream=80\nFileDescriptorName=a@b\n", "[Service]\nUser=a\nExecStart=/bin/x\n");
        assert!(draft.text("systemd").contains("the name 'a@b' in LISTEN_FDNAMES is not taken over"));
        let wants = "[Unit]\nWants=other.socket web.socket\n[Service]\nUser=a\nExecStart=/bin/x\n";
        let text = of("[Socket]\nListenStream=80\n", wants).text("systemd");
        assert!(text.contains("Wants= of the service starts web.socket again: take it out"), "{text}");
    }

    #[test]
    fn a_unit_that_would_change_the_service_is_left_out() {
        let socket = "[Socket]\nListenStream=80\n";
        let service = "[Service]\nUser=a\nExecStart=/bin/x\n";
        for (socket, service, why) in [
            ("[Socket]\nListenStream=/run/x.sock\n", service, "a Unix socket"),
            ("[Socket]\nListenFIFO=/run/x\nListenStream=80\n", service, "ListenFIFO= is not a socket"),
            ("[Socket]\nListenStream=80\nTransparent=yes\n", service, "Transparent= needs a capability"),
            ("[Socket]\nListenStream=80\nAccept=yes\n", service, "Accept=yes without StandardInput=socket"),
            (socket, "[Service]\nDynamicUser=yes\nExecStart=/bin/x\n", "DynamicUser=yes"),
            (socket, "[Service]\nUser=a\nExecStart=/bin/x %n\n", "has specifiers"),
            (socket, "[Service]\nUser=a\nExecStart=+/bin/x\n", "with other rights"),
            (socket, "[Service]\nUser=a\nExecStart=/bin/x 'a\\tb'\n", "has a backslash"),
            (socket, "[Service]\nUser=%i\nExecStart=/bin/x\n", "User= has a specifier"),
            (socket, "[Service]\nUser=a\nExecStart=/bin/x\nSockets=web.socket more.socket\n", "further socket units"),
            (
                socket,
                "[Service]\nUser=a\nExecStart=/bin/x\nStandardInput=socket\nStandardOutput=journal\n",
                "StandardOutput=",
            ),
            (socket, "[Service]\nUser=a\nExecStart=/bin/x\nPrivateUsers=yes\n", "PrivateUsers="),
            (socket, "[Service]\nUser=a\nExecStart=/bin/x\nRestrictAddressFamilies=AF_UNIX\n", "must list AF_INET"),
        ] {
            let draft = of(socket, service);
            assert!(draft.rules.is_empty() && draft.left_something_out(), "{socket}{service}");
            assert!(draft.text("systemd").contains(why), "{socket}{service}{}", draft.text("systemd"));
        }
    }
}
