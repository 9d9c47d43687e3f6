//! What a check found, and what to do about it.

use std::fmt;

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// coherd works, but not as well as it could.
    Warning,
    /// The question could not be answered; which is not "fine".
    Unknown,
    /// coherd refuses to run like this.
    Error,
}

impl fmt::Display for Severity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Severity::Warning => "warning",
            Severity::Unknown => "could not check",
            Severity::Error => "error",
        })
    }
}

/// One thing that stands in the way, with its mending.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Finding {
    /// How bad it is.
    pub severity: Severity,
    /// What it is about: `rules[2] public.users`, `source`, `target cache`.
    pub subject: String,
    /// What was seen and why it matters. Never holds a cell value or a credential.
    pub message: String,
    /// Exact SQL statements or shell commands that mend it, in order.
    pub remedy: Vec<String>,
    /// Changes are kept from the stream, so that nobody who follows it can know of them.
    #[serde(skip)]
    pub hides_changes: bool,
}

impl Finding {
    /// An error.
    pub fn error(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding {
            severity: Severity::Error,
            subject: subject.into(),
            message: message.into(),
            remedy: Vec::new(),
            hides_changes: false,
        }
    }

    /// A warning.
    pub fn warning(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { severity: Severity::Warning, ..Finding::error(subject, message) }
    }

    /// A question without an answer.
    pub fn unknown(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { severity: Severity::Unknown, ..Finding::error(subject, message) }
    }

    /// An error that keeps changes from the stream.
    pub fn hiding(subject: impl Into<String>, message: impl Into<String>) -> Self {
        Finding { hides_changes: true, ..Finding::error(subject, message) }
    }

    /// Adds a statement or command that mends it.
    #[must_use]
    pub fn mend(mut self, remedy: impl Into<String>) -> Self {
        self.remedy.push(remedy.into());
        self
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}: {}", self.severity, self.subject, self.message)?;
        for line in &self.remedy {
            write!(f, "\n    {line}")?;
        }
        Ok(())
    }
}
