//! Settings from flags, the environment and a file.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use crate::control::words;
use crate::server::Server;

pub(crate) fn check(arguments: &[&str], environment: &[(&str, &str)]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_sledge"))
        .args(["config", "check"])
        .args(arguments)
        .env_remove("SLEDGE_CONFIG")
        .envs(environment.iter().copied())
        .output()
        .unwrap()
}

/// Writes a configuration, and says where.
pub(crate) fn write(folder: &Path, text: &str) -> String {
    let path = folder.join("sledge.toml");
    fs::write(&path, text).unwrap();
    path.to_str().unwrap().to_owned()
}

/// Checks a configuration that has mistakes, which must be told by these words; where it is, and all that was told.
pub(crate) fn refused(folder: &Path, text: &str, says: &[&str]) -> (String, String) {
    let config = write(folder, text);
    let checked = check(&["--config", &config], &[]);
    assert_eq!(checked.status.code(), Some(1), "{text}");
    let told = words(&checked.stderr);
    for word in says {
        assert!(told.contains(word), "{text}: {told}");
    }
    (config, told)
}

/// A setting may be said three times: the flag holds, then the variable, then the file.
#[test]
fn flags_go_before_the_environment_and_that_before_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let store = folder.path().join("store");
    Server::start(&store).stop();
    let config = write(folder.path(), "read-only = true\n");
    let upload = |arguments: &[&str], environment: &[(&str, &str)]| {
        let arguments = [&["--config", &config], arguments].concat();
        let server = Server::start_in(&store, &arguments, environment);
        let answer = server.request("POST", "/v2/a/blobs/uploads/", b"");
        server.stop();
        answer.status
    };
    assert_eq!(upload(&[], &[]), 405);
    assert_eq!(upload(&[], &[("SLEDGE_READ_ONLY", "no")]), 202);
    assert_eq!(upload(&["--read-only"], &[("SLEDGE_READ_ONLY", "no")]), 405);
    assert_eq!(upload(&["--read-only=false"], &[]), 202);
}

#[test]
fn a_file_can_say_all_and_its_paths_begin_where_it_is() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(
        folder.path(),
        r#"
            data = "store"
            listen = "127.0.0.1:0"
            gc-interval = "30m"
            verify-interval = "0s"
            verify-rate = "1MiB"
            budget = "1GiB"
            cache = true
            pin = ["v*"]
            read-only = false
            log = "error"
            log-format = "json"

            [retention]
            grace = "2h"
            untagged-after = "7days"
            uploads-after = "1h 30m"
            keep-tags = ["ci/*:last=10,younger=30days,tag=v*"]
            immutable-tags = ["v*"]
        "#,
    );
    let checked = check(&["--config", &config], &[]);
    assert!(checked.status.success(), "{}", words(&checked.stderr));
    assert!(check(&[], &[("SLEDGE_CONFIG", &config)]).status.success());

    let server = Server::start_as(&["--config", &config], &[]);
    assert_eq!(server.request("GET", "/v2/", b"").status, 200);
    server.stop();
    assert!(folder.path().join("store/format").exists());
}

/// Who has said in a file where the store is need not say it again.
#[test]
fn commands_find_the_store_by_its_server_s_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let config = write(folder.path(), "data = \"store\"\nlisten = \"127.0.0.1:0\"\nlog = \"error\"\n");
    let run = |arguments: &[&str], environment: &[(&str, &str)]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_sledge"));
        command.args(arguments).env_remove("SLEDGE_DATA").env_remove("SLEDGE_CONFIG");
        command.envs(environment.iter().copied()).current_dir(folder.path()).output().unwrap()
    };
    let server = Server::start_as(&["--config", &config], &[]);
    for command in ["usage", "gc", "verify"] {
        let asked = run(&[command, "--config", &config], &[]);
        assert!(asked.status.success(), "{command}: {}", words(&asked.stderr));
    }
    server.stop();
    let backup = folder.path().join("backup");
    assert!(run(&["snapshot", backup.to_str().unwrap()], &[("SLEDGE_CONFIG", &config)]).status.success());
    assert!(run(&["compact", "--config", &config], &[]).status.success());
    // What is said at once goes before it, and what cannot be read is not passed over.
    assert!(!run(&["usage", "--config", &config, "--data", "nowhere"], &[]).status.success());
    assert!(!run(&["usage"], &[]).status.success());
    fs::write(&config, "data = 7\n").unwrap();
    let refused = run(&["usage", "--config", &config], &[]);
    assert!(
        !refused.status.success() && words(&refused.stderr).contains("line 1"),
        "{}",
        words(&refused.stderr)
    );
    assert!(run(&["usage", "--config", &config, "--data", "store"], &[]).status.success());
}

#[test]
fn the_place_of_each_mistake_is_named() {
    let folder = tempfile::tempdir().unwrap();
    for (text, says) in [
        ("data = \"x\"\nbuget = \"1GiB\"\n", &["line 2", "buget", "unknown field"][..]),
        ("\n\nbudget = \"much\"\n", &["line 3", "budget", "such as 32MiB"]),
        ("[retention]\nkeep-tags = [\"*:\"]\n", &["line 2", "last=N"]),
        ("[retention]\nimmutable-tags = [\"a/b\"]\n", &["line 2", "no tag can match"]),
        ("verify-rate = \"32\"\n", &["line 1", "at least 64KiB"]),
        ("log-format = \"xml\"\n", &["line 1", "`text` or `json`"]),
        ("budget = \n", &["line 1"]),
        ("[store]\nx = 1\n", &["line 1", "unknown field"]),
        ("data = \"x\"\ncache = true\n", &["sledge.toml:2: cache", "budget"]),
        ("pin = [\"v*\"]\n", &["sledge.toml:1: pin", "cache"]),
        ("budget = \"1MiB\"\n", &["sledge.toml:1: budget", "at least 64MiB"]),
        ("\nlog = \"sledge=loud\"\n", &["sledge.toml:2: log", "debug"]),
        ("\n[[events]]\nurl = \"https://x/\"\n", &["line 2", "missing field `name`"]),
        ("[[events]]\nname = \"a\"\nurl = \"ftp://x/\"\n", &["line 3", "begins with http"]),
        ("[[events]]\nname = \"a\"\nurl = \"nowhere\"\n", &["line 3", "such as https://"]),
        (
            "[[events]]\nname = \"a\"\nurl = \"http://x\"\nactions = [\"fetch\"]\n",
            &["line 4", "`push`", "`pull`"],
        ),
        (
            "\n[[events]]\nname = \"a\"\nurl = \"http://x\"\n[[events]]\nname = \"a\"\nurl = \"http://x\"\n",
            &["sledge.toml:5: events.2", "two receivers are named a"],
        ),
        (
            "[[events]]\nname = \"a\"\nurl = \"http://x\"\nheaders = { \"a b\" = \"secret\" }\n",
            &["sledge.toml:1: events.1", "no header's name"],
        ),
        (
            "[[events]]\nname = \"a\"\nurl = \"http://x\"\nca = \"none.pem\"\n",
            &["sledge.toml:1: events.1", "none.pem"],
        ),
        // Each of several is told.
        ("pin = [\"v*\"]\nbudget = \"1MiB\"\n", &["sledge.toml:1: pin", "sledge.toml:2: budget"]),
    ] {
        let (config, told) = refused(folder.path(), text, says);
        // A server with it does not start, and says the same.
        let served = Command::new(env!("CARGO_BIN_EXE_sledge"))
            .args(["serve", "--listen", "127.0.0.1:0", "--config", &config, "--data"])
            .arg(folder.path().join("store"))
            .output()
            .unwrap();
        assert_eq!(served.status.code(), Some(1), "{text}");
        assert_eq!(words(&served.stderr), told);
        assert!(!folder.path().join("store").exists());
    }
    let config = write(folder.path(), "listen = \"127.0.0.1\"\n");
    let checked = check(&["--config", &config], &[]);
    assert!(words(&checked.stderr).contains("sledge.toml:1: listen"), "{}", words(&checked.stderr));
    let checked = check(&["--cache"], &[]);
    assert!(words(&checked.stderr).contains("--cache: "), "{}", words(&checked.stderr));
    let nowhere = folder.path().join("nowhere.toml");
    let checked = check(&["--config", nowhere.to_str().unwrap()], &[]);
    assert_eq!(checked.status.code(), Some(1));
    assert!(words(&checked.stderr).contains("nowhere.toml"), "{}", words(&checked.stderr));
}

/// Headers and URLs of webhooks are passwords, and a mistake in them is shown to whoever looks on, and logged.
#[test]
fn no_mistake_shows_what_may_be_a_password() {
    let folder = tempfile::tempdir().unwrap();
    for lines in [
        "headers = \"hunter2\"",
        "headers = { Authorization = hunter2 }",
        "header = { Authorization = \"hunter2\" }",
        "Headers = { Authorization = \"hunter2\" }",
        "authorization = \"Bearer hunter2\"",
        "headers = { Authorization = [\"hunter2\"] }",
        "headers = { Authorization = \"hunter2 }",
        "headers = { Authorization = \"\"\"\n[x]\nhunter2 }",
        "headers = { Authorization = 'hunter2\"' }\nx = 1",
        "url = \"ftp://me:hunter2@example.com\"",
        "url = \"http:// x?key=hunter2\"",
    ] {
        let url = if lines.starts_with("url") { "" } else { "url = \"http://x\"\n" };
        let text = format!("[[events]]\nname = \"a\"\n{url}{lines}\n");
        let (_, told) = refused(folder.path(), &text, &["line "]);
        assert!(!told.contains("hunter2"), "{lines}: {told}");
    }
}
