//! The `coherd` command as a process: what it prints where, and its exit codes.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::admin::Admin;
use crate::support::process::free_port;

struct Files {
    folder: tempfile::TempDir,
}

impl Files {
    fn with(text: &str) -> Files {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join("c.yaml"), text).unwrap();
        Files { folder }
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("c.yaml")
    }
}

fn config(port: u16) -> String {
    format!("{}admin: {{listen: '127.0.0.1:{port}'}}\n", crate::admin::CONFIG)
}

fn coherd(arguments: &[&str], files: Option<&Files>) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_coherd"));
    command.args(arguments).env_remove("COHERD_CONFIG");
    if let Some(files) = files {
        command.env("COHERD_CONFIG", files.path());
    }
    let output = command.output().unwrap();
    for text in [&output.stdout, &output.stderr] {
        assert!(!String::from_utf8_lossy(text).contains("hunter2"), "{output:?}");
    }
    output
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn wrong_usage_is_two_and_help_is_nought() {
    let wrong = coherd(&["statsu"], None);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("status"), "{}", stderr(&wrong));
    let help = coherd(&["--help"], None);
    assert_eq!(help.status.code(), Some(0));
    assert!(stdout(&help).contains("Exit codes:") && help.stderr.is_empty());
}

#[test]
fn a_wrong_configuration_is_seventy_eight_and_every_fault_has_a_line() {
    let missing = coherd(&["--config", "/no/such.yaml", "status"], None);
    assert_eq!(missing.status.code(), Some(78));
    assert!(stderr(&missing).starts_with("/no/such.yaml: "), "{}", stderr(&missing));
    let files = Files::with(&format!("{}slots: 1\non_gap: flsh\n", config(1)));
    let wrong = coherd(&["check"], Some(&files));
    assert_eq!(wrong.status.code(), Some(78));
    assert!(wrong.stdout.is_empty());
    let faults = stderr(&wrong);
    for (fault, place) in faults.lines().zip(["5:1", "6:9"]) {
        assert!(fault.starts_with(&format!("{}:{place}: ", files.path().display())), "{faults}");
    }
    assert_eq!(faults.lines().count(), 2, "{faults}");
}

/// The daemon still runs with the file's previous contents.
#[test]
fn a_file_that_was_edited_badly_does_not_keep_a_daemon_from_being_asked() {
    let admin = Admin::streaming();
    admin.settle(0x20_0000);
    let port = admin.address.port();
    for broken in [
        format!("{}on_gap: flsh\n", config(port)),
        format!("{}targets: [\n", config(port)),
        format!("{}unset: ${{NO_SUCH_VARIABLE}}\n", config(port)),
    ] {
        let files = Files::with(&broken);
        let address = format!("127.0.0.1:{port}");
        for args in [&["status", "--admin", &address][..], &["wait", "--token", "0/200000", "--admin", &address]] {
            let output = coherd(args, Some(&files));
            assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
            assert!(stderr(&output).contains(&files.path().display().to_string()), "{}", stderr(&output));
        }
        // An error elsewhere in the file does not hide admin.listen.
        if !broken.contains("[\n") {
            for args in [&["status"][..], &["wait", "--token", "0/200000"]] {
                let output = coherd(args, Some(&files));
                assert_eq!(output.status.code(), Some(0), "{args:?}: {}", stderr(&output));
            }
        }
    }
    let nobody =
        coherd(&["status", "--admin", &format!("127.0.0.1:{}", free_port())], Some(&Files::with("rules: 1\n")));
    assert_eq!(nobody.status.code(), Some(78), "{}", stderr(&nobody));
}

#[test]
fn the_status_of_no_daemon_names_the_address_and_what_to_do() {
    let port = free_port();
    let output = coherd(&["status"], Some(&Files::with(&config(port))));
    assert_eq!(output.status.code(), Some(1));
    assert!(output.stdout.is_empty());
    let text = stderr(&output);
    for part in [&format!("http://127.0.0.1:{port}/status"), "coherd run", "onnection refused"] {
        assert!(text.contains(part), "{part} is missing in {text}");
    }
}

#[test]
fn the_status_of_a_daemon_is_a_table_or_json() {
    let admin = Admin::streaming();
    let files = Files::with(&config(admin.address.port()));
    let table = coherd(&["status"], Some(&files));
    assert_eq!(table.status.code(), Some(0), "{}", stderr(&table));
    assert!(stdout(&table).contains("ready      yes") && stdout(&table).contains("cache"), "{}", stdout(&table));
    let json = coherd(&["status", "--json"], Some(&files));
    assert_eq!(json.status.code(), Some(0));
    let value: serde_json::Value = serde_json::from_slice(&json.stdout).unwrap();
    assert_eq!(value["state"], "streaming");
}

#[test]
fn the_help_of_wait_says_what_it_waits_for_and_how_long() {
    let help = coherd(&["wait", "--help"], None);
    assert_eq!(help.status.code(), Some(0));
    insta::assert_snapshot!(stdout(&help), @r"
    Waits until everything committed so far is settled (or applied, with --stage)

    Usage: coherd wait [OPTIONS]

    Options:
          --config <FILE>       The configuration file [env: COHERD_CONFIG] [default:
                                /etc/coherd/coherd.yaml]
          --token <LSN>         Position to wait for: 16/B374D848, or the decimal number from
                                coherd.token(). Default: the current end of the log, that is, everything
                                committed so far
          --timeout <DURATION>  How long to wait [default: 5s]
          --stage <STAGE>       Stage to wait for: applied (every cache has confirmed) or settled
                                (readers may rely on it) [default: settled] [possible values: applied,
                                settled]
          --json                Print JSON, for programs
          --admin <ADDRESS>     Admin address of the daemon, as IP:PORT. Default: admin.listen in the
                                configuration [env: COHERD_ADMIN]
      -h, --help                Print help
    ");
}

#[test]
fn a_wait_for_a_token_that_is_reached_or_not() {
    let admin = Admin::streaming();
    admin.settle(0x20_0100);
    admin.hear(0x20_0180);
    let files = Files::with(&config(admin.address.port()));
    for token in ["2097408", "0/200100"] {
        let reached = coherd(&["wait", "--token", token], Some(&files));
        assert_eq!(
            (reached.status.code(), stdout(&reached).as_str()),
            (Some(0), "0/200100 is settled; settled is at 0/200100\n")
        );
    }
    let late = coherd(&["wait", "--token", "2097409", "--timeout", "20ms"], Some(&files));
    assert_eq!(late.status.code(), Some(1));
    assert!(late.stdout.is_empty());
    insta::assert_snapshot!(stderr(&late), @r"
    coherd: 0/200101 is not settled within 20 ms; settled is at 0/200100
    the log is read up to 0/200100
    target cache (up) has confirmed up to 0/0; 0 keys wait, 0 deliveries are on their way
    ");
    let late =
        coherd(&["wait", "--token", "2097409", "--timeout", "20ms", "--stage", "applied", "--json"], Some(&files));
    assert_eq!((late.status.code(), stderr(&late).as_str()), (Some(1), ""));
    let value: serde_json::Value = serde_json::from_str(&stdout(&late)).unwrap();
    assert_eq!(
        (&value["reached"], &value["stage"], &value["token"]),
        (&false.into(), &"applied".into(), &"0/200101".into())
    );
    assert_eq!(value["watermarks"]["applied"], "0/200100");
    for wrong in [["--token", "soon"], ["--token", "5"], ["--timeout", "5"], ["--stage", "visible"]] {
        assert_eq!(coherd(&["wait", wrong[0], wrong[1]], Some(&files)).status.code(), Some(2), "{wrong:?}");
    }
    let told = stderr(&coherd(&["wait", "--token", "5"], Some(&files)));
    assert!(told.contains("0/5 is not a position in a server's log; for seconds, use --timeout 5s"), "{told}");
}

#[test]
fn what_answers_but_is_no_coherd_is_told() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let other = std::thread::spawn(move || {
        use std::io::{Read, Write};
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.read(&mut [0; 1024]);
        let _ = socket.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    let output = coherd(&["status"], Some(&Files::with(&config(port))));
    other.join().unwrap();
    assert_eq!(output.status.code(), Some(1));
    assert!(stderr(&output).contains("speaks no HTTP"), "{}", stderr(&output));
}

#[test]
fn the_function_library_is_printed_without_a_configuration_and_redis_takes_it() {
    let printed = coherd(&["--config", "/no/such.yaml", "lua"], None);
    assert_eq!(printed.status.code(), Some(0), "{}", stderr(&printed));
    let redis = crate::support::Redis::start();
    let mut client = redis.client();
    let mut load = redis::cmd("FUNCTION");
    let loaded: String = load.arg("LOAD").arg(&printed.stdout).query(&mut client).unwrap();
    assert_eq!(loaded, "coherd");
    // The commands in the library's first lines name existing functions.
    let text = stdout(&printed);
    let shown: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("--   FCALL ")).collect();
    assert_eq!(shown.len(), 3, "{text}");
    for call in shown {
        let [name, keys] = call.split_whitespace().take(2).collect::<Vec<_>>()[..] else { panic!("{call}") };
        let arguments: Vec<String> = call.split_whitespace().skip(2).map(|_| "x".to_owned()).collect();
        let refused = redis::cmd("FCALL").arg(name).arg(keys).arg(arguments).query::<redis::Value>(&mut client);
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains(&format!("{name}: got ")) && !refused.contains("argument"), "{refused}");
    }
}

#[test]
fn each_function_is_printed_as_a_script_and_others_are_wrong_usage() {
    for function in coherd::targets::redis::lua::FUNCTIONS {
        let printed = coherd(&["lua", "--eval", function.name], None);
        assert_eq!((printed.status.code(), stdout(&printed)), (Some(0), function.script()));
    }
    let wrong = coherd(&["lua", "--eval", "bump"], None);
    assert_eq!(wrong.status.code(), Some(2));
    assert!(stderr(&wrong).contains("[possible values: get, fill, version]"), "{}", stderr(&wrong));
}

#[test]
fn a_rule_that_would_leave_keys_behind_is_refused_with_its_place() {
    for (rule, said) in [
        (
            "keys: ['user:{id}'], scope: 'sess:*'",
            ":48: rules[0].scope: \"sess:*\" does not match every key of \"user:{id}\"",
        ),
        ("keys: ['user:{id}', 'user:*']", ":26: rules[0].keys: key template \"user:*\": * is no wildcard here"),
    ] {
        let rules = format!("rules:\n  - {{table: users, {rule}}}\n");
        let text = config(free_port());
        let (before, _) = text.split_once("rules:").unwrap_or((&text, ""));
        let files = Files::with(&format!("{before}{rules}"));
        let output = coherd(&["check", "--config-only"], Some(&files));
        assert_eq!(output.status.code(), Some(78), "{output:?}");
        assert!(stderr(&output).contains(said), "{}", stderr(&output));
    }
}
