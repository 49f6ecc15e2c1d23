//! The node's state: streams, subscriptions and tokens.

use std::fmt;
use std::str::FromStr;

use weir_event::flow::{History, Malformed, Position, StreamName, Time};
use weir_log::{Settings, StreamId};

use super::access::Role;
use super::descriptor::Descriptor;

/// A stream as decided; immutable, replaced as a whole when its descriptor changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Stream {
    /// What the log knows it by.
    pub id: StreamId,
    /// What everyone else knows it by.
    pub name: StreamName,
    /// What it says of itself.
    pub descriptor: Descriptor,
    /// The history it began with; the log knows the current one.
    pub history: History,
    /// When it was created.
    pub created: Time,
    /// The decision that last changed it: its version, and the ETag.
    pub revision: Position,
}

impl Stream {
    /// What the log has to know of it.
    #[must_use]
    pub fn settings(&self) -> Settings {
        Settings {
            durability: self.descriptor.durability,
            dedupe: self.descriptor.dedupe,
            retention: self.descriptor.retention,
            control: self.name.is_reserved(),
        }
    }
}

/// An API token as decided. Its secret lies elsewhere, hashed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Token {
    /// Its number.
    pub id: TokenId,
    /// What it lets its holder do.
    pub role: Role,
    /// For which streams.
    pub streams: Pattern,
    /// Which organization holds it; `None`: the owner's own.
    pub organization: Option<Box<str>>,
    /// When it was created.
    pub created: Time,
    /// When it ends.
    pub expires: Option<Time>,
}

/// A token's number: random; sixteen lower-case hex digits as text. Knowing it opens nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TokenId(pub u64);

impl fmt::Display for TokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl FromStr for TokenId {
    type Err = Malformed;

    fn from_str(text: &str) -> Result<Self, Malformed> {
        text.parse::<History>().map(|same_text| Self(same_text.0))
    }
}

/// Which streams a token is for: a name in which `*` stands for one token and a final `>` for all the rest.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pattern(Box<str>);

impl Pattern {
    /// Every stream.
    #[must_use]
    pub fn all() -> Self {
        Self(">".into())
    }

    /// The pattern as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether the stream is one of them.
    #[must_use]
    pub fn covers(&self, name: &StreamName) -> bool {
        let mut name = name.as_str().split('.');
        let mut pattern = self.0.split('.');
        loop {
            match (pattern.next(), name.next()) {
                (Some(">"), Some(_)) | (None, None) => return true,
                (Some("*"), Some(_)) => {}
                (Some(wanted), Some(token)) if wanted == token => {}
                _ => return false,
            }
        }
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Pattern {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let body = match text.strip_suffix(".>") {
            Some(body) => body,
            None if text == ">" => return Ok(Self::all()),
            None => text,
        };
        let stars_replaced: Vec<&str> =
            body.split('.').map(|token| if token == "*" { "x" } else { token }).collect();
        match stars_replaced.join(".").parse::<StreamName>() {
            Ok(_) if text.len() <= StreamName::BYTES_MAX => Ok(Self(text.into())),
            _ => Err("must be a stream's name, in which * stands for one token and a final > for the rest"
                .to_owned()),
        }
    }
}

/// The fold of all decisions. Plain data: no clock, no randomness, no I/O.
#[derive(Clone, Debug, Default)]
pub struct State {}
