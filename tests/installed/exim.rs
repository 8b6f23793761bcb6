//! A mail server on port 25, as Debian-exim: exim takes the listening socket as descriptor 0.
//!
//! Debian's exim4 is setuid root; a daemon started by Debian-exim gives that up. Under no_new_privs it never has it.

use std::fs;

use portgrant_tests::{BINDER, Caller, Dialogue, LAUNCHER, Running, World, both_installs};

both_installs![
    exim_queues_a_message_from_port_25,
    exim_queues_a_message_through_the_launcher,
    exim_under_no_new_privs_is_never_root_and_queues_a_message,
    exim_without_a_rule_is_refused_and_not_started,
];

const EXIM: &str = "/usr/sbin/exim4";
const LOG: &str = "/var/log/exim4/mainlog";
pub(super) const CONFIGURATION: &str = "
primary_hostname = mail.example.test
queue_only
tls_advertise_hosts =
acl_smtp_rcpt = recipient
begin acl
recipient:
  accept domains = example.test
begin routers
all:
  driver = redirect
  data = :blackhole:
";

fn exim_queues_a_message_from_port_25(world: &World) {
    world.policy("permit Debian-exim smtp\n");

    let exim = mailer(world).spawn([BINDER, "exec", "--inetd", "-l", "25", "--", EXIM, "-bw"]);

    queues_a_message(world, &exim);
}

fn exim_queues_a_message_through_the_launcher(world: &World) {
    world.policy("permit Debian-exim 25\n");

    let exim = mailer(world).spawn([LAUNCHER, "exec", "--inetd", "-l", "25", "--", EXIM, "-bw"]);

    queues_a_message(world, &exim);
}

fn exim_under_no_new_privs_is_never_root_and_queues_a_message(world: &World) {
    world.policy("permit Debian-exim 25\n");

    let exim = mailer(world).spawn([BINDER, "exec", "--inetd", "--no-new-privs", "-l", "25", "--", EXIM, "-bw"]);

    queues_a_message(world, &exim);
    assert!(world.process(exim.pid()).no_new_privs);
}

fn exim_without_a_rule_is_refused_and_not_started(world: &World) {
    world.policy("permit news 25\npermit Debian-exim 26\n");

    for program in [BINDER, LAUNCHER] {
        let outcome = mailer(world).run([program, "exec", "--inetd", "-l", "25", "--", EXIM, "-bw"]);

        outcome.exits(77).complains("25");
        assert_eq!(world.listening(), []);
        assert!(!fs::exists(LOG).unwrap(), "exim was started");
    }
}

fn mailer(world: &World) -> Caller {
    world.file("/etc/exim4/exim4.conf", CONFIGURATION);
    world.as_user("Debian-exim")
}

fn queues_a_message(world: &World, exim: &Running) {
    let mut client = Dialogue::with("127.0.0.1:25");
    client.hear("220");
    client.say("EHLO client.example.test");
    client.hear("250");
    client.say("MAIL FROM:<alice@example.test>");
    client.hear("250");
    client.say("RCPT TO:<bob@elsewhere.test>");
    client.hear("550");
    client.say("RCPT TO:<bob@example.test>");
    client.hear("250");
    client.say("DATA");
    client.hear("354");
    client.say("Subject: a message\r\n\r\nThrough a socket that was handed over.\r\n.");
    let accepted = client.hear("250");
    client.say("QUIT");
    client.hear("221");

    let id = accepted.strip_prefix("OK id=").unwrap_or_else(|| panic!("no id in {accepted}"));
    let body = fs::read_to_string(format!("/var/spool/exim4/input/{id}-D")).expect("the message in the spool");
    assert!(fs::exists(LOG).unwrap() && body.contains("Through a socket that was handed over."), "{body}");
    world.as_user("Debian-exim").run([EXIM, "-bp"]).succeeds().prints(id).prints("bob@example.test");

    let process = world.process(exim.pid());
    let [listening] = &world.listening()[..] else { panic!("more than one socket: {:?}", world.listening()) };
    assert_eq!((listening.endpoint().as_str(), process.uids), ("tcp *:25", [listening.uid; 4]));
    assert_eq!(process.uids, [world.uid("Debian-exim"); 4]);
    assert!(process.is_powerless(), "exim has kept a capability: {process:?}");
}
