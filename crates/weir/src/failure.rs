//! How a command fails: an exit code that scripts can rely on, what went wrong, and what to do next.

use std::fmt;
use std::process::ExitCode;

use serde_json::json;
use weir_client::{Error, Kind};

/// Exit codes; 0 is success.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It did not work.
    Failed = 1,
    /// The command line, the configuration or the input makes no sense.
    Usage = 2,
    /// The producer, or the owner of the node, does not allow it (any more).
    Refused = 3,
    /// The node could not be reached, or not for long enough.
    Unreachable = 4,
}

/// A command's failure.
#[derive(Debug)]
pub(crate) struct Failure {
    /// What the process ends with.
    pub(crate) exit: Exit,
    message: String,
    /// What to do next, as a sentence; may be empty.
    next: String,
    /// The node's stable name for it; may be empty.
    code: String,
}

impl Failure {
    /// Something went wrong.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(Exit::Failed, message)
    }

    /// The user said something that makes no sense.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self::new(Exit::Usage, message)
    }

    /// With this exit code.
    pub(crate) fn new(exit: Exit, message: impl Into<String>) -> Self {
        Self { exit, message: message.into(), next: String::new(), code: String::new() }
    }

    /// Adds what to do next.
    pub(crate) fn next(mut self, next: impl Into<String>) -> Self {
        self.next = next.into();
        self
    }

    /// Prints it on stderr and gives the process its exit code.
    pub(crate) fn report(&self, as_json: bool) -> ExitCode {
        if as_json {
            let mut error = json!({"exit": self.exit as u8, "message": self.message});
            for (name, value) in [("code", &self.code), ("next", &self.next)] {
                if !value.is_empty() {
                    error[name] = value.as_str().into();
                }
            }
            eprintln!("{}", json!({ "error": error }));
        } else {
            eprintln!("weir: {self}");
        }
        ExitCode::from(self.exit as u8)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        if !self.next.is_empty() {
            write!(f, "\n  {}", self.next)?;
        }
        Ok(())
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let exit = match error.kind() {
            Kind::Invalid => Exit::Usage,
            Kind::Denied | Kind::Closed => Exit::Refused,
            Kind::Unavailable => Exit::Unreachable,
            Kind::NotFound | Kind::Conflict | Kind::Exhausted | Kind::Corrupt | Kind::Internal => {
                Exit::Failed
            }
        };
        Self { exit, message: error.to_string(), next: next_step(&error).into(), code: error.code().into() }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::failed(error.to_string())
    }
}

/// What helps most often. The node's own detail comes before this and is more precise.
fn next_step(error: &Error) -> &'static str {
    match (error.code(), error.kind()) {
        ("credential-required" | "bad-credential", _) => {
            "Give a token with --token or WEIR_TOKEN; who runs the node makes one with `weir keys token create`."
        }
        ("unknown-stream", _) => "`weir find ''` lists the streams you may see.",
        ("already-exists", _) => {
            "`weir stream show NAME` prints it; `weir stream create --replace` changes it."
        }
        ("outcome-unknown", _) => "Run the same command again: what was stored is not stored twice.",
        ("disk-full", _) => {
            "The node's disk is full: free space there, or shorten the retention of its streams."
        }
        (_, Kind::Unavailable) => {
            "Is the node running? `weir serve` starts one; --node or WEIR_NODE says where it is."
        }
        (_, Kind::Denied) => "The node's owner decides who may do this: ask for a token or a subscription.",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_follow_the_kind_of_error() {
        for (kind, exit) in [
            (Kind::Invalid, 2),
            (Kind::NotFound, 1),
            (Kind::Denied, 3),
            (Kind::Closed, 3),
            (Kind::Unavailable, 4),
            (Kind::Conflict, 1),
        ] {
            assert_eq!(Failure::from(Error::new(kind, "x")).exit as u8, exit);
        }
    }
}
