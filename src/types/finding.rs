//! What a check found, and what fixes it.

mod code;

use std::fmt;

pub use code::{CODES, Code};

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Nothing is wrong; useful to know.
    Note,
    /// coherd works, but not as well as it could.
    Warning,
    /// The question could not be answered, which does not mean that all is well.
    Unknown,
    /// coherd refuses to run like this, or could not do what it is asked to do.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Note => "note",
            Severity::Warning => "warning",
            Severity::Unknown => "could not check",
            Severity::Error => "error",
        })
    }
}

/// One problem, with its remedy.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// The kind of finding, one of [`CODES`]; for programs and for docs/check.md.
    pub code: Code,
    /// How bad it is.
    pub severity: Severity,
    /// The object concerned: `rules[2] public.users`, `source`, `target cache`.
    pub subject: String,
    /// What was found and why it matters. Never holds a cell value or a credential.
    pub message: String,
    /// SQL statements or shell commands that fix it, in order. A line that begins with `--` (between statements) or `#`
    /// (between commands) describes what no statement or command can do.
    pub remedy: Vec<String>,
    /// Whether changes are missing from the stream, so that no reader of the stream can know of them.
    #[serde(skip)]
    pub hides_changes: bool,
}

impl Finding {
    /// An error.
    pub fn error(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding {
            code,
            severity: Severity::Error,
            subject: subject.into(),
            message: message.into(),
            remedy: Vec::new(),
            hides_changes: false,
        }
    }

    /// A warning.
    pub fn warning(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { severity: Severity::Warning, ..Finding::error(code, subject, message) }
    }

    /// A note.
    pub fn note(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { severity: Severity::Note, ..Finding::error(code, subject, message) }
    }

    /// A question that could not be answered.
    pub fn unknown(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { severity: Severity::Unknown, ..Finding::error(code, subject, message) }
    }

    /// An error because of which changes are missing from the stream.
    pub fn hiding(code: Code, subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { hides_changes: true, ..Finding::error(code, subject, message) }
    }

    /// Adds a statement or command that fixes it.
    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Self {
        self.remedy.push(remedy.into());
        self
    }

    /// Adds several statements or commands.
    #[must_use]
    pub fn remedies(mut self, remedy: impl IntoIterator<Item = String>) -> Self {
        self.remedy.extend(remedy);
        self
    }
}

/// `text` quoted as one shell word, for remedies.
pub fn shell_word(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] {}: {}", self.severity, self.code, self.subject, self.message)?;
        for line in &self.remedy {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}
