//! The errors of a source: their kind, what was tried, what came back and what to do about it.

use std::error::Error;
use std::fmt;

use crate::types::lsn::Lsn;

/// An error of the source. Its text has everything that a person needs: what was tried, the cause and the remedy. It
/// holds no cell value and no credential.
#[derive(Debug)]
pub struct SourceError {
    kind: ErrorKind,
    what: String,
    cause: Option<Box<dyn Error + Send + Sync>>,
    remedy: Option<String>,
}

/// Kinds of error, distinguished by what coherd does next; see [`ErrorKind::policy`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ErrorKind {
    /// The connection failed or ended; trying again may help.
    Lost,
    /// Another process streams from the slot (55006); it may go away.
    Busy,
    /// Changes are missing for good (42704, 55000, a skipped publication).
    Gap,
    /// Somebody has to change something first: password, privilege, configuration.
    Refused,
    /// The server is a pooler such as pgbouncer, through which the log cannot be followed.
    Pooler,
    /// Writers would wait for the stream (`synchronous`); somebody has to change the setting first.
    Synchronous,
    /// The server sent something that the protocol does not allow.
    Protocol,
    /// The server cannot decode its log. Trying again may help, or fail for ever.
    NotDecodable {
        /// The position of the change, if the server reports it.
        at: Option<Lsn>,
    },
}

/// How coherd reacts to an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Policy {
    /// When the daemon tries again.
    pub retry: Retry,
    /// The session with the server is over.
    pub ends_session: bool,
    /// Another attempt makes no sense until a person changes something: a first start ends with the error, `coherd
    /// check` says "error" and not "could not check", and coherd tries no other host of a list.
    pub needs_person: bool,
}

/// When the daemon tries again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retry {
    /// After a pause that grows with each failure.
    WithBackoff,
    /// Every few seconds: a person has to act first.
    Slowly,
    /// As often as a hot standby checks whether the slot is free.
    WhenFree,
    /// A few times within the time allowed for decoding.
    WithinDecodingTimeout,
}

impl ErrorKind {
    /// How coherd reacts to an error of this kind.
    pub const fn policy(self) -> Policy {
        let (retry, ends_session, needs_person) = match self {
            ErrorKind::Lost | ErrorKind::Protocol => (Retry::WithBackoff, true, false),
            ErrorKind::Busy => (Retry::WhenFree, false, false),
            ErrorKind::Gap => (Retry::WithBackoff, false, false),
            ErrorKind::Refused | ErrorKind::Pooler => (Retry::Slowly, false, true),
            // A reload of the server is enough, so coherd tries again soon.
            ErrorKind::Synchronous => (Retry::WithBackoff, false, true),
            ErrorKind::NotDecodable { .. } => (Retry::WithinDecodingTimeout, false, false),
        };
        Policy { retry, ends_session, needs_person }
    }
}

impl SourceError {
    /// `what` says what was tried and how it failed.
    pub fn new(kind: ErrorKind, what: impl Into<String>) -> SourceError {
        SourceError { kind, what: what.into(), cause: None, remedy: None }
    }

    /// [`ErrorKind::Lost`].
    pub fn lost(what: impl Into<String>) -> SourceError {
        SourceError::new(ErrorKind::Lost, what)
    }

    /// [`ErrorKind::Gap`].
    pub fn gap(what: impl Into<String>) -> SourceError {
        SourceError::new(ErrorKind::Gap, what)
    }

    /// [`ErrorKind::Refused`].
    pub fn refused(what: impl Into<String>) -> SourceError {
        SourceError::new(ErrorKind::Refused, what)
    }

    /// [`ErrorKind::Protocol`].
    pub fn protocol(what: impl Into<String>) -> SourceError {
        SourceError::new(ErrorKind::Protocol, what)
    }

    /// The same error with its cause, whose text is appended.
    #[must_use]
    pub fn caused_by(self, cause: impl Into<Box<dyn Error + Send + Sync>>) -> SourceError {
        SourceError { cause: Some(cause.into()), ..self }
    }

    /// The same error, with what to do about it: a sentence, or a statement that can be pasted.
    #[must_use]
    pub fn remedy(self, remedy: impl Into<String>) -> SourceError {
        SourceError { remedy: Some(remedy.into()), ..self }
    }

    /// The kind of the error.
    pub const fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// How coherd reacts to the error.
    pub const fn policy(&self) -> Policy {
        self.kind.policy()
    }
}

impl fmt::Display for SourceError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = self.what.clone();
        if let Some(cause) = &self.cause {
            text = format!("{text}: {cause}");
        }
        let Some(remedy) = &self.remedy else { return f.write_str(&text) };
        // The cause may end with a remedy of its own: a sentence, or a statement.
        let end = if text.ends_with(['.', ';', '?']) { "" } else { "." };
        write!(f, "{text}{end} {remedy}")
    }
}

/// The text includes the cause's text, so the chain continues below the cause.
impl Error for SourceError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.cause.as_ref().and_then(|cause| cause.source())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_tells_what_was_tried_the_cause_and_the_remedy_and_keeps_its_kind() {
        let io = std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        let error = SourceError::lost("cannot be reached").caused_by(io).remedy("Is Postgres running there?");
        let error = SourceError::new(error.kind(), "could not look at the slot").caused_by(error);
        assert_eq!(
            error.to_string(),
            "could not look at the slot: cannot be reached: connection refused. Is Postgres running there?"
        );
        let error = error.remedy("coherd retries");
        assert!(error.to_string().ends_with("running there? coherd retries"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Lost);
        let below = error.cause.as_ref().and_then(|cause| cause.downcast_ref::<SourceError>());
        let io = below.and_then(|below| below.cause.as_ref()).and_then(|below| below.downcast_ref::<std::io::Error>());
        assert!(io.is_some(), "the chain is whole");
    }

    #[test]
    fn each_kind_has_its_policy() {
        for (kind, retry, ends_session, needs_person) in [
            (ErrorKind::Lost, Retry::WithBackoff, true, false),
            (ErrorKind::Busy, Retry::WhenFree, false, false),
            (ErrorKind::Gap, Retry::WithBackoff, false, false),
            (ErrorKind::Refused, Retry::Slowly, false, true),
            (ErrorKind::Pooler, Retry::Slowly, false, true),
            (ErrorKind::Synchronous, Retry::WithBackoff, false, true),
            (ErrorKind::Protocol, Retry::WithBackoff, true, false),
            (ErrorKind::NotDecodable { at: None }, Retry::WithinDecodingTimeout, false, false),
        ] {
            assert_eq!(kind.policy(), Policy { retry, ends_session, needs_person }, "{kind:?}");
        }
    }
}
