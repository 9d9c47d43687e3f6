//! What is wrong with a configuration, and where.

use std::fmt;
use std::path::PathBuf;

/// A position in the file, both from 1; 0 where it is not known.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// One thing that is wrong.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it stands.
    pub place: Place,
    /// The field, e.g. `targets.cache.url`; empty for the file itself.
    pub field: String,
    /// What was got and what to write. Holds no credential.
    pub reason: String,
}

impl Fault {
    pub(super) fn new(place: Place, field: impl Into<String>, reason: impl Into<String>) -> Fault {
        Fault { place, field: field.into(), reason: reason.into() }
    }
}

/// A configuration that cannot be used: every fault that was found, one a line, as `file:line:column: field: reason`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConfigError {
    /// The file.
    pub file: PathBuf,
    /// At least one.
    pub faults: Vec<Fault>,
}

impl std::error::Error for ConfigError {}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, fault) in self.faults.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{}", self.file.display())?;
            if fault.place.line > 0 {
                write!(f, ":{}:{}", fault.place.line, fault.place.column)?;
            }
            f.write_str(": ")?;
            if !fault.field.is_empty() {
                write!(f, "{}: ", fault.field)?;
            }
            f.write_str(&fault.reason)?;
        }
        Ok(())
    }
}
