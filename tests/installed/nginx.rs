//! A web server on ports 80 and 443: nginx takes NGINX="3;4;" and compares addresses exactly.

use std::fs;

use portgrant_tests::{Caller, LAUNCHER, Running, World, both_installs, http_get};

both_installs![nginx_answers_on_80_and_443, nginx_without_a_rule_for_both_ports_is_refused_and_not_started];

const PID_FILE: &str = "/run/web/nginx.pid";
const SERVERS: &str = "
server { listen 0.0.0.0:80; location / { return 200 'plain\\n'; } }
server { listen 0.0.0.0:443; location / { return 200 'also plain\\n'; } }";

/// A whole configuration, in the foreground, with these `server` blocks; what it writes, it writes to /run/web.
pub(crate) fn configuration(servers: &str) -> String {
    let folders = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let folders: String = folders.iter().map(|name| format!("{name}_temp_path /run/web/{name};\n")).collect();
    format!(
        "daemon off;\npid {PID_FILE};\nerror_log stderr;\nevents {{}}\nhttp {{\naccess_log off;\n{folders}{servers}\n}}\n"
    )
}

fn nginx_answers_on_80_and_443(world: &World) {
    world.policy("permit www-data 80 443\n");

    let nginx = www_data(world).spawn(EXEC);

    answers(world, &nginx);
}

fn nginx_without_a_rule_for_both_ports_is_refused_and_not_started(world: &World) {
    world.policy("permit www-data 80\n");

    let outcome = www_data(world).run(EXEC);

    outcome.exits(77).complains("443");
    assert_eq!(world.listening(), []);
    assert!(!fs::exists(PID_FILE).unwrap(), "nginx was started");
}

const EXEC: [&str; 10] =
    [LAUNCHER, "exec", "-l", "0.0.0.0:80", "-l", "0.0.0.0:443", "--", "nginx", "-c", "/etc/nginx/plain.conf"];

fn www_data(world: &World) -> Caller {
    world.file("/etc/nginx/plain.conf", &configuration(SERVERS));
    world.folder("/run/web", "www-data", 0o755);
    world.as_user("www-data").env("NGINX", "3;4;")
}

fn answers(world: &World, nginx: &Running) {
    for (address, content) in [("127.0.0.1:80", "\r\n\r\nplain\n"), ("127.0.0.1:443", "\r\n\r\nalso plain\n")] {
        let reply = http_get(address, "/");
        assert!(reply.starts_with("HTTP/1.1 200 OK\r\n") && reply.ends_with(content), "{reply}");
    }
    let www_data = world.uid("www-data");
    let process = world.process(nginx.pid());
    assert_eq!((process.uids, process.gids), ([www_data; 4], [www_data; 4]));
    assert!(process.is_powerless(), "nginx has kept a capability: {process:?}");

    assert!(fs::exists(PID_FILE).unwrap());
    let listening = world.listening();
    assert_eq!(listening.iter().map(|l| l.endpoint()).collect::<Vec<_>>(), ["tcp 0.0.0.0:80", "tcp 0.0.0.0:443"]);
    assert!(listening.iter().all(|l| l.uid == www_data), "{listening:?}");
}
