//! The faults of a configuration, each with its position in the file.

use std::fmt;
use std::path::PathBuf;

/// A position in the file. Both numbers count from 1; 0 means unknown.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Place {
    /// Line.
    pub line: u64,
    /// Column, in characters.
    pub column: u64,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// Where it is in the file.
    pub place: Place,
    /// The field, e.g. `targets.cache.url`; empty for the file as a whole.
    pub field: String,
    /// What was found and what to write instead. Holds no credential.
    pub reason: String,
}

impl Fault {
    pub(super) fn new(place: Place, field: impl Into<String>, reason: impl Into<String>) -> Fault {
        Fault { place, field: field.into(), reason: reason.into() }
    }
}

/// An invalid configuration: every fault that was found, one per line, as `file:line:column: field: reason`.
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
