use clap::Parser;

use super::*;
use crate::{Arguments, Command};

/// The image of `portgrant exec WORDS` with this environment, or the error message.
fn image(words: &[&str], environment: &[&str]) -> Result<Image, String> {
    let words: Vec<OsString> = words.iter().map(OsString::from).collect();
    adopted(&words, environment)
}

fn adopted(words: &[OsString], environment: &[&str]) -> Result<Image, String> {
    let before = ["portgrant".into(), "exec".into()];
    let parsed = Arguments::try_parse_from(before.iter().chain(words)).map_err(|error| error.to_string())?;
    let Command::Exec(asked) = parsed.command else { panic!("not exec") };
    let environment: Vec<CString> = environment.iter().map(|text| CString::new(*text).expect("no NUL")).collect();
    let image = || {
        let wanted = Wanted::of(&asked)?;
        let descriptors = wanted.descriptors(&asked.listen)?.unwrap_or_default();
        wanted.image(Path::new("/bin/server"), &environment, &descriptors)
    };
    image().map_err(|error: Error| error.message().to_string())
}

fn variables(image: &Image) -> Vec<String> {
    image.environment(42).iter().map(|entry| entry.to_string_lossy().into_owned()).collect()
}

fn arguments(image: &Image) -> Vec<&str> {
    image.arguments.iter().map(|word| word.to_str().expect("text")).collect()
}

#[test]
fn without_as_the_sockets_are_announced_by_listen_fds() {
    let image = image(&["-l", "w=80", "-l", "443/udp", "--", "server", "-x"], &["A=1", "LISTEN_FDS=9", "NGINX=7;"]);
    let image = image.expect("an image");
    assert_eq!((image.places, arguments(&image)), (Places::USUAL, vec!["server", "-x"]));
    assert_eq!(variables(&image), ["A=1", "NGINX=7;", "LISTEN_FDS=2", "LISTEN_PID=42", "LISTEN_FDNAMES=w:443/udp"]);
}

#[test]
fn a_servers_own_variable_replaces_a_stale_one_and_listen_fds() {
    let words = ["--as", "nginx", "-l", "0.0.0.0:80", "-l", "[::1]:443", "--", "nginx"];
    let nginx = image(&words, &["NGINX=7;", "NGINXES=1", "LISTEN_FDS=1"]).expect("an image");
    assert_eq!(variables(&nginx), ["NGINXES=1", "NGINX=3;4;"]);
    let words = ["--as", "puma", "-l", "80", "--", "puma"];
    let puma = image(&words, &["PUMA_INHERIT_7=9:tcp://x", "PUMA_INHERIT_=1"]).expect("an image");
    assert_eq!(variables(&puma), ["PUMA_INHERIT_=1", "PUMA_INHERIT_0=3:tcp://[::]:80"]);
}

#[test]
fn descriptor_zero_is_for_one_socket_and_is_not_announced() {
    for (option, places) in [
        (&["--inetd"][..], Places::Standard),
        (&["--as", "jvm"], Places::Standard),
        (&["--as", "exim"], Places::StandardParked),
    ] {
        let with = |rest: &[&str]| image(&[option, rest].concat(), &["LISTEN_PID=1"]);
        let one = with(&["-l", "80", "--", "server", "{fd}"]).expect("an image");
        assert_eq!((one.places, variables(&one), arguments(&one)), (places, vec![], vec!["server", "0"]));
        let option = option.join(" ");
        let two = with(&["-l", "80", "-l", "81", "--", "server"]).expect_err("two");
        assert!(two.starts_with(&format!("{option} takes one -l ENDPOINT, not 2")), "{two}");
    }
    let each = image(&["--inetd", "-l", "each:520/udp", "--", "server"], &[]).expect_err("each");
    assert!(each.starts_with("--inetd cannot be used with 'each'"), "{each}");
}

#[test]
fn numbers_are_filled_into_arguments_and_variables_but_not_the_program_name() {
    let words = ["-l", "web=80", "-l", "443", "--setenv", "A={fd:web}", "--setenv", "A=<{fd:443/tcp}>", "--"];
    let program = ["{fd}", "--fd={fd:web}", "{{fd}}", "{fd:web}{fd:443/tcp}"];
    let filled = image(&[&words[..], &program].concat(), &["A=0"]).expect("an image");
    assert_eq!(arguments(&filled), ["{fd}", "--fd=3", "{fd}", "34"]);
    assert!(variables(&filled).contains(&"A=<4>".to_owned()) && !variables(&filled).contains(&"A=0".to_owned()));
    assert_eq!(variables(&filled).len(), 4, "the last one counts");
}

#[test]
fn arguments_that_are_not_utf8_are_kept() {
    let bytes = |bytes: &[u8]| OsString::from_vec(bytes.to_vec());
    let words = ["-l".into(), "80".into(), "--setenv".into(), bytes(b"V\xfe=\xff{fd}"), "--".into(), bytes(b"p\xfd")];
    let image = adopted(&[&words[..], &[bytes(b"\xff{fd}\x80")]].concat(), &[]).expect("an image");
    assert_eq!(image.arguments, [bytes(b"p\xfd"), bytes(b"\xff3\x80")]);
    assert!(image.environment(1).contains(&CString::new(b"V\xfe=\xff3".to_vec()).expect("no NUL")));
}

#[test]
fn a_placeholder_without_exactly_one_socket_is_an_error_that_lists_the_names() {
    let two = ["-l", "web=80", "-l", "443", "--", "server"];
    let cases = [
        (
            "{fd}",
            "{fd} needs exactly one socket, and there are 2: the names of the sockets are web, 443/tcp; write {fd:NAME}",
        ),
        ("{fd:wbe}", "{fd:wbe} matches no socket: the names of the sockets are web, 443/tcp; use one of these names"),
        ("{fd:}", "{fd:} matches no socket"),
    ];
    for (argument, message) in cases {
        let error = image(&[&two[..], &[argument]].concat(), &[]).expect_err(argument);
        assert!(error.starts_with(message), "{error}");
    }
    let same = ["-l", "0.0.0.0:80", "-l", "[::]:80,v6only", "--", "server", "{fd:80/tcp}"];
    let error = image(&same, &[]).expect_err("both bear it");
    assert!(error.contains("matches 2 sockets") && error.contains("-l NAME=ENDPOINT"), "{error}");
}

#[test]
fn contradictory_options_are_refused() {
    let cases: [(&[&str], &str); 15] = [
        (&["--inetd", "--as", "nginx", "-l", "80"], "--inetd cannot be used with --as nginx"),
        (&["--inetd", "--accept", "-l", "80"], "--inetd cannot be used with --accept"),
        (&["--as", "exim", "--accept", "-l", "80"], "--as exim cannot be used with --accept"),
        (&["--as", "apache2", "-l", "80"], "--as apache2 is not possible: apache2 takes no inherited socket"),
        (&["--as", "nnrpd", "-l", "119"], "--as nnrpd is not needed: this server uses --accept"),
        (
            &["--as", "gunicorn", "-l", "443/udp"],
            "--as gunicorn cannot be used with 443/udp: gunicorn serves only stream",
        ),
        (
            &["--as", "starlet", "-l", "80"],
            "--as starlet cannot be used with 80: starlet serves only IPv4 stream sockets",
        ),
        (&["--as", "uvicorn", "-l", "80"], "--as uvicorn needs the descriptor's number in the program's arguments"),
        (&["--as", "uvicorn", "-l", "80", "-l", "81"], "--as uvicorn takes one -l ENDPOINT, not 2"),
        (&["--setenv", "=x", "-l", "80"], "'=x' does not set a variable; expected --setenv VAR=VALUE"),
        (&["--setenv", "x", "-l", "80"], "'x' does not set a variable"),
        (
            &["--setenv", "LISTEN_FDS=2", "-l", "80"],
            "LISTEN_FDS cannot be set: portgrant uses it to announce the sockets",
        ),
        (&["--setenv", "LISTEN_PIDFDID=2", "--inetd", "-l", "80"], "LISTEN_PIDFDID cannot be set"),
        (&["--as", "nginx", "--setenv", "NGINX=3;", "-l", "80"], "NGINX cannot be set: --as nginx uses it"),
        (&["--as", "puma", "--setenv", "PUMA_INHERIT_3=x", "-l", "80"], "PUMA_INHERIT_3 cannot be set"),
    ];
    for (words, message) in cases {
        let error = image(&[words, &["--", "server"]].concat(), &[]).expect_err(message);
        assert!(error.starts_with(message), "{words:?}: {error}");
    }
}

#[test]
fn the_program_is_looked_up_in_the_path_set_for_it() {
    let words = ["portgrant", "exec", "-l", "80", "--setenv", "PATH=/nonexistent:/usr/bin:/bin", "--", "env"];
    let Command::Exec(asked) = Arguments::try_parse_from(words).expect("parsed").command else { panic!("not exec") };
    let wanted = Wanted::of(&asked).expect("wanted");
    assert!(wanted.find(&[c"PATH=/nonexistent".to_owned()]).is_ok_and(|path| path.ends_with("env")));
}

#[test]
fn a_connection_is_always_descriptor_zero() {
    let words = ["--accept", "-l", "80", "-l", "81", "--setenv", "A={fd}", "--", "server", "{fd}"];
    let image = image(&words, &["LISTEN_FDS=1"]).expect("an image");
    assert_eq!((variables(&image), arguments(&image)), (vec!["A=0".to_owned()], vec!["server", "0"]));
}
