//! The manual, the completions and everything else that is generated from the command line.

use std::process::{Command, Output};

use crate::support::daemon::coherd;

fn run(arguments: &[&str]) -> Output {
    Command::new(coherd()).args(arguments).env_remove("COHERD_CONFIG").output().unwrap()
}

fn stdout(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(0), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// Every command in the help.
fn commands() -> Vec<String> {
    let help = stdout(&run(&["--help"]));
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1).take_while(|line| !line.is_empty());
    let names = lines.filter_map(|line| line.strip_prefix("  ")?.split(' ').next()).filter(|name| !name.is_empty());
    let names: Vec<String> = names.map(str::to_owned).filter(|name| name != "help").collect();
    assert!(names.len() > 8 && names.contains(&"run".to_owned()), "{names:?}");
    names
}

#[test]
fn each_shell_completes_every_command_and_its_options() {
    for (shell, begins) in [("bash", "_coherd()"), ("zsh", "#compdef coherd"), ("fish", "# Print an optspec")] {
        let script = stdout(&run(&["--config", "/no/such.yaml", "completions", shell]));
        assert!(script.starts_with(begins), "{shell}: {}", script.lines().next().unwrap());
        for command in commands() {
            assert!(script.contains(&command), "{shell} does not know {command}");
        }
        for part in ["token", "json", "config"] {
            assert!(script.contains(part), "{shell} does not know --{part}");
        }
    }
    assert_eq!(run(&["completions", "tcsh"]).status.code(), Some(2));
}

#[test]
fn bash_completes_from_the_script() {
    let folder = tempfile::tempdir().unwrap();
    let script = folder.path().join("coherd.bash");
    std::fs::write(&script, run(&["completions", "bash"]).stdout).unwrap();
    let ask = format!(
        ". {}; COMP_WORDS=(coherd sta); COMP_CWORD=1; _coherd coherd sta coherd; echo ${{COMPREPLY[*]}}",
        script.display()
    );
    let answer = Command::new("bash").args(["-c", &ask]).output().unwrap();
    assert_eq!(stdout(&answer), "status\n");
}

#[test]
fn the_manual_has_a_page_for_every_command_and_one_for_the_configuration() {
    let folder = tempfile::tempdir().unwrap();
    let pages = folder.path().join("new/man");
    stdout(&run(&["man", &pages.display().to_string()]));
    let page = |name: &str| std::fs::read_to_string(pages.join(name)).unwrap_or_else(|error| panic!("{name}: {error}"));
    let all = page("coherd.1").replace('\\', "");
    for command in commands() {
        let text = page(&format!("coherd-{command}.1"));
        assert!(text.contains(".SH SYNOPSIS"), "{command}: {text}");
        assert!(all.contains(&format!("coherd-{command}(1)")), "coherd.1 does not name {command}");
    }
    assert!(!pages.join("coherd-man.1").exists() && !pages.join("coherd-help.1").exists());
    let configuration = page("coherd.yaml.5");
    assert!(configuration.contains("targets.NAME.url_file") && configuration.contains("postgresql://"));
    if !has("man") {
        println!("skipped: no man here, which would read the pages");
        return;
    }
    for file in std::fs::read_dir(&pages).unwrap().flatten() {
        let mut man = Command::new("man");
        man.args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8"])
            .arg(file.path())
            .env("MANROFFSEQ", "")
            .env("MANWIDTH", "80");
        let read = man.output().unwrap();
        assert!(read.status.success() && read.stderr.is_empty(), "{file:?}: {}", String::from_utf8_lossy(&read.stderr));
    }
}

#[test]
fn pages_that_cannot_be_written_are_a_failure_that_names_the_folder() {
    let refused = run(&["man", "/proc/nowhere"]);
    let text = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(1));
    assert!(text.contains("making the folder /proc/nowhere"), "{text}");
}

/// Whether a program is installed.
pub fn has(program: &str) -> bool {
    Command::new("sh").args(["-c", &format!("command -v {program}")]).output().is_ok_and(|found| found.status.success())
}

#[test]
fn under_the_journal_the_last_words_are_errors() {
    use std::os::unix::fs::MetadataExt;
    let folder = tempfile::tempdir().unwrap();
    let log = std::fs::File::create(folder.path().join("log")).unwrap();
    let its = log.metadata().unwrap();
    let wrong = folder.path().join("c.yaml");
    std::fs::write(&wrong, "sources: {}\non_gap: flsh\n").unwrap();
    let mut command = Command::new(coherd());
    command.args(["run", "--config"]).arg(&wrong).env("JOURNAL_STREAM", format!("{}:{}", its.dev(), its.ino()));
    assert_eq!(command.stderr(log).status().unwrap().code(), Some(78));
    let text = std::fs::read_to_string(folder.path().join("log")).unwrap();
    assert!(text.lines().count() > 1 && text.lines().all(|line| line.starts_with("<3>")), "{text}");
    // Shells whose stderr is something else inherit the variable.
    let mut command = Command::new(coherd());
    command.args(["run", "--config"]).arg(&wrong).env("JOURNAL_STREAM", format!("{}:{}", its.dev(), its.ino()));
    let elsewhere = command.output().unwrap();
    assert!(!String::from_utf8_lossy(&elsewhere.stderr).contains("<3>"));
}
