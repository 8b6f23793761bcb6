//! Turns the table of servers (`servers/table.toml`) into constants, and adds to each row the versions that it was
//! tested with (`servers/SUITE.jsonl`, written by tests/servers/run). Then does what `../build.rs` does.

#[path = "../build.rs"]
mod libgcc;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;
use std::{env, fs};

use toml::{Table, Value};

/// Debian's suites, and their usual names.
const SUITES: [(&str, &str); 3] = [("bookworm", "Debian 12"), ("trixie", "Debian 13"), ("sid", "Debian sid")];
const WAYS: [(&str, &str); 4] =
    [("exec", "portgrant exec"), ("accept", "--accept"), ("run", "portgrant run"), ("kernel", "kernel mode")];
const EVENTS: [(&str, &str); 4] =
    [("HUP", "SIGHUP"), ("USR1", "SIGUSR1"), ("USR2", "SIGUSR2"), ("reload", "its reload command")];

fn main() {
    println!("cargo::rerun-if-changed=servers");
    println!("cargo::rerun-if-changed=build");
    let text = fs::read_to_string("servers/table.toml").expect("the table of servers");
    let table: Table = text.parse().unwrap_or_else(|error| panic!("servers/table.toml: {error}"));
    let rows = table["server"].as_array().expect("rows of servers");
    let versions = versions();
    let mut code = "&[\n".to_owned();
    for row in rows {
        row_of(row.as_table().expect("a row is a table"), &versions, &mut code);
    }
    code.push(']');
    let folder = env::var_os("OUT_DIR").expect("cargo sets it");
    fs::write(Path::new(&folder).join("servers.rs"), code).expect("the constants are written");
    libgcc::main();
}

/// For each server, the versions that it was tested with.
fn versions() -> BTreeMap<String, Vec<(&'static str, String)>> {
    let mut versions: BTreeMap<String, Vec<_>> = BTreeMap::new();
    for (suite, debian) in SUITES {
        let records = fs::read_to_string(format!("servers/{suite}.jsonl")).unwrap_or_default();
        for line in records.lines() {
            let record: serde_json::Value = serde_json::from_str(line).expect("a record is JSON");
            let field = |name: &str| record[name].as_str().unwrap_or_else(|| panic!("{name} in {line}"));
            let version = field("version");
            let upstream = version.split_once(':').map_or(version, |(_, version)| version);
            let upstream = upstream.rsplit_once('-').map_or(upstream, |(version, _)| version);
            let upstream = upstream.split(['+', '~']).next().unwrap_or(upstream);
            let of_name = versions.entry(field("server").to_owned()).or_default();
            if of_name.last().is_none_or(|(last, _)| *last != debian) {
                of_name.push((debian, upstream.to_owned()));
            }
        }
    }
    versions
}

fn row_of(row: &Table, versions: &BTreeMap<String, Vec<(&'static str, String)>>, code: &mut String) {
    const KNOWN: [&str; 21] = [
        "name", "kind", "aliases", "takes", "as", "serves", "user", "since", "notes", "backlog", "root", "exec",
        "accept", "run", "reload", "files", "signals", "test", "instead", "counts", "pass",
    ];
    let name = row["name"].as_str().expect("a name");
    if let Some(unknown) = row.keys().find(|key| !KNOWN.contains(&key.as_str())) {
        panic!("servers/table.toml: {name}: unknown field {unknown}");
    }
    let text =
        |field: &str| row.get(field).map(|value| value.as_str().unwrap_or_else(|| panic!("{name}: {field} is a text")));
    let list = |field: &str| -> Vec<&str> {
        let values = row.get(field).and_then(Value::as_array).into_iter().flatten();
        values.map(|value| value.as_str().expect("texts")).collect()
    };
    let adoption = row.get("as").map_or_else(|| "Adoption::Never".to_owned(), adoption);
    let takes = text("takes").unwrap_or("no inherited socket, and binds its ports itself");
    let serves = match text("serves") {
        None => "Any",
        Some("streams") => "Streams",
        Some("one stream") => "OneStream",
        Some("ipv4 streams") => "Ipv4Streams",
        Some(other) => panic!("{name}: serves {other}"),
    };
    let files: Vec<(&str, &str)> = row.get("files").and_then(Value::as_table).map_or_else(Vec::new, |files| {
        files.iter().map(|(file, content)| (file.as_str(), content.as_str().expect("a text"))).collect()
    });
    let mut notes: Vec<String> = list("notes").into_iter().map(str::to_owned).collect();
    if let Some(backlog) = text("backlog") {
        notes.push(format!("It replaces the backlog of the endpoint with {backlog}."));
    }
    let tried = versions.get(name).map_or_else(String::new, |suites| {
        suites.iter().map(|(suite, version)| format!("{version} of {suite}")).collect::<Vec<_>>().join(", ")
    });
    let signals = if tried.is_empty() { Vec::new() } else { signals(row) };
    writeln!(
        code,
        "Server {{ name: {name:?}, aliases: &{:?}, takes: {takes:?}, adoption: {adoption}, serves: Serves::{serves}, \
         user: {:?}, exec: {:?}, accept: {:?}, run: {:?}, reload: {:?}, files: &{files:?}, signals: &{signals:?}, \
         notes: &{notes:?}, since: {:?}, tried: {tried:?} }},",
        list("aliases"),
        text("user"),
        text("exec"),
        text("accept"),
        text("run"),
        text("reload"),
        text("since").unwrap_or_default(),
    )
    .expect("a string grows");
}

fn adoption(value: &Value) -> String {
    if let Some(word) = value.as_str() {
        let variant = match word {
            "listen-fds" => "ListenFds",
            "standard" => "Standard",
            "standard-parked" => "StandardParked",
            "connection" => "Connection",
            _ => panic!("servers/table.toml: as = {word:?}"),
        };
        return format!("Adoption::{variant}");
    }
    let text = |field: &str| value.get(field).and_then(Value::as_str);
    if let Some(sample) = text("argument") {
        return format!("Adoption::Argument({sample:?})");
    }
    let (variable, entry) = (text("variable").expect("a variable"), text("entry").expect("its entry"));
    let joined = text("between").map_or_else(|| "Joined::Numbered".to_owned(), |text| format!("Joined::By({text:?})"));
    format!("Adoption::Variable(Variable {{ name: {variable:?}, entry: {entry:?}, joined: {joined} }})")
}

/// What the signals do, one sentence each. Signals with the same effect share a sentence.
fn signals(row: &Table) -> Vec<String> {
    let mut sentences: Vec<(Vec<&str>, String)> = Vec::new();
    for (event, spoken) in EVENTS {
        if event == "reload" && !row.contains_key("reload") {
            continue;
        }
        let done = match row.get("signals").and_then(|signals| signals.get(event)) {
            None => phrase("ends").to_owned(),
            Some(Value::String(word)) => phrase(word).to_owned(),
            Some(Value::Table(cells)) => {
                let usual = cells.get("other").and_then(Value::as_str).unwrap_or("ends");
                let others = cells
                    .iter()
                    .filter(|(key, _)| *key != "other")
                    .map(|(key, word)| format!("; {}: {}", spoken_cell(key), phrase(word.as_str().expect("a word"))));
                phrase(usual).to_owned() + &others.collect::<String>()
            }
            Some(other) => panic!("servers/table.toml: signals {other:?}"),
        };
        match sentences.iter_mut().find(|(_, known)| *known == done) {
            Some((events, _)) => events.push(spoken),
            None => sentences.push((vec![spoken], done)),
        }
    }
    sentences.into_iter().map(|(events, done)| format!("{}: {done}.", events.join(", "))).collect()
}

fn spoken_cell(key: &str) -> String {
    let spoken = |word: &str| {
        let known = SUITES.iter().chain(&WAYS).find(|(name, _)| *name == word);
        known.unwrap_or_else(|| panic!("servers/table.toml: signals of {word}")).1
    };
    key.split(' ').map(spoken).collect::<Vec<_>>().join(" on ")
}

fn phrase(word: &str) -> &'static str {
    match word {
        "serves" => "it serves on",
        "anew" => "it ends, and another process serves on",
        "deaf" => "it stays and does not answer any more",
        "ends" => "it ends",
        "fails" => "fails",
        _ => panic!("servers/table.toml: {word:?} is not what a signal does"),
    }
}
