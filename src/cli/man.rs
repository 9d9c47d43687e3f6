//! `coherd man`: writes the manual from the command line's help and the configuration's fields.

use std::fmt::Write as _;
use std::path::PathBuf;

use anyhow::Context as _;
use clap::Command;

use super::Failure;
use crate::config::DEFAULT_PATH;
use crate::config::schema::{Entry, Shape, entries};

/// The example at the end of coherd.yaml(5).
const MINIMAL: &str = include_str!("../../config/minimal.yaml");

/// `coherd man`
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The folder that the pages are written to
    folder: PathBuf,
}

/// Writes `coherd.1`, `coherd-check.1` and so on, and `coherd.yaml.5`.
pub fn run(args: &Args, command: Command) -> Result<(), Failure> {
    let folder = args.folder.display();
    std::fs::create_dir_all(&args.folder).with_context(|| format!("making the folder {folder}"))?;
    let command = command.disable_help_subcommand(true);
    clap_mangen::generate_to(command, &args.folder).with_context(|| format!("writing the pages to {folder}"))?;
    let page = args.folder.join("coherd.yaml.5");
    std::fs::write(&page, configuration()).with_context(|| format!("writing {}", page.display()))?;
    Ok(())
}

/// Renders coherd.yaml(5) in the macros of man(7).
fn configuration() -> String {
    let mut page = format!(
        ".TH coherd.yaml 5 \"\" \"coherd {}\"\n.SH NAME\ncoherd.yaml \\- configuration of coherd\n.SH DESCRIPTION\n",
        env!("CARGO_PKG_VERSION")
    );
    paragraph(
        &mut page,
        &format!(
            "coherd reads one YAML file, {DEFAULT_PATH}, or the one that --config or COHERD_CONFIG names. Below are its \
             keys: NAME stands for the name of a target, [] for an entry of a list. Text may hold ${{VAR}} or \
             ${{VAR:-default}} from the environment. Durations and sizes are a whole number and a unit (30s, 10GiB). \
             Unknown and duplicate keys are errors; coherd check names all of them."
        ),
    );
    for entry in entries() {
        if !entry.path.contains('.') {
            let _ = writeln!(page, ".SH {}", escaped(&entry.path).to_uppercase());
        }
        if matches!(entry.shape, Shape::Fields(_)) {
            paragraph(&mut page, &entry.about);
        } else {
            let _ = writeln!(page, ".TP\n\\fB{}\\fR ({})", escaped(&entry.path), kind(&entry));
            paragraph(&mut page, &entry.about);
            let _ = writeln!(page, ".br\nExample: \\fI{}\\fR", escaped(&entry.example));
        }
    }
    let _ = write!(page, ".SH EXAMPLE\n.nf\n{}.fi\n.SH SEE ALSO\n.BR coherd (1)\n", escaped(MINIMAL));
    page
}

fn kind(entry: &Entry) -> String {
    let kind = match &entry.shape {
        Shape::Text => "text".to_owned(),
        Shape::Switch => "true or false".to_owned(),
        Shape::Number => "a whole number".to_owned(),
        Shape::Words(words) => words.join(", "),
        Shape::List(_) => "a list".to_owned(),
        Shape::Any => "any value".to_owned(),
        Shape::Map(_) | Shape::Fields(_) => "a mapping".to_owned(),
    };
    if entry.required { format!("{kind}; required") } else { kind }
}

fn paragraph(page: &mut String, text: &str) {
    let _ = writeln!(page, "{}", escaped(text));
}

/// Escapes text for roff. A line must not begin like a request, and a bare `-` becomes a hyphen that does not work when
/// pasted into a shell.
fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\e").replace('-', "\\-");
    let lines =
        text.split('\n').map(|line| if line.starts_with(['.', '\'']) { format!("\\&{line}") } else { line.to_owned() });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_is_taken_for_a_request() {
        assert_eq!(escaped(".TH x\n'y\na-b \\fB"), "\\&.TH x\n\\&'y\na\\-b \\efB");
    }

    #[test]
    fn the_page_names_every_key() {
        let page = configuration();
        for entry in entries() {
            assert!(
                page.contains(&escaped(&entry.path)) || page.contains(&entry.path.to_uppercase()),
                "{}",
                entry.path
            );
        }
    }
}
